"""Classification metrics from arrays: the fields of `CompressionStageMetrics` that need only labels and probabilities.

Averages (macro, weighted, micro, priority-weighted) follow scikit-learn with `zero_division=0`: a class for which the
value is undefined enters the average as 0, so that the average is comparable between models. Single values (per label,
critical) that are undefined are None, and `undefined` says why.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.thresholds import FloatArray, as_classes, f1_from_counts

NO_POSITIVES = "no comment has this label"
NO_PREDICTIONS = "no comment is predicted to have this label"
ONE_CLASS = "every comment has the same value of this label"


@dataclass(frozen=True)
class _Counts:
    """Confusion counts per column, each of shape [C]."""

    true_positives: npt.NDArray[np.int64]
    predicted: npt.NDArray[np.int64]
    positives: npt.NDArray[np.int64]

    @classmethod
    def of(cls, labels: npt.NDArray[np.bool_], predictions: npt.NDArray[np.bool_]) -> "_Counts":
        return cls((labels & predictions).sum(axis=0), predictions.sum(axis=0), labels.sum(axis=0))

    @property
    def f1(self) -> FloatArray:
        return f1_from_counts(self.true_positives, self.predicted, self.positives)

    @property
    def precision(self) -> FloatArray:
        return self.true_positives / np.maximum(self.predicted, 1)

    @property
    def recall(self) -> FloatArray:
        return self.true_positives / np.maximum(self.positives, 1)


def classification_metrics(
    labels: npt.NDArray[Any],
    probabilities: npt.NDArray[Any],
    thresholds: npt.ArrayLike,
    label_names: Sequence[str],
    critical_label: str,
    priorities: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Every classification field of `CompressionStageMetrics`.

    With one binary label, macro, weighted and micro averages run over both classes (micro F1 is then the accuracy);
    per-label and critical values are those of the positive class.

    Args:
        labels: 0/1, shape [n, L].
        probabilities: in [0, 1], shape [n, L].
        thresholds: one for all labels, or shape [L]; a probability at or above it is a positive prediction.
        label_names: L different names, in the order of the columns.
        critical_label: the label whose misses matter most, one of `label_names`.
        priorities: weight ≥ 0 of each label in `priority_weighted_f1`, normalised here; a label left out weighs 1.

    Returns:
        the fields by name, all values in [0, 1] or None; `thresholds` and `per_label_*` are dicts by label,
        `confusion_matrices` a dict label -> [[tn, fp], [fn, tp]], and `undefined` a dict field -> reason that explains
        each None (`per_label_f1.<label>` for a value inside a dict).

    Raises:
        ValueError: shapes that do not fit, values out of range or NaN, a label that does not exist, bad weights.
    """
    cutoffs = _validated_thresholds(thresholds, label_names)
    validate_arrays(labels, probabilities, label_names)
    if critical_label not in label_names:
        raise ValueError(f"critical_label={critical_label!r}: no such label (has: {', '.join(label_names)}); name one")
    weights = _normalised_priorities(priorities or {}, label_names)
    actual = labels > 0
    predictions = probabilities.astype(np.float64) >= cutoffs
    undefined: dict[str, str] = {}
    metrics = _averages(actual, predictions)
    metrics["roc_auc"] = _roc_auc_macro(actual, probabilities, undefined)
    metrics |= _per_label(actual, predictions, label_names, undefined)
    metrics["priority_weighted_f1"] = float(weights @ _Counts.of(actual, predictions).f1)
    for name in ("f1", "recall"):
        metrics[f"critical_{name}"] = metrics[f"per_label_{name}"][critical_label]
        if metrics[f"critical_{name}"] is None:
            undefined[f"critical_{name}"] = f"critical label {critical_label!r}: {NO_POSITIVES}"
    metrics["thresholds"] = dict(zip(label_names, cutoffs.tolist(), strict=True))
    metrics["undefined"] = undefined
    return metrics


def _averages(actual: npt.NDArray[np.bool_], predictions: npt.NDArray[np.bool_]) -> dict[str, Any]:
    correct = actual == predictions
    classes = _Counts.of(as_classes(actual) > 0, as_classes(predictions) > 0)
    f1, support = classes.f1, classes.positives
    micro = f1_from_counts(classes.true_positives.sum(), classes.predicted.sum(), support.sum())
    return {
        "accuracy_exact": float(correct.all(axis=1).mean()),
        "accuracy_per_label": float(correct.mean()),
        "hamming": float(1.0 - correct.mean()),
        "f1_macro": float(f1.mean()),
        "f1_weighted": float(f1 @ support / max(int(support.sum()), 1)),
        "f1_micro": float(micro),
        "precision_macro": float(classes.precision.mean()),
        "recall_macro": float(classes.recall.mean()),
    }


def _per_label(
    actual: npt.NDArray[np.bool_],
    predictions: npt.NDArray[np.bool_],
    label_names: Sequence[str],
    undefined: dict[str, str],
) -> dict[str, Any]:
    """The dicts by label; adds a reason to `undefined` for each None."""
    counts = _Counts.of(actual, predictions)

    def named(field: str, values: FloatArray, defined: npt.NDArray[np.bool_], reason: str) -> dict[str, float | None]:
        undefined.update({f"{field}.{name}": reason for name, ok in zip(label_names, defined, strict=True) if not ok})
        return {
            name: float(value) if ok else None for name, value, ok in zip(label_names, values, defined, strict=True)
        }

    present, guessed = counts.positives > 0, counts.predicted > 0
    false_positives = counts.predicted - counts.true_positives
    false_negatives = counts.positives - counts.true_positives
    true_negatives = len(actual) - counts.positives - false_positives
    cells = np.stack([true_negatives, false_positives, false_negatives, counts.true_positives], axis=1)
    return {
        "per_label_f1": named("per_label_f1", counts.f1, present, NO_POSITIVES),
        "per_label_precision": named("per_label_precision", counts.precision, guessed, NO_PREDICTIONS),
        "per_label_recall": named("per_label_recall", counts.recall, present, NO_POSITIVES),
        "per_label_accuracy": dict(zip(label_names, (actual == predictions).mean(axis=0).tolist(), strict=True)),
        "confusion_matrices": dict(zip(label_names, cells.reshape(-1, 2, 2).tolist(), strict=True)),
    }


def _roc_auc_macro(
    actual: npt.NDArray[np.bool_], probabilities: npt.NDArray[Any], undefined: dict[str, str]
) -> float | None:
    """Mean ROC-AUC over the labels that have both classes; None when no label has."""
    areas = [_roc_auc(actual[:, i], probabilities[:, i]) for i in range(actual.shape[1])]
    defined = [area for area in areas if area is not None]
    if not defined:
        undefined["roc_auc"] = f"for each label, {ONE_CLASS}"
        return None
    return float(np.mean(defined))


def _roc_auc(actual: npt.NDArray[np.bool_], scores: npt.NDArray[Any]) -> float | None:
    """Area under the ROC curve of one label [n] by the Mann-Whitney statistic, ties counting half."""
    positives = int(actual.sum())
    negatives = len(actual) - positives
    if positives == 0 or negatives == 0:
        return None
    _, inverse, group_sizes = np.unique(scores, return_inverse=True, return_counts=True)
    mean_ranks = group_sizes.cumsum() - (group_sizes - 1) / 2
    rank_sum = float(mean_ranks[inverse][actual].sum())
    return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)


def _validated_thresholds(thresholds: npt.ArrayLike, label_names: Sequence[str]) -> FloatArray:
    values = np.asarray(thresholds, dtype=np.float64)
    if values.ndim > 1 or (values.ndim == 1 and len(values) != len(label_names)):
        raise ValueError(
            f"thresholds: shape {values.shape} for {len(label_names)} labels; give one number or one a label"
        )
    if not np.all((values >= 0) & (values <= 1)):
        raise ValueError(f"thresholds={values.tolist()}: outside [0, 1] or NaN; choose them on validation data")
    return np.broadcast_to(values, (len(label_names),))


def validate_arrays(labels: npt.NDArray[Any], probabilities: npt.NDArray[Any], label_names: Sequence[str]) -> None:
    """Check that arrays are what metrics can be computed from.

    Args:
        labels: 0/1, shape [n, L].
        probabilities: in [0, 1], shape [n, L].
        label_names: L different names.

    Raises:
        ValueError: they are not; it names the array, a value and the remedy.
    """
    if len(set(label_names)) != len(label_names):
        raise ValueError(f"label_names={list(label_names)}: a name occurs twice; rename one")
    if labels.ndim != 2 or labels.shape[1] != len(label_names) or labels.size == 0:
        raise ValueError(
            f"labels: shape {labels.shape} for {len(label_names)} label names; give a non-empty array [n, L]"
        )
    if probabilities.shape != labels.shape:
        raise ValueError(f"probabilities: shape {probabilities.shape} differs from labels {labels.shape}; align them")
    if not np.isin(labels, (0, 1)).all():
        wrong = labels[~np.isin(labels, (0, 1))].flat[0]
        raise ValueError(f"labels: value {wrong} is neither 0 nor 1; convert the labels first")
    outside = ~((probabilities >= 0) & (probabilities <= 1))
    if outside.any():
        wrong = probabilities[outside].flat[0]
        raise ValueError(
            f"probabilities: {int(outside.sum())} values such as {wrong} are not in [0, 1]; apply the sigmoid"
        )


def _normalised_priorities(priorities: Mapping[str, float], label_names: Sequence[str]) -> FloatArray:
    unknown = [name for name in priorities if name not in label_names]
    if unknown:
        raise ValueError(f"priorities.{unknown[0]}: no such label (has: {', '.join(label_names)}); remove or rename it")
    weights = np.array([priorities.get(name, 1.0) for name in label_names], dtype=np.float64)
    if not np.isfinite(weights).all() or (weights < 0).any() or weights.max() == 0:
        raise ValueError(f"priorities={dict(priorities)}: weights must be finite, ≥ 0 and not all 0; correct them")
    weights /= weights.max()  # so that the sum of large ones does not overflow
    return np.asarray(weights / weights.sum(), dtype=np.float64)
