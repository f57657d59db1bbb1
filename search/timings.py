"""Speeds that another trial measures: a trial does not wait for them, its rows are completed when they are there.

While a search runs, of models of one shape one is timed (`evaluation/shape.py`). A worker that has built another one
meanwhile goes on without its speed. Its row names the timing (`TIMING`), and is given the figures when the row of the
model that is timed comes in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from optuna.trial import Trial

from evaluation.records import SPEED
from evaluation.shape import TIMING
from evaluation.tradeoff import compute_tradeoff_score
from search.trial import Curve, Row

TIMED = "timed_model"
"""Column that a row has whose speed is known."""


@dataclass(frozen=True)
class Untimed:
    """A trial that has ended but for speeds of its models."""

    trial: Trial
    attempt: int
    rows: list[Row]
    curves: list[Curve]
    begun: int
    """How many trials had begun when it ended: one of them times what it lacks, unless another study does."""


class Timings:
    """What the rows of a search have told of the speed of shapes."""

    def __init__(self, teacher_f1: float | None, weights: tuple[float, float, float]) -> None:
        """Take the teacher's macro F1 on validation and the study's weights, of which trade-off scores are made."""
        self._teacher_f1, self._weights = teacher_f1, weights
        self._known: dict[str, Row] = {}
        self._untimed: list[Untimed] = []

    def keep(self, trial: Untimed) -> None:
        """Keep a trial until its speeds are told."""
        self._untimed.append(trial)

    def hear(self, rows: Iterable[Mapping[str, Any]]) -> list[Untimed]:
        """Learn the speeds that rows have; the trials that lack nothing any more."""
        before = len(self._known)
        for row in rows:
            if row.get(TIMING) and row.get(TIMED) and row[TIMING] not in self._known:
                self._known[row[TIMING]] = {name: row[name] for name in SPEED if name in row}
        return self._taken(lambda trial: not self.lacking(trial.rows)) if len(self._known) > before else []

    def untold(self, oldest: float = math.inf) -> list[Untimed]:
        """The trials whose speeds nobody is at: the oldest trial that runs, by its place, began after they ended."""
        return self._taken(lambda trial: trial.begun <= oldest)

    def _taken(self, which: Callable[[Untimed], bool]) -> list[Untimed]:
        taken = [trial for trial in self._untimed if which(trial)]
        self._untimed = [trial for trial in self._untimed if not which(trial)]
        return taken

    def lacking(self, rows: Iterable[Mapping[str, Any]]) -> bool:
        """Whether a row lacks a speed that nobody has told yet."""
        return any(is_untimed(row) and row[TIMING] not in self._known for row in rows)

    def told(self, rows: Iterable[Row]) -> list[Row]:
        """The rows, with the speeds that are known."""
        return [row | self._speed(row) if is_untimed(row) else row for row in rows]

    def completed(self, rows: Iterable[Row]) -> list[Row]:
        """The rows with their speeds, as they are written down; those whose speed nobody has told are left out."""
        told = (row for row in self.told(rows) if not is_untimed(row))
        return [{name: value for name, value in row.items() if name != TIMING} for row in told]

    def _speed(self, row: Row) -> Row:
        if row[TIMING] not in self._known:
            return {}
        speed = self._known[row[TIMING]]
        f1, compression = row.get("f1_macro"), row.get("size_compression_ratio")
        score = compute_tradeoff_score(f1, self._teacher_f1, compression, speed["speedup_factor"], self._weights)
        return speed | {"tradeoff_score": score}


def is_untimed(row: Mapping[str, Any]) -> bool:
    """Whether a row lacks a speed that another trial measures."""
    return bool(row.get(TIMING)) and not row.get(TIMED)
