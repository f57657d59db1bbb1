"""What a stage does to quality: a Gaussian process beside the sum of its settings' effects.

Quality bends: a learning rate is best somewhere in the middle, and how long it is used moves that middle. A Gaussian
process (Rasmussen and Williams 2006) with a length for each setting learns such shapes, and which settings matter. It
is kept as a regression on the likeness to some of the observations (Williams and Seeger 2001), so that a prediction
costs the same however many there are; what the likeness to these cannot tell, far from all of them, counts as unknown
(Snelson and Ghahramani 2006). The lengths are the most likely ones, found anew each time that there are a quarter
more observations.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
from scipy.linalg import cho_factor, cho_solve, cholesky, solve_triangular
from scipy.optimize import minimize
from scipy.spatial.distance import pdist, squareform

from search.stage_tree.effects import Features, FloatArray, Names, Prior, Regression, precisions

Places: TypeAlias = Mapping[str, float]
"""Where settings are among their choices, from -1 to 1; 1 for a word that was chosen."""

FIRST_FIT, FIT_AGAIN = 10, 1.25
"""Observations before the first search for lengths, and by how much they grow between two."""
MOST_FITTED, MOST_CENTRES = 128, 128
"""Observations, drawn at random, that lengths are fitted to, and that others are likened to."""
HEIGHT, SUM, LENGTH = math.log(3.0), -1.0, 0.7
"""Most likely beforehand: log of the process's variance in units of the noise, of the sum's in units of its prior, and
of a length in those of `Places`."""
DEVIATIONS = 1.5, 1.5, 1.0
FARTHEST = 6.0
"""Deviations from the most likely at which the search for lengths ends: beyond, the noise would be lost to rounding."""
JITTER = 1e-6


class Surface:
    """Several targets, each a sum of named effects and a Gaussian process; lengths are those of the first target."""

    def __init__(self, scales: Sequence[float] | FloatArray, prior: Prior) -> None:
        """Take the size of a typical effect on each target, shape [targets], and the prior of all of them."""
        self._scales, self._prior = np.asarray(scales, dtype=np.float64), prior
        self._seen: list[tuple[Features, Places, FloatArray]] = []
        self._next_fit = FIRST_FIT
        self._named, self._placed = Names(), Names()
        self._settled = np.array([HEIGHT, SUM])
        """Logs of the variances of process and sum, then of the lengths that were found so far."""
        self._begin(np.empty((0, 0)), 0.0)

    def add(self, features: Features, places: Places, values: FloatArray) -> None:
        """Learn from one observation, values of shape [targets]."""
        self._seen.append((features, places, np.asarray(values, dtype=np.float64)))
        if len(self._seen) < self._next_fit:
            self._learn([self._seen[-1]])
            return
        self._next_fit = math.ceil(FIT_AGAIN * len(self._seen))
        generator = np.random.default_rng(len(self._seen))
        all_places = self._placed.rows([places for _, places, _ in self._seen])
        few = generator.permutation(len(self._seen))[:MOST_FITTED]
        rows = self._named.rows([self._seen[index][0] for index in few.tolist()])
        likeness_by_sum = (rows / precisions(self._named, self._prior)) @ rows.T
        values_seen = np.array([self._seen[index][2][0] for index in few.tolist()]) / self._scales[0]
        start = np.concatenate([self._settled[:2], self._lengths()])
        self._settled = most_likely(start, likeness_by_sum, all_places[few], values_seen, self._prior)
        different = np.unique(all_places, axis=0)
        self._begin(different[generator.permutation(len(different))[:MOST_CENTRES]], self._settled[1])
        self._learn(self._seen)

    def sample(
        self,
        features: Sequence[Features],
        places: Sequence[Places],
        generator: np.random.Generator,
        beliefs: int = 1,
        luck: Sequence[bool] | None = None,
    ) -> FloatArray:
        """Predictions for n observations by their features and places, see `Regression.sample`."""
        at = self._placed.rows(places)
        rows, unknown = self._rows(features, at)
        _, alike = np.unique(at, axis=0, return_inverse=True)
        return self._regression.sample(rows, generator, beliefs, luck, (unknown, alike))

    def _begin(self, centres: FloatArray, log_sum: float) -> None:
        """A regression that has learnt nothing, on the likeness to these centres and the features known so far."""
        self._centres, self._log_sum = centres, log_sum
        height, lengths = math.exp(self._settled[0]), np.exp(self._lengths()[: centres.shape[1]])
        self._factor = root(centres / lengths, height) if len(centres) else np.empty((0, 0))
        self._regression = Regression(self._scales, self._prior)
        self._regression.widen(np.ones(len(centres)))
        self._regression.widen(precisions(self._named, self._prior) / math.exp(log_sum))

    def _learn(self, seen: Sequence[tuple[Features, Places, FloatArray]]) -> None:
        features, places, values = zip(*seen, strict=True)
        rows, _ = self._rows(features, self._placed.rows(places))
        self._regression.add(rows, np.array(values))

    def _rows(self, features: Sequence[Features], at: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Design matrix [n, centres and names], and the variance that the likeness to the centres leaves out, [n].

        Args:
            features: of n observations.
            at: their places, shape [n, settings], of all settings seen so far.
        """
        known = len(self._named.columns)
        named = self._named.rows(features)
        if named.shape[1] > known:
            self._regression.widen(precisions(self._named, self._prior)[known:] / math.exp(self._log_sum))
        if not len(self._centres):
            return named, np.zeros(len(named))
        height = math.exp(self._settled[0])
        lengths = np.exp(self._lengths())
        centres = np.pad(self._centres, [(0, 0), (0, at.shape[1] - self._centres.shape[1])])
        like = likeness(at / lengths, centres / lengths, height)
        bends = solve_triangular(self._factor, like.T, lower=True).T
        return np.hstack([bends, named]), np.maximum(height - (bends**2).sum(axis=1), 0.0)

    def _lengths(self) -> FloatArray:
        """Logs, of all settings seen so far."""
        found = self._settled[2:]
        return np.concatenate([found, np.full(len(self._placed.columns) - len(found), LENGTH)])


def likeness(one: FloatArray, other: FloatArray, height: float) -> FloatArray:
    """Covariance of a Gaussian process at places in units of its lengths, [n, places] and [m, places] to [n, m]."""
    squares = (one**2).sum(axis=1)[:, None] + (other**2).sum(axis=1) - 2.0 * one @ other.T
    return np.asarray(height * np.exp(-0.5 * np.maximum(squares, 0.0)), dtype=np.float64)


def root(places: FloatArray, height: float) -> FloatArray:
    """Lower Cholesky factor of the likeness of places to each other, [n, n], however small the lengths are.

    Squares are sums of differences here: of numbers far from zero, `likeness` would leave less than nothing.
    """
    like = np.exp(-0.5 * squareform(pdist(places, "sqeuclidean"))) + JITTER * np.eye(len(places))
    return np.asarray(math.sqrt(height) * cholesky(like, lower=True), dtype=np.float64)


def most_likely(
    start: FloatArray, likeness_by_sum: FloatArray, places: FloatArray, values: FloatArray, prior: Prior
) -> FloatArray:
    """Logs of the process's variance, the sum's and the lengths, of the largest posterior density.

    Args:
        start: of the search for them, shape [2 + settings].
        likeness_by_sum: covariance of the sum's effects beforehand, in units of the noise, shape [n, n].
        places: shape [n, settings].
        values: in units of a typical effect, shape [n].
        prior: of the noise, which is integrated out.
    """
    count, settings = places.shape
    middle = np.array([HEIGHT, SUM, *[LENGTH] * settings])
    deviation = np.array([*DEVIATIONS[:2], *DEVIATIONS[2:] * settings])
    apart = ((places.T[:, :, None] - places.T[:, None]) ** 2).reshape(settings, count * count)
    one = np.eye(count)

    def surprise(settled: FloatArray) -> tuple[float, FloatArray]:
        sharp = np.exp(-2.0 * settled[2:])
        bent = np.exp(settled[0] - 0.5 * (sharp @ apart)).reshape(count, count)
        straight = math.exp(settled[1]) * likeness_by_sum
        factor = cho_factor(bent + straight + one, lower=True)
        answer = cho_solve(factor, values)
        rest, shape = prior.scale + values @ answer / 2.0, prior.shape + count / 2.0
        from_middle = (settled - middle) / deviation
        log_density = shape * math.log(rest) + np.log(np.diag(factor[0])).sum() + from_middle @ from_middle / 2.0
        slope = (cho_solve(factor, one) - shape / rest * np.outer(answer, answer)) / 2.0
        by_length = (apart @ (slope * bent).ravel()) * sharp
        return log_density, np.array([(slope * bent).sum(), (slope * straight).sum(), *by_length]) + (
            from_middle / deviation
        )

    bounds = np.stack([middle - FARTHEST * deviation, middle + FARTHEST * deviation], axis=1)
    found = minimize(surprise, start, jac=True, method="L-BFGS-B", bounds=bounds.tolist(), options={"maxiter": 40})
    return np.asarray(found.x, dtype=np.float64)
