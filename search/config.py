"""The schema of a study: its sections with their settings, units and limits, and what follows from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

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
from search.sections import MeasureConfig, ResourcesConfig, SafetyConfig, SearchConfig, TrackingConfig
from search.wording import problem, suggestion

STAGES: Mapping[str, type[StageConfig]] = {"distil": DistilConfig, "prune": PruneConfig, "quantize": QuantizeConfig}
"""The stages whose settings may be searched, in the order of the chain."""

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
    write_models: bool = True
    """Whether the models that can be recommended are written at the end to `models/`, each as a folder to deploy;
    `python -m pipeline.export` writes any one later."""
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
