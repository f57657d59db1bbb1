"""The sections of a study that are none of a stage's: search, safety, measuring, resources and tracking."""

from __future__ import annotations

import re
from typing import Literal, Self

from pydantic import ConfigDict, Field, model_validator

from pipeline.config import Config

_SECRET = re.compile(r"[?&;][^=&;]*(key|pass|pwd|secret|token)[^=&;]*=", re.IGNORECASE)
"""A part of a URI's query that should not be seen."""


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
    """No further trial is suggested when the search, which begins when teacher and floor are trained, has taken so many
    seconds, those of an earlier run that is resumed included; null for no limit of time."""
    patience: int | None = Field(None, ge=1)
    """Trials without growth of the hypervolume (of a single objective: of how far the best model is beyond the teacher)
    after which none starts any more; null to run all trials."""
    min_growth_percent: float = Field(1.0, ge=0.0, le=100.0)
    """Growth over `patience` trials that counts as progress, in percent."""
    stop_margin: float = Field(0.05, ge=0.0, le=1.0)
    """How far beyond a safety limit a student's drop may be before its trial stops ahead of pruning."""
    points: tuple[dict[str, str | int | float], ...] = ()
    """Settings of the first trials, as `distil.method: none`; all of them run, the sampler suggests the rest."""
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
    node_minutes: float = Field(0.0, ge=0.0, le=1440.0)
    """How long to wait at the start for a node on which a trial fits, in a cluster whose nodes come when they are asked
    for; 0 for not at all."""


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
