"""From a model artifact to `CompressionStageMetrics` and its safety against the teacher.

Predictions and latency are stages of their own: a model that was measured once on this kind of machine is not measured
again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from evaluation.environment import machine
from evaluation.measuring import LatencyConfig, PredictConfig, SplitName, measure_speed, predict_split
from evaluation.metrics import classification_metrics
from evaluation.safety import SafetyLimits, SafetyResult, check_safety_thresholds
from evaluation.shape import TIMING, shape_of
from evaluation.stage_metrics import SCALAR_FIELDS, CompressionStageMetrics
from evaluation.tradeoff import compute_safe_compression_score, compute_tradeoff_score
from pipeline.artifact import Artifact, Notes
from pipeline.cache import BeingBuilt, Store
from pipeline.data import Split, load_data
from pipeline.runtime import sigmoid
from pipeline.thresholds import best_label_thresholds, hold_recall_threshold


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

    def evaluate_model(self, model: Artifact, stage: str, speed: Notes | None = None) -> CompressionStageMetrics:
        """Every field: quality on validation, size of the files, latency beside the teacher, which may be given."""
        size = self.size(model)
        speed = self.speed(model) if speed is None else speed
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

    def speed(self, model: Artifact, session: Literal["search", "quiet"] = "search", wait: bool = True) -> Notes:
        """Latency, throughput, memory and what they are bound to, once a session and machine.

        While a search runs, models of one shape are equally fast (`evaluation/shape.py`), and one of them is timed; in
        the quiet session each is. The speed-up over eager PyTorch is the model's over the teacher by the teacher's own.

        Without `wait`, what comes back says too which `TIMING` it is of, and that alone while another process times it.
        """
        here = machine(self.latency.threads)
        protocol = self.latency.model_copy(update={"machine": here, "session": session})
        shared = session == "search" and model.key != self.teacher.key
        counts_as = {model.key: shape_of(model.path)} if shared else {}
        inputs = self.data, model, self.teacher
        try:
            timed = self.store.run(measure_speed, protocol, *inputs, counts_as=counts_as, wait=wait or not shared)
        except BeingBuilt as other:
            return {TIMING: other.key}
        figures = {**timed.notes, "timed_model": timed.manifest["parents"][0]} | ({} if wait else {TIMING: timed.key})
        if model.key == self.teacher.key:
            return figures
        over_eager = self.speed(self.teacher, session)["speedup_vs_eager"]
        return {**figures, "speedup_vs_eager": figures["speedup_factor"] * over_eager}

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
