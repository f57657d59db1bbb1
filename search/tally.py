"""A running count of what a search has found, updated trial by trial and not counted anew each time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from evaluation.front import FloatArray, hypervolume, non_dominated
from search.goals import FRONT, aims_not_worth_having, aims_of


class Tally:
    """Different models, safe ones, the front of those that are not unsafe, and its hypervolume."""

    def __init__(self, objectives: tuple[str, ...] = FRONT) -> None:
        """Take what the study optimises: progress is measured by that."""
        self.models = self.safe = 0
        self._seen: set[str] = set()
        self._front = _Front(FRONT)
        self._aimed = self._front if set(objectives) == set(FRONT) else _Front(objectives)

    @property
    def front(self) -> int:
        """Models on the front, those alike in every objective once."""
        return len(self._front.points)

    @property
    def hypervolume(self) -> float:
        """Of the front beyond the teacher, in `evaluation.gained.UNIT`."""
        return self._front.volume

    @property
    def progress(self) -> float:
        """The hypervolume in the study's objectives; of a single one, how far the best model is beyond the teacher."""
        return self._aimed.volume

    def add(self, rows: Iterable[Mapping[str, Any]]) -> bool:
        """Count the rows of a trial, or the reference rows; whether the front has changed."""
        fresh = [row for row in rows if row.get("model_key") and row["model_key"] not in self._seen]
        self._seen.update(row["model_key"] for row in fresh)
        self.models += len(fresh)
        self.safe += sum(row.get("safety_verdict") == "safe" for row in fresh)
        teacher = next((row for row in fresh if row["stage"] == "baseline"), None)
        usable = [row for row in fresh if row["status"] == "ok" and row.get("safety_verdict") != "unsafe"]
        if self._aimed is not self._front:
            self._aimed.add(usable, teacher)
        return self._front.add(usable, teacher)


class _Front:
    """The models that no other dominates in some objectives."""

    def __init__(self, objectives: tuple[str, ...]) -> None:
        self._objectives = objectives
        self.points = np.empty((0, len(objectives)))
        self.volume = 0.0
        self._reference: FloatArray | None = None

    def add(self, rows: Sequence[Mapping[str, Any]], teacher: Mapping[str, Any] | None) -> bool:
        """Take up models, and the teacher if it is known now; whether the front has changed."""
        if self._reference is None and teacher is not None:
            self._reference = aims_not_worth_having(teacher, self._objectives)
        new = [aims_of(row, self._objectives) for row in rows]
        new = [one for one in new if not np.isnan(one).any() and not (self.points <= one).all(axis=1).any()]
        if not new:
            return False
        together = np.unique(np.vstack([self.points, *new]), axis=0)
        self.points = together[non_dominated(together)]
        if self._reference is not None:
            self.volume = _volume(self.points, self._reference)
        return True


def _volume(points: FloatArray, reference: FloatArray) -> float:
    """The hypervolume; of one objective, the length that the best has beyond the reference."""
    if len(reference) == 1:
        return float(np.maximum(reference - points, 0.0).max(initial=0.0))
    return hypervolume(points, reference)
