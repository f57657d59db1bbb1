"""Decision thresholds and the macro F1 that chooses them: numpy only, used by training and by evaluation.

A probability at or above its threshold is a positive prediction. A class without positives and without positive
predictions counts as F1 = 0, which is scikit-learn's `zero_division=0`.
"""

from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

FloatArray: TypeAlias = npt.NDArray[np.float64]

SHARED_GRID: Final[FloatArray] = np.arange(6, 13) / 20
"""0.30 to 0.60 in steps of 0.05."""
LABEL_GRID: Final[FloatArray] = np.arange(1, 20) / 20
"""0.05 to 0.95 in steps of 0.05."""


def as_classes(indicators: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The class columns whose F1 is averaged: one per label, or both classes of a single binary label.

    Args:
        indicators: 0/1 or boolean, shape [n, L].

    Returns:
        shape [n, L] for L > 1; [n, 2] for L == 1, the positive class first.
    """
    if indicators.shape[1] > 1:
        return indicators
    return np.concatenate([indicators, 1 - indicators.astype(np.int64)], axis=1)


def f1_from_counts(
    true_positives: npt.NDArray[Any], predicted: npt.NDArray[Any], positives: npt.NDArray[Any]
) -> FloatArray:
    """F1 = 2·TP / (predicted + positives), elementwise over arrays of one shape; 0 where both are 0.

    Args:
        true_positives: counts or weights, any shape.
        predicted: comments predicted positive, same shape.
        positives: comments that are positive, same shape.
    """
    denominator = np.asarray(predicted + positives, dtype=np.float64)
    return np.divide(2.0 * true_positives, denominator, out=np.zeros_like(denominator), where=denominator > 0)


def f1_macro(labels: npt.NDArray[Any], predictions: npt.NDArray[Any]) -> float:
    """Mean over labels of the positive class's F1; with one label, the mean of both classes' F1.

    Args:
        labels: 0/1, shape [n, L].
        predictions: 0/1, shape [n, L].

    Returns:
        macro F1 in [0, 1].

    Raises:
        ValueError: the shapes differ, are not two-dimensional, or are empty.
    """
    _require_same_shape(labels, predictions, "predictions")
    actual, predicted = as_classes(labels) > 0, as_classes(predictions) > 0
    f1 = f1_from_counts((actual & predicted).sum(axis=0), predicted.sum(axis=0), actual.sum(axis=0))
    return float(f1.mean())


def best_shared_threshold(
    labels: npt.NDArray[Any], probabilities: npt.NDArray[Any], grid: FloatArray = SHARED_GRID
) -> tuple[float, float]:
    """The one threshold for all labels that maximises macro F1; ties as in `best_label_thresholds`.

    Args:
        labels: 0/1, shape [n, L].
        probabilities: in [0, 1], shape [n, L].
        grid: the thresholds to try, ascending, shape [G].

    Returns:
        the threshold and its macro F1.

    Raises:
        ValueError: shapes that do not fit, NaN probabilities, or a grid that is empty or not ascending.
    """
    scores = _class_f1(labels, probabilities, grid).mean(axis=1, keepdims=True)
    best = int(_nearest_to_half(scores, grid)[0])
    return float(grid[best]), float(scores[best, 0])


def best_label_thresholds(
    labels: npt.NDArray[Any], probabilities: npt.NDArray[Any], grid: FloatArray = LABEL_GRID
) -> FloatArray:
    """Each label's threshold that maximises its F1, and so macro F1; for one label the mean of both classes' F1.

    Ties go to the grid value nearest 0.5, then to the lower one.

    Args:
        labels: 0/1, shape [n, L].
        probabilities: in [0, 1], shape [n, L].
        grid: the thresholds to try, ascending, shape [G].

    Returns:
        thresholds, shape [L].

    Raises:
        ValueError: shapes that do not fit, NaN probabilities, or a grid that is empty or not ascending.
    """
    scores = _class_f1(labels, probabilities, grid)
    if labels.shape[1] == 1:
        scores = scores.mean(axis=1, keepdims=True)
    return np.asarray(grid, dtype=np.float64)[_nearest_to_half(scores, grid)]


class HeldThreshold(NamedTuple):
    """A threshold, and whether it does what it was asked for."""

    threshold: float
    held: bool
    """False: even the lowest threshold of the grid, which this one is, does not reach the recall."""


def hold_recall_threshold(
    labels: npt.NDArray[Any], probabilities: npt.NDArray[Any], recall: float, grid: FloatArray = LABEL_GRID
) -> HeldThreshold:
    """The highest threshold of one label at which its recall is at least `recall`; the lowest one where none does.

    Choose it on validation: there the recall then holds by choice, so that only the test split shows what it is worth.

    Args:
        labels: 0/1, at least one positive, shape [n].
        probabilities: in [0, 1], shape [n].
        recall: what to hold, such as the teacher's at its own threshold, in [0, 1].
        grid: the thresholds to try, ascending, shape [G].

    Returns:
        the threshold and whether it holds the recall.

    Raises:
        ValueError: shapes that do not fit, NaN probabilities, no positive, a recall outside [0, 1], or a grid that is
            empty or not ascending.
    """
    actual, column = labels[..., None] > 0, probabilities[..., None]
    _validate(actual, column, grid)
    if not 0 <= recall <= 1:
        raise ValueError(f"recall={recall}: give a number in [0, 1]")
    if not actual.any():
        raise ValueError("labels: no positive, so that no threshold has a recall; choose it on other comments")
    # Not a comparison of quotients: 7/10 and 0.7 are to be the same recall.
    holds = _counts_above(column, actual, grid)[:, 0] >= recall * actual.sum() - 1e-9
    chosen = int(holds.sum()) - 1  # hits only fall along the grid
    return HeldThreshold(float(grid[max(chosen, 0)]), chosen >= 0)


def threshold_cost(
    labels: npt.NDArray[Any], probabilities: npt.NDArray[Any], before: float, after: float
) -> dict[str, dict[str, float | None]]:
    """What moving one label's threshold costs: its threshold, precision, recall and F1 `before` and `after`.

    Args:
        labels: 0/1, shape [n].
        probabilities: in [0, 1], shape [n].
        before: the threshold that was, such as the one of the best F1.
        after: the threshold that is, such as the one of `hold_recall_threshold`.

    Returns:
        {"before": {"threshold", "precision", "recall", "f1"}, "after": {…}}; a precision without predictions and a
        recall without positives are None.

    Raises:
        ValueError: shapes that do not fit, or NaN probabilities.
    """
    actual, column = labels[..., None] > 0, probabilities[..., None]
    _validate(actual, column, SHARED_GRID)
    return {"before": _at_threshold(actual, column, before), "after": _at_threshold(actual, column, after)}


def _at_threshold(
    actual: npt.NDArray[np.bool_], probabilities: npt.NDArray[Any], threshold: float
) -> dict[str, float | None]:
    predicted = probabilities.astype(np.float64) >= threshold
    hits, alarms, positives = int((actual & predicted).sum()), int(predicted.sum()), int(actual.sum())
    return {
        "threshold": float(threshold),
        "precision": hits / alarms if alarms else None,
        "recall": hits / positives if positives else None,
        "f1": 2 * hits / (alarms + positives) if alarms + positives else 0.0,
    }


def _class_f1(labels: npt.NDArray[Any], probabilities: npt.NDArray[Any], grid: FloatArray) -> FloatArray:
    """F1 of each class at each threshold, shape [G, C], with C as in `as_classes`."""
    _validate(labels, probabilities, grid)
    actual = labels > 0
    true_positives, predicted = _counts_above(probabilities, actual, grid), _counts_above(probabilities, None, grid)
    positives = np.broadcast_to(actual.sum(axis=0), predicted.shape)
    f1 = f1_from_counts(true_positives, predicted, positives)
    if labels.shape[1] > 1:
        return f1
    n = len(labels)
    true_negatives = n - predicted - positives + true_positives
    return np.concatenate([f1, f1_from_counts(true_negatives, n - predicted, n - positives)], axis=1)


def _counts_above(
    probabilities: npt.NDArray[Any], selected: npt.NDArray[np.bool_] | None, grid: FloatArray
) -> npt.NDArray[np.int64]:
    """How many (selected) comments reach each threshold, shape [G, L], in one pass over the probabilities."""
    label_count = probabilities.shape[1]
    reached = np.searchsorted(grid, probabilities.astype(np.float64), side="right")  # thresholds met, [n, L]
    cells = reached * label_count + np.arange(label_count)
    chosen = cells.ravel() if selected is None else cells[selected]
    histogram = np.bincount(chosen, minlength=(len(grid) + 1) * label_count).reshape(-1, label_count)
    return np.asarray(histogram[::-1].cumsum(axis=0)[::-1][1:], dtype=np.int64)


def _nearest_to_half(scores: FloatArray, grid: FloatArray) -> npt.NDArray[np.intp]:
    """Row of the best score in each column of [G, C]; ties to the grid value nearest 0.5, then the lower."""
    preference = np.lexsort((grid, np.round(np.abs(np.asarray(grid) - 0.5), 9)))
    best = scores >= scores.max(axis=0) - 1e-12
    return np.asarray(preference[best[preference].argmax(axis=0)], dtype=np.intp)


def _validate(labels: npt.NDArray[Any], probabilities: npt.NDArray[Any], grid: FloatArray) -> None:
    _require_same_shape(labels, probabilities, "probabilities")
    if np.isnan(probabilities).any():
        count = int(np.isnan(probabilities).sum())
        raise ValueError(f"probabilities: {count} values are NaN; look for a model that diverged or overflowed")
    if len(grid) == 0 or np.any(np.diff(grid) <= 0):
        raise ValueError(f"grid={list(map(float, grid))}: thresholds must be ascending and at least one; sort them")


def _require_same_shape(labels: npt.NDArray[Any], other: npt.NDArray[Any], name: str) -> None:
    if labels.ndim != 2 or labels.size == 0:
        raise ValueError(f"labels: shape {labels.shape}; give a non-empty array [comments, labels]")
    if other.shape != labels.shape:
        raise ValueError(f"{name}: shape {other.shape} differs from labels {labels.shape}; pass both as [n, L]")
