"""Trade-off scores: one number for accuracy, size and speed together."""

import math
from collections.abc import Sequence
from typing import Final

FULL_COMPRESSION: Final = 10.0
"""A model this many times smaller earns the whole compression term."""
FULL_SPEEDUP: Final = 5.0
"""A model this many times faster earns the whole speed term."""


def compute_tradeoff_score(
    f1: float | None,
    baseline_f1: float | None,
    compression: float | None,
    speedup: float | None,
    weights: Sequence[float] = (0.5, 0.3, 0.2),
) -> float | None:
    """w0·retention + w1·min(compression/10, 1) + w2·min(speedup/5, 1), with retention = f1 / baseline_f1.

    Args:
        f1: the candidate's macro F1, in [0, 1].
        baseline_f1: the teacher's macro F1, in [0, 1].
        compression: teacher's size / candidate's size, > 0.
        speedup: teacher's latency / candidate's latency, > 0.
        weights: of retention, compression and speed, each ≥ 0.

    Returns:
        the score; above the sum of the weights only where the candidate is better than the teacher. None when an input
        is None or NaN, or the baseline is 0.

    Raises:
        ValueError: the weights are not three finite numbers ≥ 0.
    """
    if len(weights) != 3 or not all(math.isfinite(weight) and weight >= 0 for weight in weights):
        raise ValueError(f"weights={tuple(weights)}: give three finite numbers ≥ 0 (retention, compression, speed)")
    retention, smaller, faster = _retention(f1, baseline_f1), _defined(compression), _defined(speedup)
    if retention is None or smaller is None or faster is None:
        return None
    terms = (retention, min(smaller / FULL_COMPRESSION, 1.0), min(faster / FULL_SPEEDUP, 1.0))
    return sum(weight * term for weight, term in zip(weights, terms, strict=True))


def compute_safe_compression_score(
    compression: float | None, critical_f1: float | None, baseline_critical_f1: float | None
) -> float | None:
    """compression × retention², with retention = critical_f1 / baseline_critical_f1.

    Args:
        compression: teacher's size / candidate's size, > 0.
        critical_f1: the candidate's F1 on the critical label, in [0, 1].
        baseline_critical_f1: the teacher's.

    Returns:
        the score, ≥ 0; None when an input is None or NaN, or the baseline is 0.
    """
    retention, smaller = _retention(critical_f1, baseline_critical_f1), _defined(compression)
    return None if retention is None or smaller is None else smaller * retention * retention


def _retention(value: float | None, baseline: float | None) -> float | None:
    kept, whole = _defined(value), _defined(baseline)
    return None if kept is None or whole is None or whole <= 0 else kept / whole


def _defined(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else float(value)
