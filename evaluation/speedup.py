"""From the times of rounds to a speed-up with its interval: pure.

Disturbance only ever adds time (Chen and Revels 2016, Robust benchmarking in noisy environments, arXiv:1608.04295), so
the time of a comment is the lowest tenth of its rounds, and of its requests within a round the lower quartile. Rounds
are as many for every model: a least time of all requests would favour the model that is asked more often.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

DEPARTURE_MADS, DEPARTURE = 4.0, math.log(1.03)
"""A round departs beyond this many median absolute deviations, and never for less than 3 %."""
SLOWER_THAN_USUAL = math.log(1.15)
"""A round is not usual beyond this: busy neighbours within the machine add less, guests of the same host 24 to 70 %."""
RESOLUTION = (0.01, 0.006)
"""What the rounds of one measurement cannot tell, relative: a part for any pair, and one for each power of e by which
the models differ. With every core busy, processor and caches are slower than at rest, and more so for large models:
ratios of 1.4, 15 and 370 moved by 0, 2 and 3 % (benchmarks/latency_repeatability.py)."""
RESAMPLES = 200
OF_ROUNDS, OF_REQUESTS = 0.1, 0.25
"""Quantiles that stand for a comment's time."""


def usual_rounds(baseline_ms: NDArray[np.float64], usual_ms: NDArray[np.float64] | None) -> NDArray[np.bool_]:
    """In which rounds the baseline was not slower than it is known to be, [rounds]; all of them if nothing is known.

    Args:
        baseline_ms: [rounds, comments].
        usual_ms: [comments], or None.
    """
    if usual_ms is None:
        return np.ones(len(baseline_ms), dtype=np.bool_)
    usual: NDArray[np.bool_] = np.median(np.log(baseline_ms / usual_ms), axis=1) <= SLOWER_THAN_USUAL
    return usual


def steady_rounds(baseline_ms: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which rounds are typical, [rounds]: at least half of them, and all of none, one or two.

    A round's departure is the median over its comments of the log ratio to the comment's median over all rounds. It is
    compared with the median of the departures in median absolute deviations (Leys et al. 2013, Journal of Experimental
    Social Psychology 49:764), which half of the rounds may spoil without moving it far.

    Args:
        baseline_ms: [rounds, comments], the same comments in every round.
    """
    if not len(baseline_ms):
        return np.zeros(0, dtype=np.bool_)
    logs = np.log(baseline_ms)
    departures = np.median(logs - np.median(logs, axis=0), axis=1)
    distance = np.abs(departures - np.median(departures))
    steady: NDArray[np.bool_] = distance <= max(DEPARTURE_MADS * float(np.median(distance)), DEPARTURE)
    return steady


def paired_speedup(
    baseline_ms: NDArray[np.float64],
    candidate_ms: NDArray[np.float64],
    confidence: float = 0.95,
    resolution: tuple[float, float] = RESOLUTION,
) -> tuple[float, float, float]:
    """How many times faster the candidate answers, with its interval.

    The geometric mean over comments of the ratio of both models' times on that comment. The rounds are
    resampled whole, each with its baseline and its candidate, since neighbouring requests share the machine's state
    (cluster bootstrap: Davison and Hinkley 1997, section 3.8); with few rounds the percentiles would be too narrow, so
    the bootstrap's standard error is widened by Student's t of the number of rounds, and `resolution` is added.

    Args:
        baseline_ms: [rounds, repeats, comments], above 0.
        candidate_ms: [rounds, repeats, comments], the same rounds and comments; repeats of its own.
        confidence: of the two-sided interval.
        resolution: of the protocol, see `RESOLUTION`; both at least 0.

    Returns:
        Speed-up, lower and upper bound; of a single round, whose noise nobody knows, 0 and infinity.
    """
    baseline, candidate = (np.quantile(np.log(times), OF_REQUESTS, axis=1) for times in (baseline_ms, candidate_ms))
    rounds = len(baseline)
    point = float(_log_ratios(baseline[None], candidate[None])[0])
    if rounds < 2:
        return math.exp(point), 0.0, math.inf
    draws = np.random.default_rng(0).integers(rounds, size=(RESAMPLES, rounds))
    error = float(_log_ratios(baseline[draws], candidate[draws]).std()) * math.sqrt(rounds / (rounds - 1))
    of_student = float(stdtrit(rounds - 1, (1.0 + confidence) / 2.0))
    margin = of_student * error + resolution[0] + resolution[1] * abs(point)
    return math.exp(point), math.exp(point - margin), math.exp(point + margin)


def summarise(times_ms: NDArray[np.float64]) -> dict[str, float]:
    """Mean and percentiles of single requests, in milliseconds."""
    p50, p95, p99 = np.percentile(times_ms, [50, 95, 99])
    return {
        "latency_mean_ms": float(times_ms.mean()),
        "latency_p50_ms": float(p50),
        "latency_p95_ms": float(p95),
        "latency_p99_ms": float(p99),
    }


def _log_ratios(baseline: NDArray[np.float64], candidate: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of logs [resamples, rounds, comments] the mean over comments of the differences of lowest tenths, [resamples]."""
    means: NDArray[np.float64] = (
        np.quantile(baseline, OF_ROUNDS, axis=1) - np.quantile(candidate, OF_ROUNDS, axis=1)
    ).mean(axis=-1)
    return means
