"""From a model artifact to `CompressionStageMetrics` and its safety against the teacher.

Predictions and latency are stages of their own: a model that was measured once on this kind of machine is not measured
again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from evaluation.environment import machine
from evaluation.latency import (
    clock,
    measure_latency,
    node_slot,
    panel,
    single_requests,
    throughput,
)
from evaluation.memory import peak_memory_mb
from evaluation.metrics import classification_metrics
from evaluation.safety import SafetyLimits, SafetyResult, check_safety_thresholds
from evaluation.shape import shape_of
from evaluation.size import measure_size
from evaluation.speedup import paired_speedup, summarise
from evaluation.stage_metrics import SCALAR_FIELDS, CompressionStageMetrics
from evaluation.tradeoff import compute_safe_compression_score, compute_tradeoff_score
from evaluation.usual import name_of, remember, usual_times
from pipeline.artifact import Artifact, Notes, stage
from pipeline.cache import Store
from pipeline.config import Config
from pipeline.data import Split, load_data
from pipeline.runtime import Classifier, EagerClassifier, load_classifier, load_deployment, sigmoid
from pipeline.thresholds import best_label_thresholds, hold_recall_threshold

MEMORY_COMMENTS = 64
SEEDS = {"search": 0, "quiet": 1}
"""Of the comments drawn and the orders: the second session does not repeat the first."""
SplitName = Literal["validation", "test"]


class PredictConfig(Config):
    """Which split is answered."""

    split: SplitName = "validation"


class LatencyConfig(Config):
    """The measuring protocol, and the machine that its figures hold for."""

    seconds: float = Field(1.0, gt=0.0, le=600.0)
    """Shortest time of the alternating rounds, in seconds."""
    requests: int = Field(100, ge=20, le=1_000_000)
    """Fewest timed requests to each model in the rounds that are kept."""
    threads: int = Field(1, ge=1, le=1024)
    """Threads of every model."""
    machine: str = ""
    """One line: processor, instruction set, threads and versions of the runtimes."""
    session: Literal["search", "quiet"] = "search"
    """`search` measures while other trials compute; `quiet` when nothing else of the study runs."""


@stage("predictions", version=1)
def predict_split(config: PredictConfig, folder: Path, data: Artifact, model: Artifact) -> Notes:
    """Logits of the deployed model on one split, and the size of its files.

    A model whose logits depend on the batch answers one comment at a time, as a single request would be answered.
    """
    split: Split = getattr(load_data(data.path), config.split)
    batch = 32 if load_deployment(model.path).batch_invariant else 1
    np.save(folder / "logits.npy", load_classifier(model.path).predict_logits(split.texts, batch))
    return {"size": measure_size(model.path)}


@stage("latency", version=5)
def measure_speed(config: LatencyConfig, folder: Path, data: Artifact, model: Artifact, teacher: Artifact) -> Notes:
    """Latency of the model beside the teacher's in the same runtime; of the teacher itself, beside eager PyTorch."""
    return latency_figures(config, model.path, teacher.path, load_data(data.path).validation.texts)


def latency_figures(config: LatencyConfig, model: Path, teacher: Path, texts: Sequence[str]) -> dict[str, Any]:
    """All latency, throughput and memory fields of `CompressionStageMetrics`, alone on the machine's measuring slot.

    And what they are bound to: `machine`, `rounds_repeated`, and `waited_percent`, the share of the rounds' time in
    which the scheduler gave the core to others.
    """
    import torch

    seed, now, here = SEEDS[config.session], clock(config.threads), machine(config.threads)
    threads = torch.get_num_threads()
    with node_slot():
        torch.set_num_threads(config.threads)
        try:
            candidate = load_classifier(model, config.threads)
            # Eager PyTorch would take most of the time of every measurement: it is asked beside the teacher alone.
            baseline, other = "candidate", "eager"
            models: dict[str, Classifier] = {"candidate": candidate}
            if model != teacher:
                baseline = other = "baseline"
            models[other] = EagerClassifier(teacher) if other == "eager" else load_classifier(teacher, config.threads)
            least: dict[str, Any] = {"requests": config.requests, "now": now, "seed": seed}
            asked = name_of(teacher, here, panel(texts))
            rounds = measure_latency(
                models, texts, baseline=baseline, seconds=config.seconds, usual_ms=usual_times(asked), **least
            )
            remember(asked, rounds.usual_ms, changed=rounds.changed)
            requests = single_requests(candidate, texts, seconds=config.seconds / 4, **least)
            per_second = throughput(candidate, texts, seconds=config.seconds / 2, threads=config.threads, seed=seed)
            memory = peak_memory_mb(model, texts[:MEMORY_COMMENTS], config.threads)
        finally:
            torch.set_num_threads(threads)
    times = rounds.times_ms
    low = high = speedup = 1.0  # of the teacher over itself, by definition
    if "baseline" in times:
        speedup, low, high = paired_speedup(times["baseline"], times["candidate"])
    return {
        **summarise(requests),
        "throughput_samples_per_sec": per_second,
        "peak_memory_mb": memory,
        "speedup_factor": speedup,
        "speedup_low": low,
        "speedup_high": high,
        "speedup_vs_eager": paired_speedup(times["eager"], times["candidate"])[0] if "eager" in times else None,
        "machine": here,
        "rounds_repeated": rounds.repeated,
        "waited_percent": 100.0 * rounds.waited,
    }


@dataclass(frozen=True)
class CompressionEvaluator:
    """Measures models of one study by the same rules: thresholds tuned alike, safety and speed against one teacher."""

    store: Store
    data: Artifact
    teacher: Artifact
    limits: SafetyLimits
    priorities: Mapping[str, float] | None = None
    tradeoff_weights: tuple[float, float, float] = (0.5, 0.3, 0.2)
    latency: LatencyConfig = field(default_factory=LatencyConfig)
    bootstrap_rounds: int = 2000
    hold_critical_recall: bool = False
    """Lower the critical label's threshold, on validation, until the teacher's recall is held."""
    plan_positives: bool = True
    """Work out `positives_needed` where a verdict is inconclusive, which takes longer than the verdict."""

    @cached_property
    def splits(self) -> dict[str, Split]:
        """Validation and test comments with their labels."""
        comments = load_data(self.data.path)
        return {"validation": comments.validation, "test": comments.test}

    @cached_property
    def label_columns(self) -> tuple[str, ...]:
        """Names of the labels, in the order of the logits."""
        return tuple(load_data(self.data.path).label_columns)

    def probabilities(self, model: Artifact, split: SplitName) -> NDArray[np.float64]:
        """[comments, labels] of the deployed model on a split."""
        answered = self.store.run(predict_split, PredictConfig(split=split), self.data, model)
        return sigmoid(np.load(answered.path / "logits.npy", allow_pickle=False))

    def thresholds(self, model: Artifact) -> NDArray[np.float64]:
        """[labels], tuned on validation alike for every model; the critical one lowered where its recall is to hold."""
        labels, probabilities = self.splits["validation"].labels, self.probabilities(model, "validation")
        tuned = best_label_thresholds(labels, probabilities)
        if self.hold_critical_recall and model.key != self.teacher.key:
            critical = self.label_columns.index(self.limits.critical_label)
            actual = labels[:, critical] > 0
            if actual.any():
                teacher = self.probabilities(self.teacher, "validation")[:, critical]
                recall = float((teacher >= self.thresholds(self.teacher)[critical])[actual].mean())
                held = hold_recall_threshold(labels[:, critical], probabilities[:, critical], recall)
                # Never above the tuned one: recall beyond the teacher's is not given away.
                tuned[critical] = min(tuned[critical], held.threshold)
        return tuned

    def classification(self, model: Artifact, split: SplitName) -> dict[str, Any]:
        """The classification fields of `CompressionStageMetrics` on a split."""
        return classification_metrics(
            self.splits[split].labels,
            self.probabilities(model, split),
            self.thresholds(model),
            self.label_columns,
            self.limits.critical_label,
            self.priorities,
        )

    def safety(self, model: Artifact, split: SplitName) -> SafetyResult:
        """The model's drops against the teacher on a split, with bounds and verdict."""
        baseline, candidate = (
            (self.probabilities(one, split) >= self.thresholds(one)).astype(np.int8) for one in (self.teacher, model)
        )
        return check_safety_thresholds(
            self.splits[split].labels,
            baseline,
            candidate,
            self.label_columns,
            self.limits,
            rounds=self.bootstrap_rounds,
            same_model=model.key == self.teacher.key,
            plan=self.plan_positives,
        )

    def evaluate_model(self, model: Artifact, stage: str) -> CompressionStageMetrics:
        """Every field: quality on validation, size of the files, latency beside the teacher."""
        size = self.size(model)
        speed = self.speed(model)
        quality = self.classification(model, "validation")
        quality.pop("undefined", None)
        return CompressionStageMetrics(
            stage=stage,
            timestamp=datetime.now(UTC).isoformat(timespec="seconds"),
            size_compression_ratio=self.size(self.teacher)["model_size_mb"] / size["model_size_mb"],
            **size,
            **quality,
            **{name: value for name, value in speed.items() if name in SCALAR_FIELDS},
        )

    def speed(self, model: Artifact, session: Literal["search", "quiet"] = "search") -> Notes:
        """Latency, throughput, memory and what they are bound to (`measured_on`), once a session and machine.

        While a search runs, models of one shape are equally fast (`evaluation/shape.py`), and one of them is timed; in
        the quiet session each is. The speed-up over eager PyTorch is the model's over the teacher by the teacher's own.
        """
        here = machine(self.latency.threads)
        protocol = self.latency.model_copy(update={"machine": here, "session": session})
        shared = session == "search" and model.key != self.teacher.key
        counts_as = {model.key: shape_of(model.path)} if shared else {}
        timed = self.store.run(measure_speed, protocol, self.data, model, self.teacher, counts_as=counts_as)
        figures = {**timed.notes, "timed_model": timed.manifest["parents"][0]}
        if model.key == self.teacher.key:
            return figures
        over_eager = self.speed(self.teacher, session)["speedup_vs_eager"]
        return {**figures, "speedup_vs_eager": figures["speedup_factor"] * over_eager}

    def measured_on(self, model: Artifact) -> Notes:
        """What the figures of `speed` are bound to, as columns: `machine`, `timed_model`, and how quiet it was."""
        return {name: value for name, value in self.speed(model).items() if name not in SCALAR_FIELDS}

    def size(self, model: Artifact) -> dict[str, Any]:
        """The size fields of `CompressionStageMetrics`."""
        size: dict[str, Any] = self.store.run(predict_split, PredictConfig(), self.data, model).notes["size"]
        return size

    def quality(self, model: Artifact, split: SplitName) -> dict[str, Any]:
        """`classification` with its nested fields flattened to columns."""
        fields = self.classification(model, split)
        fields.pop("undefined", None)
        flat = CompressionStageMetrics(stage="", **fields).to_flat_dict()
        return {name: value for name, value in flat.items() if name.split(".")[0] in fields}

    def scores(
        self, f1_macro: float | None, critical_f1: float | None, compression: float | None, speedup: float | None
    ) -> dict[str, float | None]:
        """Trade-off and safe-compression score against the teacher."""
        teacher = self.classification(self.teacher, "validation")
        return {
            "tradeoff_score": compute_tradeoff_score(
                f1_macro, teacher["f1_macro"], compression, speedup, self.tradeoff_weights
            ),
            "safe_compression_score": compute_safe_compression_score(compression, critical_f1, teacher["critical_f1"]),
        }
