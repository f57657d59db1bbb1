"""What a stage does to a model, learnt from what it did before: Bayesian linear regression with a closed form.

A stage's effect on log size, log latency and F1 is nearly a sum of what its settings do, so a few trials teach much.
What two settings do together is learnt too, such as a learning rate and how long it is used: each such product is
believed to be small until trials say otherwise.
A draw from the posterior prediction is one belief that fits the data: to choose by one is Thompson sampling (Thompson
1933, Biometrika 25; Agrawal and Goyal 2013, arXiv:1209.3352), which explores where little is known, also when many
choose. What a model has by chance, and not of its settings, is drawn too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_factor, cho_solve, solve_triangular

FloatArray: TypeAlias = npt.NDArray[np.float64]
Features: TypeAlias = Mapping[str, float]

PAIR = " x "
"""In the name of a feature that is the product of two settings."""
PAIR_PRECISION = 4.0
"""Of a product's weight, for 1 of a setting's: half as large."""


@dataclass(frozen=True)
class Prior:
    """What is believed before anything is known, in units of a typical effect."""

    shape: float
    scale: float
    """With `shape`, the inverse-gamma distribution of the noise's variance."""
    precision: float
    """Of a setting's weight, in units of the noise."""


PHYSICS = Prior(2.0, 0.01, 0.04)
"""Size, speed and cost follow from the settings: the noise is a tenth of an effect, a weight half of one."""
QUALITY = Prior(8.0, 1.0, 1.0)
"""F1 and safety hang on luck as well, which moves them by a third of an effect: as much as a setting does. With less
noise believed in, a few lucky fits look certain, and a family of better models next to them is never looked at."""


class Names:
    """Columns of named features, which may be new at any time."""

    def __init__(self) -> None:
        self.columns: dict[str, int] = {}

    def rows(self, features: Sequence[Features]) -> FloatArray:
        """Design matrix [n, names], after making room for new names."""
        names = [name for one in features for name in one]
        for name in dict.fromkeys(names):
            self.columns.setdefault(name, len(self.columns))
        rows = np.zeros((len(features), len(self.columns)))
        row = np.repeat(np.arange(len(features)), [len(one) for one in features])
        rows[row, [self.columns[name] for name in names]] = [number for one in features for number in one.values()]
        return rows


class Regression:
    """Several targets, each linear in the same columns, of which there may be more at any time."""

    def __init__(self, scales: Sequence[float] | FloatArray, prior: Prior) -> None:
        """Take the size of a typical effect on each target, shape [targets], and the prior of the noise."""
        self._scales = np.asarray(scales, dtype=np.float64)
        self._prior = prior
        self._precision = np.empty((0, 0))
        self._moments = np.empty((0, len(self._scales)))
        self._squares = np.zeros(len(self._scales))
        self._count = 0

    def widen(self, precisions: Sequence[float] | FloatArray) -> None:
        """Room for new columns, of whose weights nothing is known but that they have these precisions."""
        known = len(self._precision)
        precision = np.diag(np.concatenate([np.zeros(known), precisions]))
        precision[:known, :known] = self._precision
        self._precision = precision
        self._moments = np.vstack([self._moments, np.zeros((len(precisions), len(self._scales)))])

    def add(self, rows: FloatArray, values: FloatArray) -> None:
        """Learn from observations, rows of shape [n, columns] and values of shape [n, targets]."""
        scaled = values / self._scales
        self._precision += rows.T @ rows
        self._moments += rows.T @ scaled
        self._squares += (scaled**2).sum(axis=0)
        self._count += len(rows)

    def sample(
        self,
        rows: FloatArray,
        generator: np.random.Generator,
        beliefs: int,
        luck: Sequence[bool] | None = None,
        unknown: tuple[FloatArray, npt.NDArray[np.intp]] | None = None,
    ) -> FloatArray:
        """What `beliefs` draws from the posterior predict of these observations, their own luck included.

        A model may turn out better than its settings: what cannot be foreseen counts for what is worth trying.

        Args:
            rows: of n observations, shape [n, columns].
            generator: of the draws.
            beliefs: number of draws.
            luck: whether an observation's own luck is drawn, shape [n]; of all if not given.
            unknown: what the columns leave out, where they do: its variance in units of the noise, shape [n], and which
                observations have it in common, as numbers from 0, shape [n].

        Returns:
            shape [beliefs, n, targets].
        """
        factor = cho_factor(self._precision, lower=True)
        mean = cho_solve(factor, self._moments)
        rest = np.maximum(self._squares - (mean * self._moments).sum(axis=0), 0.0)
        shape = (beliefs, 1, len(self._scales))
        noise = (self._prior.scale + rest / 2.0) / generator.gamma(self._prior.shape + self._count / 2.0, size=shape)
        standard = generator.standard_normal((len(mean), beliefs * len(self._scales)))
        spread = solve_triangular(factor[0], standard, lower=True, trans="T").reshape(len(mean), beliefs, -1)
        weights = mean + spread.transpose(1, 0, 2) * np.sqrt(noise)
        chance = generator.standard_normal((beliefs, len(rows), len(self._scales))) * np.sqrt(noise)
        if luck is not None:
            chance *= np.asarray(luck)[:, None]
        if unknown is not None:
            variance, group = unknown
            common = generator.standard_normal((beliefs, group.max() + 1, len(self._scales))) * np.sqrt(noise)
            chance += common[:, group] * np.sqrt(variance)[:, None]
        return np.asarray((rows @ weights + chance) * self._scales, dtype=np.float64)


class Effects:
    """Several targets, each linear in the same named features; features may be new at any time."""

    def __init__(self, scales: Sequence[float] | FloatArray, prior: Prior = PHYSICS) -> None:
        """Take the size of a typical effect on each target, shape [targets], and the prior of all of them."""
        self._prior = prior
        self._names = Names()
        self._regression = Regression(scales, prior)

    def add(self, features: Features, values: npt.ArrayLike) -> None:
        """Learn from one observation, values of shape [targets]."""
        self._regression.add(self._rows([features]), np.asarray(values, dtype=np.float64)[None])

    def sample(
        self,
        features: Sequence[Features],
        generator: np.random.Generator,
        beliefs: int = 1,
        luck: Sequence[bool] | None = None,
    ) -> FloatArray:
        """Predictions for n observations by their features, see `Regression.sample`."""
        return self._regression.sample(self._rows(features), generator, beliefs, luck)

    def _rows(self, features: Sequence[Features]) -> FloatArray:
        known = len(self._names.columns)
        rows = self._names.rows(features)
        if rows.shape[1] > known:
            self._regression.widen(precisions(self._names, self._prior)[known:])
        return rows


def precisions(names: Names, prior: Prior) -> FloatArray:
    """Of the weights of named features beforehand, shape [names]."""
    return np.array([prior.precision * (PAIR_PRECISION if PAIR in name else 1.0) for name in names.columns])
