"""What a figure measured on a sample of comments can be: intervals for rates and for macro F1."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
"""Of every two-sided interval here."""
AT_ONCE = 2_000_000
"""Weights of comments in memory together."""


def wilson(successes: int, trials: int) -> tuple[float, float] | None:
    """Two-sided 95 % score interval of a rate (Wilson, JASA 1927); None without trials."""
    if not trials:
        return None
    z = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)
    rate = successes / trials
    centre = (rate + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z * ((rate * (1 - rate) / trials + z * z / (4 * trials * trials)) ** 0.5) / (1 + z * z / trials)
    return max(0.0, centre - half), min(1.0, centre + half)


def confusion(labels: NDArray[np.int8], decisions: NDArray[np.int8]) -> NDArray[np.int64]:
    """True negatives, false positives, false negatives, true positives of each label: [labels, 4].

    Args:
        labels: 0 or 1, [comments, labels].
        decisions: the same of what was predicted.
    """
    kinds = 2 * (labels > 0) + (decisions > 0)
    return np.stack([(kinds == kind).sum(axis=0) for kind in range(4)], axis=1)


def macro_f1(labels: NDArray[np.int8], decisions: NDArray[np.int8]) -> float:
    """Mean F1 of the labels' positive classes; with one label, of both classes. A label never met nor said has 0."""
    return float(_macro_f1(labels, decisions, np.ones((1, len(labels))))[0])


def macro_f1_interval(
    labels: NDArray[np.int8], decisions: NDArray[np.int8], rounds: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Two-sided 95 % percentile interval of macro F1 over comments drawn again with replacement (Efron 1979)."""
    generator = np.random.default_rng(seed)
    count = len(labels)
    at_once = max(1, AT_ONCE // max(count, 1))
    drawn = []
    for start in range(0, rounds, at_once):
        some = min(at_once, rounds - start)
        weights = generator.multinomial(count, np.full(count, 1.0 / count), size=some)
        drawn.append(_macro_f1(labels, decisions, weights.astype(np.float64)))
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(np.concatenate(drawn), [tail, 1 - tail])
    return float(low), float(high)


def _macro_f1(
    labels: NDArray[np.int8], decisions: NDArray[np.int8], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Macro F1 under each row of weights [rounds, comments]: [rounds]."""
    if labels.shape[1] == 1:
        labels, decisions = (np.concatenate([part == 0, part != 0], axis=1) for part in (labels, decisions))
    actual, said = (np.asarray(part > 0, dtype=np.float64) for part in (labels, decisions))
    hits, either = weights @ (actual * said), weights @ (actual + said)
    scores: NDArray[np.float64] = (2 * hits / np.where(either > 0, either, 1.0)).mean(axis=1)
    return scores
