"""Non-domination ranks of points that come one by one, and the best of them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from optuna._hypervolume.hssp import _solve_hssp
from optuna.samplers._tpe.sampler import _get_reference_point

Floats = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.int64]


class Ranks:
    """Rank 0 is the front, rank 1 the front of what is left without it, and so on; equal points have equal ranks.

    A new point pushes others down by as many ranks as the new order asks for, level by level (Li et al. 2017, Efficient
    nondomination level update, doi:10.1109/TEVC.2016.2630698), so that none is computed twice.
    """

    def __init__(self, objectives: int) -> None:
        self._losses = np.empty((64, objectives))
        self._ranks, self._numbers = np.empty(64, np.int64), np.empty(64, np.int64)
        self._count = 0

    def add(self, number: int, losses: npt.ArrayLike) -> None:
        """A point by its number, with its losses, one an objective."""
        count = self._count
        if count == len(self._ranks):
            self._losses = np.concatenate([self._losses, np.empty_like(self._losses)])
            self._ranks, self._numbers = np.tile(self._ranks, 2), np.tile(self._numbers, 2)
        self._losses[count], self._numbers[count], self._count = losses, number, count + 1
        known, ranks = self._losses[:count], self._ranks[: count + 1]
        above = (known <= self._losses[count]).all(axis=1) & (known < self._losses[count]).any(axis=1)
        level = int(ranks[:count][above].max(initial=-1)) + 1
        moved = np.array([count])
        while len(moved):
            there = np.flatnonzero(ranks[:count] == level)
            ranks[moved] = level
            moved = there[_dominated(self._losses[there], self._losses[moved])]
            level += 1

    @property
    def ranks(self) -> dict[int, int]:
        """By number."""
        return dict(zip(self._numbers[: self._count].tolist(), self._ranks[: self._count].tolist(), strict=True))

    def best(self, count: int) -> Numbers:
        """Numbers of so many points of the lowest ranks; of the last rank those that dominate most between them.

        Which these are is what Optuna's TPE takes them to be: the greedy choice by hypervolume, below a reference just
        beyond the rank's worst losses (Guerreiro et al. 2016, doi:10.1162/EVCO_a_00188).
        """
        ranks, numbers, losses = self._ranks[: self._count], self._numbers[: self._count], self._losses[: self._count]
        if count >= self._count:
            return np.sort(numbers)
        up_to = np.cumsum(np.bincount(ranks, minlength=1))
        whole = int(np.searchsorted(up_to, count, side="right"))
        taken = numbers[ranks < whole]
        left = count - len(taken)
        if left:
            tied = np.flatnonzero(ranks == whole)
            tied = tied[np.argsort(numbers[tied])]
            reference = _get_reference_point(losses[tied])
            taken = np.append(taken, _solve_hssp(losses[tied], numbers[tied], left, reference))
        return np.sort(taken)


def _dominated(points: Floats, others: Floats) -> npt.NDArray[np.bool_]:
    """Whether any of the others is nowhere worse and somewhere better, (points,)."""
    no_worse = np.all(others[None] <= points[:, None], axis=2)
    better = np.any(others[None] < points[:, None], axis=2)
    dominates: npt.NDArray[np.bool_] = np.any(no_worse & better, axis=1)
    return dominates
