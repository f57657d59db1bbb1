"""How much a model would add to the front: the part of the objective space that it newly dominates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

FloatArray: TypeAlias = npt.NDArray[np.float64]
BoolArray: TypeAlias = npt.NDArray[np.bool_]

POINTS = 512
_FEW = 128


class FrontGain:
    """Hypervolume improvement, estimated at random points that the front does not dominate yet.

    The points stay the same while the front grows, so that gains can be compared, until few of them are left.
    """

    def __init__(self, reference: npt.ArrayLike, ideal: npt.ArrayLike, seed: int) -> None:
        """Take the worst and the best corner of the box that counts, losses of shape [m]."""
        self._reference = np.asarray(reference, dtype=np.float64)
        self._ideal = np.asarray(ideal, dtype=np.float64)
        self._generator = np.random.default_rng(seed)
        self._front = np.empty((0, len(self._reference)))
        self._points = self._draw(POINTS)

    def add(self, losses: npt.ArrayLike) -> bool:
        """A feasible model was measured, losses of shape [m]; whether it is on the front.

        One that is beyond the best corner widens the box.
        """
        point = np.asarray(losses, dtype=np.float64)
        inside = bool((point < self._reference).all())
        if not inside or (self._front <= point).all(axis=1).any():
            return False
        self._front = np.vstack([self._front[~(point <= self._front).all(axis=1)], point])
        if (point < self._ideal).any():
            self._ideal = np.minimum(self._ideal, point - 0.05 * (self._reference - self._ideal))
            self._points = self._undominated(self._draw(8 * POINTS))[:POINTS]
        self._points = self._undominated(self._points)
        if len(self._points) < _FEW:
            fresh = self._undominated(self._draw(64 * POINTS))
            self._points = fresh[:POINTS] if len(fresh) else self._points
        return True

    def of(self, losses: FloatArray, parts: Sequence[BoolArray], running: FloatArray | None = None) -> list[FloatArray]:
        """Gain of what several models of one chain bring together, for several parts of the chains.

        Args:
            losses: shape [beliefs, chains, models, m]; NaN or infinite for a model that does not count.
            parts: which models of each chain count, each of shape [chains, models].
            running: of chains that others are at, [beliefs, any, models, m]: what they dominate is gained already.

        Returns:
            for each part, shape [beliefs, chains], the share of the undominated points that are newly dominated.
        """
        dominated = self._dominated(losses)
        if running is not None and running.size:
            by_them = np.asarray(self._dominated(running).any(axis=(-3, -2)))
            dominated &= ~by_them[..., None, None, :]
        found = (np.logical_or.reduce(dominated & part[..., None], axis=-2) for part in parts)
        return [np.asarray(one.sum(axis=-1) / max(len(self._points), 1), dtype=np.float64) for one in found]

    def _dominated(self, losses: FloatArray) -> BoolArray:
        """Points that each model dominates, [..., models, points]."""
        counts = (losses < self._reference).all(axis=-1)  # no other dominates a point
        models = losses[counts]
        dominated = np.ones((len(models), len(self._points)), dtype=np.bool_)
        for target, points in enumerate(self._points.T):  # one after the other: numpy is slow along short axes
            dominated &= models[:, target, None] <= points
        found = np.zeros((*counts.shape, len(self._points)), dtype=np.bool_)
        found[counts] = dominated
        return found

    def _draw(self, count: int) -> FloatArray:
        return self._generator.uniform(self._ideal, self._reference, (count, len(self._reference)))

    def _undominated(self, points: FloatArray) -> FloatArray:
        kept = np.ones(len(points), dtype=np.bool_)
        for row in self._front:
            kept[kept] = ~(row <= points[kept]).all(axis=1)
        return np.asarray(points[kept], dtype=np.float64)
