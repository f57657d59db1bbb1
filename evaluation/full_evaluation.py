"""A whole evaluation from arrays: labels and the probabilities of any models, however they were made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from evaluation.comparison import compare_stages
from evaluation.metrics import classification_metrics, validate_arrays
from evaluation.safety import SafetyLimits, SafetyResult, check_safety_thresholds
from evaluation.stage_metrics import CompressionStageMetrics
from pipeline.thresholds import FloatArray, best_label_thresholds

if TYPE_CHECKING:
    import pandas as pd

VALIDATION, TEST = "validation", "test"


@dataclass(frozen=True, eq=False)
class FullEvaluation:
    """What `run_full_evaluation` found, by split and stage."""

    metrics: dict[str, dict[str, CompressionStageMetrics]]
    """`validation`, and `test` where there were test arrays -> stage -> metrics."""
    safety: dict[str, dict[str, SafetyResult]]
    """The same splits -> stage -> verdict against the baseline."""
    comparison: pd.DataFrame
    """`compare_stages` on validation, with `safety_verdict`, and `test_f1_macro` and `test_safety_verdict`."""
    critical_label: str

    def write(self, folder: Path) -> list[Path]:
        """Write `comparison.csv` and `.tex`, and `metrics_<stage>.csv`, `.json`, `safety_<stage>.json`, into `folder`.

        The files of the test split have `test_` before their name. Returns what was written.
        """
        from evaluation.escape import file_name, unused_name, write_csv, write_json
        from evaluation.metric_files import export_metrics_to_csv, export_metrics_to_json
        from evaluation.tables import generate_latex_table

        folder.mkdir(parents=True, exist_ok=True)
        table, tex = folder / "comparison.csv", folder / "comparison.tex"
        rows = [{str(name): value for name, value in row.items()} for row in self.comparison.to_dict("records")]
        write_csv(table, list(self.comparison.columns), rows)
        tex.write_text(generate_latex_table(self.comparison, caption="Stages compared"), encoding="utf-8")
        written = [table, tex]
        taken: set[str] = set()
        names = {stage: unused_name(file_name(stage), taken) for stage in self.metrics[VALIDATION]}
        for split, stages in self.metrics.items():
            prefix = "" if split == VALIDATION else f"{split}_"
            for stage, metrics in stages.items():
                paths = [folder / f"{prefix}metrics_{names[stage]}.{end}" for end in ("csv", "json")]
                export_metrics_to_csv(metrics, paths[0])
                export_metrics_to_json(metrics, paths[1])
                paths.append(folder / f"{prefix}safety_{names[stage]}.json")
                safety = self.safety[split][stage]
                about = {"stage": stage, "split": split, "critical_label": self.critical_label}
                write_json(paths[2], {**about, **safety.to_flat_dict(), "reason": safety.reason})
                written += paths
        return written


def run_full_evaluation(
    labels: npt.ArrayLike,
    probabilities: Mapping[str, npt.ArrayLike],
    label_names: Sequence[str],
    critical_label: str,
    *,
    test_labels: npt.ArrayLike | None = None,
    test_probabilities: Mapping[str, npt.ArrayLike] | None = None,
    baseline: str | None = None,
    limits: SafetyLimits | None = None,
    priorities: Mapping[str, float] | None = None,
    sizes_mb: Mapping[str, float] | None = None,
    latencies_ms: Mapping[str, float] | None = None,
    weights: Sequence[float] = (0.5, 0.3, 0.2),
    rounds: int = 10_000,
    seed: int = 0,
    folder: Path | str | None = None,
) -> FullEvaluation:
    """Metrics, safety and trade-off of several models on the same comments.

    The thresholds of every model are tuned on the validation arrays in the same way, and used on test as they are.

    >>> from evaluation import run_full_evaluation
    >>> labels = [[1, 0], [0, 1], [1, 1], [0, 0]]
    >>> teacher = [[0.9, 0.2], [0.1, 0.8], [0.7, 0.9], [0.3, 0.1]]
    >>> student = [[0.8, 0.1], [0.2, 0.3], [0.6, 0.7], [0.4, 0.4]]
    >>> result = run_full_evaluation(
    ...     labels,
    ...     {"baseline": teacher, "after_kd": student},
    ...     label_names=["threat", "spam"],
    ...     critical_label="threat",
    ...     sizes_mb={"baseline": 40.0, "after_kd": 8.0},
    ...     latencies_ms={"baseline": 10.0, "after_kd": 4.0},
    ... )
    >>> print(result.comparison[["stage", "f1_macro", "size_compression", "tradeoff_score"]].round(3).to_string())
          stage  f1_macro  size_compression  tradeoff_score
    0  baseline       1.0               1.0            0.57
    1  after_kd       0.9               5.0            0.70
    >>> result.safety["validation"]["after_kd"].safety_verdict
    'unsafe'

    Args:
        labels: of the validation comments, 0/1, shape [n, L].
        probabilities: of the same comments in [0, 1], shape [n, L], by stage; any names, in the order of the results.
        label_names: L different names, in the order of the columns.
        critical_label: the label whose misses matter most, one of `label_names`.
        test_labels: of the test comments, shape [m, L]; with `test_probabilities`, or neither.
        test_probabilities: of the test comments by stage, for the same stages.
        baseline: the stage that the others are compared with; by default `baseline`, else the first.
        limits: of the safety checks; by default those of `SafetyLimits`. Its critical label must be `critical_label`.
        priorities: weight ≥ 0 of each label in `priority_weighted_f1`; a label left out weighs 1.
        sizes_mb: size of the weight files in MB (2²⁰ bytes) by stage, where known.
        latencies_ms: mean latency of one request in ms by stage, where known.
        weights: of retention, compression and speed in the trade-off score.
        rounds: of the safety checks' bootstrap.
        seed: of the bootstrap.
        folder: where to write the tables (see `FullEvaluation.write`); nothing is written by default.

    Raises:
        ValueError: arrays that do not fit or hold values out of range, unknown labels or stages; it names them.
    """
    limits = limits or SafetyLimits(critical_label)
    if limits.critical_label != critical_label:
        raise ValueError(f"critical_label={critical_label!r}: limits have {limits.critical_label!r}; name one label")
    known = {"sizes_mb": sizes_mb or {}, "latencies_ms": latencies_ms or {}}
    first = _validated_stages(probabilities, test_probabilities, baseline, known)
    splits = {VALIDATION: _arrays(labels, probabilities, label_names, "")}
    if test_labels is not None and test_probabilities is not None:
        splits[TEST] = _arrays(test_labels, test_probabilities, label_names, "test_")
    elif test_labels is not None or test_probabilities is not None:
        raise ValueError("test_labels and test_probabilities: one without the other; give both or neither")
    thresholds = {
        stage: best_label_thresholds(splits[VALIDATION][0], values) for stage, values in splits[VALIDATION][1].items()
    }
    metrics: dict[str, dict[str, CompressionStageMetrics]] = {}
    safety: dict[str, dict[str, SafetyResult]] = {}
    for split, (truth, answers) in splits.items():
        metrics[split] = {
            stage: CompressionStageMetrics(
                stage=stage,
                timestamp=datetime.now(UTC).isoformat(timespec="seconds"),
                model_size_mb=known["sizes_mb"].get(stage),
                latency_mean_ms=known["latencies_ms"].get(stage),
                **_classification(truth, values, thresholds[stage], label_names, critical_label, priorities),
            )
            for stage, values in answers.items()
        }
        decisions = {stage: (values >= thresholds[stage]).astype(np.int8) for stage, values in answers.items()}
        safety[split] = {
            stage: check_safety_thresholds(
                truth, decisions[first], own, label_names, limits, rounds=rounds, seed=seed, same_model=stage == first
            )
            for stage, own in decisions.items()
        }
    comparison = _compared(metrics, safety, first, weights)
    result = FullEvaluation(metrics, safety, comparison, critical_label)
    if folder is not None:
        result.write(Path(folder))
    return result


def _compared(
    metrics: dict[str, dict[str, CompressionStageMetrics]],
    safety: dict[str, dict[str, SafetyResult]],
    baseline: str,
    weights: Sequence[float],
) -> pd.DataFrame:
    """The stages of validation, with the verdicts, and what test says of them."""
    table = compare_stages(metrics[VALIDATION], baseline=baseline, weights=weights)
    table["safety_verdict"] = [result.safety_verdict for result in safety[VALIDATION].values()]
    if TEST in metrics:
        table["test_f1_macro"] = [metrics[TEST][stage].f1_macro for stage in metrics[VALIDATION]]
        table["test_safety_verdict"] = [safety[TEST][stage].safety_verdict for stage in metrics[VALIDATION]]
    return table


def _classification(*arguments: Any) -> dict[str, Any]:
    """The fields of `classification_metrics` that `CompressionStageMetrics` has."""
    fields = classification_metrics(*arguments)
    del fields["undefined"]
    return fields


def _arrays(
    labels: npt.ArrayLike, probabilities: Mapping[str, npt.ArrayLike], label_names: Sequence[str], prefix: str
) -> tuple[npt.NDArray[Any], dict[str, FloatArray]]:
    """Labels [n, L] and each stage's probabilities [n, L], checked; an error says whose they are."""
    truth = np.asarray(labels)
    answers: dict[str, FloatArray] = {}
    for stage, values in probabilities.items():
        try:
            answers[stage] = np.asarray(values, dtype=np.float64)
            validate_arrays(truth, answers[stage], label_names)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{prefix}probabilities[{stage!r}] with {prefix}labels: {error}") from error
    return truth, answers


def _validated_stages(
    probabilities: Mapping[str, Any],
    test_probabilities: Mapping[str, Any] | None,
    baseline: str | None,
    known: Mapping[str, Mapping[str, float]],
) -> str:
    """The baseline's name, once all stages fit together."""
    if not probabilities:
        raise ValueError("probabilities: no stage; give at least one")
    listed = ", ".join(probabilities)
    if test_probabilities is not None and set(test_probabilities) != set(probabilities):
        raise ValueError(f"test_probabilities: of {', '.join(test_probabilities)}; give those of {listed}")
    first = baseline or ("baseline" if "baseline" in probabilities else next(iter(probabilities)))
    if first not in probabilities:
        raise ValueError(f"baseline={first!r}: no such stage (has: {listed}); name one")
    for argument, values in known.items():
        for stage, value in values.items():
            if stage not in probabilities:
                raise ValueError(f"{argument}[{stage!r}]: no such stage (has: {listed}); remove or rename it")
            if not 0 < value < float("inf"):
                raise ValueError(f"{argument}[{stage!r}]={value}: give a finite number above 0, or leave it out")
    return first
