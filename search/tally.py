"""A running count of what a search has found, updated trial by trial and not counted anew each time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from evaluation.front import FloatArray, hypervolume, non_dominated
from evaluation.gained import losses, reference_point
from search.trial import Row, objectives


class Tally:
    """Different models, safe ones, the front of those that are not unsafe, and its hypervolume."""

    def __init__(self) -> None:
        self.models = self.safe = 0
        self.hypervolume = 0.0
        """Beyond the teacher, in `evaluation.gained.UNIT`."""
        self._front = np.empty((0, 3))
        self._seen: set[str] = set()
        self._reference: FloatArray | None = None

    @property
    def front(self) -> int:
        """Models on the front, those alike in every objective once."""
        return len(self._front)

    def add(self, rows: Iterable[Mapping[str, Any]]) -> bool:
        """Count the rows of a trial, or the reference rows; whether the front has changed."""
        fresh = [row for row in rows if row.get("model_key") and row["model_key"] not in self._seen]
        self._seen.update(row["model_key"] for row in fresh)
        self.models += len(fresh)
        self.safe += sum(row.get("safety_verdict") == "safe" for row in fresh)
        teacher = next((row for row in fresh if row["stage"] == "baseline"), None)
        if self._reference is None and teacher is not None:
            self._reference = reference_point(losses_of(teacher))
        new = [losses_of(row) for row in fresh if row["status"] == "ok" and row.get("safety_verdict") != "unsafe"]
        new = [one for one in new if not np.isnan(one).any() and not (self._front <= one).all(axis=1).any()]
        if not new:
            return False
        together = np.unique(np.vstack([self._front, *new]), axis=0)
        self._front = together[non_dominated(together)]
        if self._reference is not None:
            self.hypervolume = hypervolume(self._front, self._reference)
        return True


def losses_of(row: Row | Mapping[str, Any]) -> FloatArray:
    """A row's `losses`, shape [3]; NaN where it has no such figure."""
    return losses(*objectives(row, ("f1_macro", "model_size_mb", "latency_ratio")))
