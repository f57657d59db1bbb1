"""Which bound on the drop of critical recall: the paired bootstrap of `evaluation.safety`, or an exact test?

    python benchmarks/recall_bounds.py --json FILE

Only two counts matter: critical positives that the baseline alone finds (lost), and that the candidate alone finds
(found). So nothing is simulated: the chance of each pair of counts is summed over those that a method calls `safe` at a
limit of 0.03, at a true drop just beyond it (at most 5 % are wanted), at half of it and at 0.

- bootstrap: the Bayesian bootstrap with an unseen loss, as `evaluation.bootstrap` draws it.
- score: Tango's score bound (Statistics in Medicine 1998), asymptotic.
- exact: the same score, its critical value taken over all rates of `found` so that the level holds (Chan and Zhang,
  Biometrics 1999).
- conditional: Clopper and Pearson's limit of the share of the lost among the differing comments, as in McNemar's exact
  test, times that of the share of differing comments, each at half of the error.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy import stats
from scipy.special import gammaln, xlogy

from evaluation.bootstrap import Pairs
from pipeline.thresholds import FloatArray

LIMIT, CONFIDENCE = 0.03, 0.95
SUPPORTS = (20, 50, 200, 1000)
DROPS = {"just beyond": LIMIT + 1e-4, "half of the limit": LIMIT / 2, "nothing lost": 0.0}
FOUND_RATES = (0.0, 0.01, 0.03, 0.1, 0.16)
"""0.16 is that of models of recall 0.8 that err independently."""
Counts = NDArray[np.int64]
Rule = Callable[[Counts, Counts, int], NDArray[np.bool_]]


def bootstrap(lost: Counts, found: Counts, support: int, rounds: int = 2000) -> NDArray[np.bool_]:
    """Whether each pair of counts, shapes [M], is `safe` by the project's own bound."""
    positives, baseline, candidate = (np.array(column)[:, None] for column in ([1, 1, 1], [1, 0, 1], [0, 1, 1]))
    safe = np.empty(len(lost), dtype=bool)
    for row, counts in enumerate(np.stack([lost, found, support - lost - found], axis=1)):
        pairs = Pairs.of_patterns(positives, baseline, candidate, counts, critical=0)
        safe[row] = pairs.upper_bounds(CONFIDENCE, rounds, seed=row)[2] <= LIMIT
    return safe


def score(lost: Counts, found: Counts, support: int) -> NDArray[np.bool_]:
    """Whether Tango's score bound of each pair of counts is within the limit."""
    return score_statistic(lost, found, support) <= -stats.norm.ppf(CONFIDENCE)


def exact(lost: Counts, found: Counts, support: int) -> NDArray[np.bool_]:
    """Whether the exact unconditional test of each pair of counts rejects a drop beyond the limit."""
    return score_statistic(lost, found, support) <= exact_critical_value(support) + 1e-12


def conditional(lost: Counts, found: Counts, support: int) -> NDArray[np.bool_]:
    """Whether the conditional bound of each pair of counts is within the limit."""
    differing, half = lost + found, (1 - CONFIDENCE) / 2
    share = np.where(found > 0, stats.beta.ppf(1 - half, lost + 1, np.maximum(found, 1)), 1.0)
    same = np.maximum(support - differing, 1)
    upper = np.where(differing < support, stats.beta.ppf(1 - half, differing + 1, same), 1.0)
    lower = np.where(differing > 0, stats.beta.ppf(half, np.maximum(differing, 1), support - differing + 1), 0.0)
    net = 2 * share - 1
    return np.asarray(net * np.where(net > 0, upper, lower) <= LIMIT)


def score_statistic(lost: Counts, found: Counts, support: int) -> FloatArray:
    """Drop beyond the limit over its standard error at the limit, with `found` at its restricted best rate."""
    linear = (2 * support - lost + found) * LIMIT - lost - found
    root = np.sqrt(np.maximum(linear**2 + 8 * support * found * LIMIT * (1 - LIMIT), 0))
    rate = (root - linear) / (4 * support)
    deviation = np.sqrt(support * (2 * rate + LIMIT * (1 - LIMIT)))
    return np.asarray((lost - found - support * LIMIT) / deviation)


def exact_critical_value(support: int) -> float:
    """The highest critical value of the score at which no rate of `found` makes `safe` wrong in over 5 %."""
    lost, found = every_pair(support)
    statistic = score_statistic(lost, found, support)
    order = np.argsort(statistic, kind="stable")
    ordered = statistic[order]
    last_of_ties = np.append(np.flatnonzero(np.diff(ordered) > 1e-12), len(ordered) - 1)
    critical = np.inf
    for rate in np.append(0.0, np.geomspace(1e-4, 0.25, 60)):
        reached = chances(lost, found, support, DROPS["just beyond"], rate)[order].cumsum()[last_of_ties]
        allowed = last_of_ties[reached <= 1 - CONFIDENCE]
        critical = min(critical, float(ordered[allowed[-1]]) if len(allowed) else -np.inf)
    return critical


def every_pair(support: int) -> tuple[Counts, Counts]:
    """Lost and found counts that sum to at most `support`; beyond 0.55 of a large one they have no weight."""
    lost, found = np.meshgrid(np.arange(support + 1), np.arange(support + 1), indexing="ij")
    kept = lost + found <= min(support, max(60, round(0.55 * support)))
    return lost[kept], found[kept]


def chances(lost: Counts, found: Counts, support: int, drop: float, found_rate: float) -> FloatArray:
    """Chance of each pair of counts, shape [M], when `found_rate + drop` of the positives are lost on average."""
    same, lost_rate = support - lost - found, found_rate + drop
    ways = gammaln(support + 1) - gammaln(lost + 1) - gammaln(found + 1) - gammaln(same + 1)
    logs = xlogy(lost, lost_rate) + xlogy(found, found_rate) + xlogy(same, 1 - lost_rate - found_rate)
    return np.asarray(np.exp(ways + logs))


RULES: dict[str, Rule] = {"bootstrap": bootstrap, "score": score, "exact": exact, "conditional": conditional}


def main() -> None:
    """Print the share of `safe` of each method."""
    arguments = parsed()
    figures: list[dict[str, Any]] = []
    for support in arguments.supports:
        for truth, drop in DROPS.items():
            figures += [compare(support, truth, drop, rate) for rate in FOUND_RATES]
    table = Table("positives", "truth", "found", *RULES, title="Share of `safe`, %")
    for row in figures:
        shares = [f"{100 * row[name]:.2f}" for name in RULES]
        table.add_row(str(row["support"]), row["truth"], f"{row['found_rate']:.2f}", *shares)
    Console(width=110).print(table)
    for support in arguments.supports:
        started = time.perf_counter()
        exact_critical_value(support)
        print(f"one exact test at {support} positives: {time.perf_counter() - started:.2f} s")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1), encoding="utf-8")


def compare(support: int, truth: str, drop: float, found_rate: float) -> dict[str, Any]:
    """The share of `safe` of each method; pairs of counts that together weigh below 0.1 % are left out."""
    lost, found = every_pair(support)
    weights = chances(lost, found, support, drop, found_rate)
    heaviest = np.argsort(weights)[::-1]
    kept = heaviest[: int(np.searchsorted(weights[heaviest].cumsum(), 0.999)) + 1]
    kept = kept[lost[kept] - found[kept] <= LIMIT * support]  # a drop beyond the limit is unsafe
    lost, found, weights = lost[kept], found[kept], weights[kept]
    shares = {name: float(weights @ rule(lost, found, support)) for name, rule in RULES.items()}
    return {"support": support, "truth": truth, "drop": drop, "found_rate": found_rate, **shares}


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--supports", type=int, nargs="+", default=list(SUPPORTS))
    parser.add_argument("--json", type=Path, help="write the figures here too")
    return parser.parse_args()


if __name__ == "__main__":
    main()
