"""What a stage does to a model, learnt from what it did before: Bayesian linear regression with a closed form.

A stage's effect on log size, log latency and F1 is nearly a sum of what its settings do, so a few trials teach much. Of
many, products of two settings are learnt too: what a learning rate does depends on how long it is used.
A draw from the posterior prediction is one belief that fits the data: to choose by one is Thompson sampling (Thompson
1933, Biometrika 25; Agrawal and Goyal 2013, arXiv:1209.3352), which explores where little is known, also when many
choose. What a model has by chance, and not of its settings, is drawn too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_factor, cho_solve, solve_triangular

FloatArray: TypeAlias = npt.NDArray[np.float64]
Features: TypeAlias = Mapping[str, float]

PRIOR_SHAPE, PRIOR_SCALE = 2.0, 0.01
"""Inverse-gamma prior of the noise, in squared typical effects: a tenth of an effect before anything is known."""
PRIOR_PRECISION = 0.04
"""Of a weight, in units of the noise: a weight is a typical effect, give or take."""
PAIR = " x "
"""In the name of a feature that is the product of two settings."""
MANY = 64
"""Observations after which such features count too: before, they would only make the others less certain."""
_ROOM = 32


class Effects:
    """Several targets, each linear in the same named features; features may be new at any time."""

    def __init__(self, scales: Sequence[float]) -> None:
        """Take the size of a typical effect on each target, shape [targets]."""
        self._scales = np.asarray(scales, dtype=np.float64)
        self._few: list[tuple[Features, npt.ArrayLike]] = []
        self._forget()

    def _forget(self) -> None:
        self._columns: dict[str, int] = {}
        self._precision = PRIOR_PRECISION * np.eye(_ROOM)
        self._moments = np.zeros((_ROOM, len(self._scales)))
        self._squares = np.zeros(len(self._scales))
        self.count = 0

    def add(self, features: Features, values: npt.ArrayLike, within: npt.ArrayLike | None = None) -> None:
        """Learn from one observation, values of shape [targets].

        Args:
            features: of the observation.
            values: what was observed.
            within: the same, cut off where more or less makes no difference: learnt instead as soon as pairs count.
        """
        if len(self._few) == MANY:
            self._learn(features, values if within is None else within)
            return
        self._few.append((features, values if within is None else within))
        if len(self._few) < MANY:
            self._learn(features, values)
            return
        self._forget()
        for earlier in self._few:
            self._learn(*earlier)

    def _learn(self, features: Features, values: npt.ArrayLike) -> None:
        row, scaled = self._rows([features])[0], np.asarray(values, dtype=np.float64) / self._scales
        self._precision += np.outer(row, row)
        self._moments += np.outer(row, scaled)
        self._squares += scaled**2
        self.count += 1

    def sample(self, features: Sequence[Features], generator: np.random.Generator, beliefs: int = 1) -> FloatArray:
        """What `beliefs` draws from the posterior predict of these observations, their own luck included.

        A model may turn out better than its settings: what cannot be foreseen counts for what is worth trying.

        Args:
            features: of n observations.
            generator: of the draws.
            beliefs: number of draws.

        Returns:
            shape [beliefs, n, targets].
        """
        rows = self._rows(features)
        factor = cho_factor(self._precision, lower=True)
        mean = cho_solve(factor, self._moments)
        rest = np.maximum(self._squares - (mean * self._moments).sum(axis=0), 0.0)
        shape = (beliefs, 1, len(self._scales))
        noise = (PRIOR_SCALE + rest / 2.0) / generator.gamma(PRIOR_SHAPE + self.count / 2.0, size=shape)
        standard = generator.standard_normal((len(mean), beliefs * len(self._scales)))
        spread = solve_triangular(factor[0], standard, lower=True, trans="T").reshape(len(mean), beliefs, -1)
        weights = mean + spread.transpose(1, 0, 2) * np.sqrt(noise)
        luck = generator.standard_normal((beliefs, len(rows), len(self._scales))) * np.sqrt(noise)
        return np.asarray((rows @ weights + luck) * self._scales, dtype=np.float64)

    def _rows(self, features: Sequence[Features]) -> FloatArray:
        """Design matrix [n, room], after making room for new names."""
        if len(self._few) < MANY:
            features = [{name: value for name, value in one.items() if PAIR not in name} for one in features]
        for one in features:
            for name in one:
                self._columns.setdefault(name, len(self._columns))
        if len(self._columns) > len(self._precision):
            self._grow(max(2 * len(self._precision), len(self._columns)))
        rows = np.zeros((len(features), len(self._precision)))
        for row, one in zip(rows, features, strict=True):
            row[[self._columns[name] for name in one]] = list(one.values())
        return rows

    def _grow(self, room: int) -> None:
        known = len(self._precision)
        precision, moments = PRIOR_PRECISION * np.eye(room), np.zeros((room, len(self._scales)))
        precision[:known, :known], moments[:known] = self._precision, self._moments
        self._precision, self._moments = precision, moments
