"""The schema of a study: its sections with their settings, units and limits, and what follows from them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from pipeline.config import (
    ClassicalConfig,
    Config,
    DataConfig,
    DistilConfig,
    PruneConfig,
    QuantizeConfig,
    StageConfig,
    TeacherConfig,
)
from pipeline.object_store import is_url
from pipeline.storage import copy_folder
from search.wording import problem, suggestion

STAGES: Mapping[str, type[StageConfig]] = {"distil": DistilConfig, "prune": PruneConfig, "quantize": QuantizeConfig}
"""The stages whose settings may be searched, in the order of the chain."""

_SECRET = re.compile(r"[?&;][^=&;]*(key|pass|pwd|secret|token)[^=&;]*=", re.IGNORECASE)
"""A part of a URI's query that should not be seen."""

Weight = Annotated[float, Field(ge=0.0, strict=True, allow_inf_nan=False)]


class Choices(Config):
    """A setting that is searched among listed values."""

    choices: tuple[bool | int | float | str, ...] = Field(min_length=1)
    """The values, all different."""


class Range(Config):
    """A number that is searched between two bounds, both included."""

    low: int | float
    """Smallest value."""
    high: int | float
    """Largest value."""
    step: int | float | None = None
    """Distance of neighbouring values; null for a continuous range, or for 1 with whole numbers."""
    log: bool = False
    """Whether the search is even on a logarithmic scale."""


Setting = bool | int | float | str | None | Choices | Range
"""What a study says of one setting of a stage: a fixed value, or where to search it."""


class SearchConfig(Config):
    """How the space is searched."""

    trials: int = Field(16, ge=1)
    """Trials of the study, those of an earlier run that is resumed included."""
    sampler: Literal["stage_tree", "tpe", "nsgaii", "gp", "random"] = "stage_tree"
    """What suggests the settings: `stage_tree` knows that trials share models, the others are Optuna's."""
    objectives: tuple[
        Literal["f1_macro", "model_size_mb", "latency_ratio", "tradeoff_score", "safe_compression_score"], ...
    ] = Field(("f1_macro", "model_size_mb", "latency_ratio"), min_length=1)
    """What is optimised: any of f1_macro, model_size_mb, latency_ratio; or one of the two scores alone."""
    max_seconds: float | None = Field(None, gt=0.0)
    """No trial starts so many seconds after teacher and floor are trained; null for no limit of time."""
    patience: int | None = Field(None, ge=1)
    """Trials without growth of the hypervolume after which none starts any more; null to run all trials."""
    min_growth_percent: float = Field(1.0, ge=0.0, le=100.0)
    """Growth of the hypervolume over `patience` trials that counts as progress, in percent."""
    stop_margin: float = Field(0.05, ge=0.0, le=1.0)
    """How far beyond a safety limit a student's drop may be before its trial stops ahead of pruning."""
    points: tuple[dict[str, str | int | float], ...] = ()
    """Settings of the first trials, as `distil.method: none`; the sampler suggests what a point leaves out."""
    warm_start: tuple[str, ...] = ()
    """Earlier studies, as a results folder or its `trials.parquet`: what is on their fronts follows the points."""

    @model_validator(mode="after")
    def _objectives_fit(self) -> Self:
        shown = ", ".join(self.objectives)
        if len(set(self.objectives)) < len(self.objectives):
            raise ValueError(f"objectives=[{shown}]: must be different ones; leave the repeated one out")
        for score in ("tradeoff_score", "safe_compression_score"):
            if score in self.objectives and len(self.objectives) > 1:
                raise ValueError(f"objectives=[{shown}]: {score} must stand alone; leave it or the others out")
        return self


class SafetyConfig(Config):
    """Limits on what a compressed model may lose against the teacher."""

    critical_label: str | None = None
    """Label whose misses matter most; null takes `threat`, or the only label there is."""
    max_f1_drop: float = Field(0.05, ge=0.0, le=1.0)
    """Largest drop of macro F1, absolute."""
    max_critical_f1_drop: float = Field(0.03, ge=0.0, le=1.0)
    """Largest drop of the critical label's F1, absolute."""
    max_critical_recall_drop: float = Field(0.03, ge=0.0, le=1.0)
    """Largest drop of the critical label's recall, absolute."""
    confidence: float = Field(0.95, gt=0.5, lt=1.0)
    """Level of the one-sided upper bound of each drop."""
    rounds: int = Field(10_000, ge=100, le=1_000_000)
    """Rounds of the paired bootstrap."""
    hold_critical_recall: bool = False
    """Lower the critical label's threshold, on validation, until the teacher's recall is held; costs precision."""


class MeasureConfig(Config):
    """How long latency is measured; the limits are those of `evaluation.measuring.LatencyConfig`."""

    seconds: float = Field(1.0, gt=0.0, le=600.0)
    """Shortest measurement of one model, in seconds."""
    requests: int = Field(100, ge=20, le=1_000_000)
    """Fewest timed requests of one model."""
    threads: int = Field(1, ge=1, le=1024)
    """Threads of the measured runtime."""


class ResourcesConfig(Config):
    """What a trial gets of the machine; never changes a result, timings apart."""

    cpus_per_trial: float = Field(1.0, gt=0.0)
    """Processor cores of one trial."""
    gpus_per_trial: float = Field(0.0, ge=0.0)
    """GPUs of one trial, fractions allowed."""
    max_concurrent: int | None = Field(None, ge=1)
    """Most trials at a time; null for as many as the resources hold."""
    retries: int = Field(2, ge=0, le=100)
    """How often a trial is run again when its worker or node is lost, or memory, disk or store fail it; 0 for never."""
    stage_minutes: float | None = Field(None, gt=0.0, le=100_000.0)
    """Longest time of one stage and its measuring, waits for other workers apart; then its worker is ended, and the
    trial run again, `retries` times at most. Null for no limit."""
    memory_gb_per_trial: float | None = Field(None, gt=0.0)
    """Memory of one trial in GB of 2**30 bytes: set aside for it by Ray, and a trial that asks for more gets an error
    (on Linux) and is run again, `retries` times at most. Null for no limit."""


class TrackingConfig(Config):
    """Where the study is logged with MLflow; never changes a result."""

    # A URI may hold a password: it must not stand in an error.
    model_config = ConfigDict(hide_input_in_errors=True)

    uri: str | None = Field(None, min_length=1)
    """Tracking server (`https://…`), `sqlite:///FILE`, or `none` for no tracking; null for mlflow.db in results_dir."""
    experiment: str = Field("pareto-compression", min_length=1, max_length=500, pattern=r"\S")
    """MLflow experiment that the study's runs belong to; made if it is not there."""

    @model_validator(mode="after")
    def _usable(self) -> Self:
        uri = self.uri or "none"
        local = uri == "none" or uri.startswith("sqlite:")
        if not local and ("@" in uri or _SECRET.search(uri)):
            raise ValueError(
                "uri: holds a user name, password or token, which study.yaml would keep in plain text; leave it out, "
                "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, in the shell"
            )
        if uri != "none" and not re.fullmatch(r"https?://[^/\s].*|sqlite:///[^?]+", uri):
            raise ValueError(
                f"uri={uri!r}: must be http://HOST:PORT, https://HOST, sqlite:///FILE or none; "
                "for another database, name the `mlflow server` in front of it"
            )
        return self


Preset = Literal[
    "baseline",
    "baseline_kd",
    "baseline_prune",
    "baseline_quant",
    "baseline_kd_prune",
    "baseline_kd_quant",
    "baseline_prune_quant",
    "baseline_kd_prune_quant",
]

_PRESET_WORDS = {"distil": "kd", "prune": "prune", "quantize": "quant"}


class StudyConfig(Config):
    """A whole study; made by `load_study` or `study_from`, which check it and fill in what follows from other keys."""

    model_config = ConfigDict(hide_input_in_errors=True)  # as in `tracking`

    study: str = Field("study", max_length=80, pattern=r"^[A-Za-z0-9](\.?[A-Za-z0-9_-])*\.?$")
    """Name of the study and its folder: up to 80 letters, digits, `.`, `_`, `-`, a letter or digit first, no `..`."""
    seed: int = Field(0, ge=0, le=2**32 - 1)
    """Seed of the sampler, and of every section that names none of its own."""
    preset: Preset = "baseline_kd_prune_quant"
    """The stages of the chain; one that is not named has its method fixed to none."""
    data: DataConfig = DataConfig()
    """Where the comments are, what is predicted, and how they are split."""
    teacher: TeacherConfig = TeacherConfig()
    """The model to be compressed."""
    classical: ClassicalConfig = ClassicalConfig()
    """The floor that every study is compared with."""
    distil: dict[str, Setting] = Field(default_factory=lambda: dict(defaults(DistilConfig)))
    """The student: every setting of `DistilConfig`, fixed or searched."""
    prune: dict[str, Setting] = Field(default_factory=lambda: dict(defaults(PruneConfig)))
    """Pruning: every setting of `PruneConfig`, fixed or searched."""
    quantize: dict[str, Setting] = Field(default_factory=lambda: dict(defaults(QuantizeConfig)))
    """Quantization: every setting of `QuantizeConfig`, fixed or searched."""
    search: SearchConfig = SearchConfig()
    """How the space is searched."""
    safety: SafetyConfig = SafetyConfig()
    """Limits on what a compressed model may lose against the teacher."""
    priorities: dict[str, Weight] = Field(default_factory=dict)
    """Weight of each label in priority_weighted_f1, 0 or more; a label left out weighs 1."""
    tradeoff_weights: tuple[Weight, Weight, Weight] = (0.5, 0.3, 0.2)
    """Weights of retention, compression and speed-up in tradeoff_score, 0 or more."""
    measure: MeasureConfig = MeasureConfig()
    """How long latency is measured."""
    resources: ResourcesConfig = ResourcesConfig()
    """What a trial gets of the machine."""
    tracking: TrackingConfig = TrackingConfig()
    """Where the study is logged with MLflow."""
    results_dir: str = Field("results", min_length=1)
    """Folder with one folder a study."""
    storage: str | None = Field(None, min_length=1)
    """Folder of the artifact store, shared by studies, or s3://BUCKET/PREFIX; null for `.store` in results_dir."""

    @property
    def folder(self) -> Path:
        """Folder with everything the study writes, the store apart."""
        return Path(self.results_dir) / self.study

    @property
    def store_root(self) -> Path:
        """Folder of the artifact store; of an object store, of this node's copy."""
        if self.storage is not None and self.storage_is_remote:
            return copy_folder(self.storage)
        return Path(self.results_dir) / ".store" if self.storage is None else Path(self.storage)

    @property
    def storage_is_remote(self) -> bool:
        """Whether the artifact store is an object store, which every node of a cluster sees."""
        return is_url(self.storage)

    @property
    def store_place(self) -> str:
        """Where `pipeline.storage.open_store` finds the artifact store: its folder or URL."""
        return str(self.storage if self.storage_is_remote else self.store_root)

    @property
    def critical_label(self) -> str:
        """The label whose misses matter most."""
        return find_critical_label(self.safety.critical_label, self.data.label_columns)

    def settings(self, stage: str) -> dict[str, Setting]:
        """Every setting of `distil`, `prune` or `quantize`, by name."""
        settings: dict[str, Setting] = getattr(self, stage)
        return settings


def preset_stages(preset: str) -> list[str]:
    """The stages that a preset names, in the order of the chain."""
    return [stage for stage, word in _PRESET_WORDS.items() if word in preset.split("_")]


def defaults(model: type[StageConfig]) -> dict[str, Any]:
    """Every setting of a stage at its default."""
    return {name: info.default for name, info in model.model_fields.items()}


def find_critical_label(named: str | None, labels: Sequence[str]) -> str:
    """The label named, else `threat` or the only one; raises ValueError if there is no such label or none to prefer."""
    if named is None and ("threat" in labels or len(labels) == 1):
        return "threat" if "threat" in labels else labels[0]
    if named is None:
        what = f"must name the label whose misses matter most: {', '.join(labels)}"
        raise ValueError(problem("safety.critical_label", named, what))
    if named not in labels:
        raise ValueError(problem("safety.critical_label", named, f"no such label{suggestion(named, labels)}"))
    return named


@cache
def exact(number: float) -> Fraction:
    """The number as it is written: steps of 0.1 add up in these, in floats they do not."""
    return Fraction(str(number))
