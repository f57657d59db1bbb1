"""How often is a model called `safe` whose true drop is just beyond a limit, and how often one that is good enough?

    python benchmarks/safety_calibration.py --json FILE

Pairs of models are simulated whose true rates are known; comments are drawn one by one, so that the critical positives
number 20, 50, 200 or 1000 on average. Each verdict is that of `evaluation.safety.judge`, the code behind
`check_safety_thresholds`. The first table gives the share of `safe` where a true drop is 0.0001 beyond its limit and
the others are well within (`all`: every one beyond; with one binary label, critical recall and F1). The second gives
the shares of each verdict where nothing is lost, and where half of each limit is.
Exit status 1 when a share is above 5 % beyond what chance explains over all cells of the table.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy import stats

from evaluation.bootstrap import Pairs
from evaluation.safety import SafetyLimits, judge
from pipeline.thresholds import FloatArray

LIMITS = SafetyLimits("critical")
BEYOND = 1e-4
TARGET = 0.05
SUPPORTS = (20, 50, 200, 1000)
BEYOND_A_LIMIT = ("recall", "critical F1", "macro F1", "all")
WITHIN = ("nothing lost", "half of each limit")
VERDICTS = ("safe", "inconclusive", "unsafe")


@dataclass(frozen=True)
class Models:
    """Two models on three labels, of which one is critical; or on one binary label."""

    name: str = "usual"
    recall: float = 0.8
    """The teacher's recall and precision, of every label."""
    prevalence: float = 0.1
    """Share of comments with the critical label."""
    disagreement: float = 0.3
    """Comments on which only the worse model is right, as a share of those among models that err independently."""
    rarity: float = 1.0
    """Prevalence of the other labels over that of the critical one."""
    together: bool = False
    """The other labels come together, and are lost together."""
    labels: int = 3


MODELS = (
    Models(),
    Models("nearly identical", disagreement=0.02),
    Models("independent errors", disagreement=1.0),
    Models("recall 0.60", recall=0.6),
    Models("recall 0.95", recall=0.95),
    Models("prevalence 0.02", prevalence=0.02),
    Models("prevalence 0.30", prevalence=0.3),
    Models("one binary label", labels=1),
    Models("rare others, together", rarity=0.05, together=True),
)
LEVEL_CELLS = [
    (models, truth) for models in MODELS for truth in BEYOND_A_LIMIT if truth != "macro F1" or models.labels > 1
]
POWER_CELLS = [(models, truth) for models in MODELS for truth in WITHIN]


@dataclass(frozen=True)
class Cell:
    """What was found for one pair of models at one support."""

    models: str
    truth: str
    support: int
    true_drops: tuple[float, ...]
    """Of macro F1, critical F1, critical recall."""
    pairs: int
    safe: int
    inconclusive: int
    unsafe: int

    def share(self, verdict: str) -> float:
        """Of the simulated pairs, in [0, 1]."""
        return float(getattr(self, verdict)) / self.pairs

    def error(self, verdict: str) -> float:
        """Monte-Carlo standard error of the share; not 0 when the verdict was never seen."""
        share = (getattr(self, verdict) + 0.5) / (self.pairs + 1)
        return math.sqrt(share * (1 - share) / self.pairs)


def true_drops(truth: str, labels: int) -> tuple[float, float, float]:
    """True drops of critical recall, of critical F1, and of each other label's F1 that make up `truth`."""
    macro, critical, recall = LIMITS.of_drops + (0 if truth in WITHIN else BEYOND)
    others = max(labels - 1, 1)
    return {
        "recall": (recall, 0.0, 0.0),
        "critical F1": (0.0, critical, 0.0),
        "macro F1": (0.0, 0.0, macro * labels / others),
        "all": (recall, critical, (macro * labels - critical) / others),
        "nothing lost": (0.0, 0.0, 0.0),
        "half of each limit": (recall / 2, critical / 2, (macro * labels - critical) / others / 2),
    }[truth]


def label_table(models: Models, prevalence: float, recall_drop: float, f1_drop: float) -> FloatArray:
    """Chances of each (label, teacher, student) of one label, shape [2, 2, 2]."""
    recall = (models.recall, models.recall - recall_drop)
    f1 = (models.recall, models.recall - f1_drop)  # of the teacher precision = recall = F1
    # F1 = 2·p·r / (p + p·r + alarms) gives the false alarms that make it.
    alarms = [prevalence * (2 * r / f - 1 - r) / (1 - prevalence) for r, f in zip(recall, f1, strict=True)]
    negatives = _joint(alarms[0], alarms[1], models.disagreement)
    positives = _joint(recall[0], recall[1], models.disagreement)
    return np.stack([(1 - prevalence) * negatives, prevalence * positives])


def _joint(first: float, second: float, disagreement: float) -> FloatArray:
    """Chances of (teacher, student) answers, [2, 2], for two rates of a positive answer."""
    shared = disagreement * min(first * (1 - second), second * (1 - first))
    only_first, only_second = shared + max(first - second, 0), shared + max(second - first, 0)
    both = first - only_first
    return np.array([[1 - both - only_first - only_second, only_second], [only_first, both]])


def population(models: Models, truth: str) -> tuple[Pairs, FloatArray]:
    """Every pattern of labels and answers that can occur, and the chance of each, shape [K]."""
    recall_drop, critical_drop, other_drop = true_drops(truth, models.labels)
    tables = [label_table(models, models.prevalence, recall_drop, critical_drop)]
    rare = label_table(models, models.prevalence * models.rarity, other_drop / 2, other_drop)
    others = models.labels - 1
    tables += [rare] * (min(others, 1) if models.together else others)
    columns = [0] + [1] * others if models.together else list(range(models.labels))
    chances = np.ones(1)
    for table in tables:
        chances = np.multiply.outer(chances, table.ravel()).ravel()
    answers = list(itertools.product([0, 1], repeat=3))
    patterns = np.array(list(itertools.product(answers, repeat=len(tables))))[:, columns]
    possible = chances > 0
    actual, teacher, student = (patterns[possible, :, part] for part in range(3))
    return Pairs.of_patterns(actual, teacher, student, chances[possible], critical=0), chances[possible]


def simulate(models: Models, truth: str, support: int, pairs: int, rounds: int, seed: Sequence[int]) -> Cell:
    """Verdicts on `pairs` samples of comments."""
    patterns, chances = population(models, truth)
    generator = np.random.default_rng(seed)
    samples = generator.multinomial(round(support / models.prevalence), chances / chances.sum(), pairs)
    found = dict.fromkeys(VERDICTS, 0)
    for index, counts in enumerate(samples):
        seen = counts > 0
        sample = replace(patterns, counts=counts[seen].astype(np.float64), features=patterns.features[seen])
        found[judge(sample, LIMITS, rounds=rounds, seed=index, plan=False).safety_verdict] += 1
    drops = patterns.drops(chances @ patterns.features)
    return Cell(models.name, truth, support, tuple(map(float, drops)), pairs, **found)


def beyond_chance(cells: Sequence[Cell]) -> list[Cell]:
    """Cells in which `safe` is said in more than 5 % of cases: exact binomial test, 5 % error over all cells."""
    return [c for c in cells if stats.binom.sf(c.safe - 1, c.pairs, TARGET) < 0.05 / len(cells)]


def main() -> int:
    """Print both tables; returns the exit status."""
    arguments = parsed()
    jobs = [(*cell, support) for cell in LEVEL_CELLS + POWER_CELLS for support in SUPPORTS]
    with ProcessPoolExecutor(arguments.processes) as pool:
        futures = [
            pool.submit(simulate, *job, arguments.pairs, arguments.rounds, (arguments.seed, index))
            for index, job in enumerate(jobs)
        ]
        cells = [future.result() for future in track(futures, "simulating", console=Console(stderr=True))]
    level = [cell for cell in cells if cell.truth in BEYOND_A_LIMIT]
    power = [cell for cell in cells if cell.truth in WITHIN]
    show(level, "Wrongly safe, % ± Monte-Carlo error", ("safe",))
    show(power, "Power: safe / inconclusive / unsafe, % ± Monte-Carlo error", VERDICTS)
    worst = max(level, key=lambda cell: cell.safe)
    wrong = beyond_chance(level)
    print(
        f"{arguments.pairs} pairs a cell, {arguments.rounds} rounds. Most often wrongly safe: {worst.models}, "
        f"{worst.truth}, {worst.support} positives: {worst.share('safe'):.2%} ± {worst.error('safe'):.2%}. "
        f"Above {TARGET:.0%} beyond chance: {len(wrong)} of {len(level)} cells."
    )
    if arguments.json:
        figures = [asdict(c) | {f"{v}_error": c.error(v) for v in VERDICTS} for c in cells]
        arguments.json.write_text(json.dumps(figures, indent=1), encoding="utf-8")
    return 1 if wrong else 0


def show(cells: Sequence[Cell], title: str, verdicts: Sequence[str]) -> None:
    """A row for each pair of models and truth, a column for each support."""
    table = Table("models", "truth", *(f"{support} positives" for support in SUPPORTS), title=title)
    rows: dict[tuple[str, str], list[str]] = {}
    for cell in cells:
        shares = [f"{100 * cell.share(verdict):.1f}±{100 * cell.error(verdict):.1f}" for verdict in verdicts]
        rows.setdefault((cell.models, cell.truth), []).append(" / ".join(shares))
    for (models, truth), shown in rows.items():
        table.add_row(models, truth, *shown)
    Console(width=190).print(table)


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=2000, help="simulated pairs of models in each cell")
    parser.add_argument("--rounds", type=int, default=400, help="bootstrap rounds of each verdict")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
