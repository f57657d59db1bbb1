"""Paired bootstrap of two models on the same comments, in the form that `evaluation.safety` explains."""

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pipeline.thresholds import FloatArray, as_classes, f1_from_counts

BLOCK_CELLS: Final = 2_000_000
"""Weights drawn at once (16 MB), so that memory does not grow with rounds × comments."""
MOST_POSITIVES: Final = 1_000_000
"""Critical positives at which the search for enough of them gives up."""
TO, GUESSES = 1.01, 4
"""How closely that search looks, and how often it guesses before it halves what is left."""


@dataclass(frozen=True)
class Pairs:
    """The comments as K different patterns of (label, baseline, candidate), over C classes (see `as_classes`)."""

    counts: FloatArray
    """Comments with each pattern, shape [K]."""
    features: FloatArray
    """Each pattern's label, baseline, candidate, and the two models' hits, class by class, shape [K, 5·C]."""
    critical: int
    """The critical class."""
    one_label: bool
    """The two classes are those of one binary label."""

    @classmethod
    def of(
        cls, labels: npt.NDArray[Any], baseline: npt.NDArray[Any], candidate: npt.NDArray[Any], critical: int
    ) -> "Pairs":
        stacked = np.concatenate([labels, baseline, candidate], axis=1) > 0
        patterns, counts = np.unique(stacked, axis=0, return_counts=True)
        actual, first, second = np.split(patterns, 3, axis=1)
        return cls.of_patterns(actual, first, second, counts, critical)

    @classmethod
    def of_patterns(
        cls,
        labels: npt.NDArray[Any],
        baseline: npt.NDArray[Any],
        candidate: npt.NDArray[Any],
        counts: npt.NDArray[Any],
        critical: int,
    ) -> "Pairs":
        """From K different patterns, each 0/1 of shape [K, L], and the comments with each, shape [K]."""
        actual, first, second = (as_classes(part) for part in (labels, baseline, candidate))
        return cls(counts.astype(np.float64), _features(actual, first, second), critical, labels.shape[1] == 1)

    @property
    def class_count(self) -> int:
        return int(self.features.shape[1]) // 5

    def critical_positives(self) -> float:
        return float(self.counts @ self.features[:, self.critical])

    def drops(self, totals: FloatArray) -> FloatArray:
        """Drops of macro F1, critical F1, critical recall, shape [..., 3], from weighted feature sums [..., 5·C]."""
        positives, first, second, first_hits, second_hits = np.split(totals, 5, axis=-1)
        lost_f1 = f1_from_counts(first_hits, first, positives) - f1_from_counts(second_hits, second, positives)
        lost_hits = (first_hits - second_hits)[..., self.critical]
        support = positives[..., self.critical]
        undefined = np.full_like(support, np.nan)
        lost_recall = np.divide(lost_hits, support, out=undefined, where=support > 0)
        critical_f1 = np.where(support > 0, lost_f1[..., self.critical], np.nan)
        return np.stack([lost_f1.mean(axis=-1), critical_f1, lost_recall], axis=-1)

    def critical_unseen_loss(self) -> FloatArray:
        """A comment of the critical class alone that the baseline gets right and the candidate misses, shape [5·C]."""
        kind = np.eye(self.class_count)[[self.critical]]
        return np.asarray(_features(kind, kind, self._missed(kind))[0], dtype=np.float64)

    def costliest_unseen_loss(self) -> FloatArray:
        """The comment, right by the baseline and wholly missed by the candidate, that costs most macro F1, shape [5·C].

        It has one class, or all classes of a comment that was seen: where labels go together, they are lost together.
        A class of which no comment was seen costs most: nothing is known of it, so nothing is safe.
        """
        kinds = np.unique(np.concatenate([np.eye(self.class_count), self.features[:, : self.class_count]]), axis=0)
        losses = _features(kinds, kinds, self._missed(kinds))
        cost = self.drops(self.counts @ self.features + losses)[:, 0]
        return np.asarray(losses[cost.argmax()], dtype=np.float64)

    def _missed(self, kinds: FloatArray) -> FloatArray:
        """What the candidate says of comments that it misses, [M, C]: nothing, or the other class of a binary label."""
        return 1 - kinds if self.one_label else np.zeros_like(kinds)

    def upper_bounds(self, confidence: float, rounds: int, seed: int, scale: float = 1.0) -> FloatArray:
        """One-sided upper bounds of the three drops, shape [3], as if each pattern occurred `scale` times as often."""
        generator = np.random.default_rng(seed)
        macro_loss, critical_loss = self.costliest_unseen_loss(), self.critical_unseen_loss()
        draws = np.empty((rounds, 3))
        block = max(1, BLOCK_CELLS // len(self.counts))
        for start in range(0, rounds, block):
            size = min(block, rounds - start)
            # A sum of k exponential weights is a gamma variable of shape k: patterns stand for comments.
            totals = generator.standard_gamma(scale * self.counts, (size, len(self.counts))) @ self.features
            unseen = generator.standard_exponential((size, 1))
            draws[start : start + size, :1] = self.drops(totals + unseen * macro_loss)[:, :1]
            draws[start : start + size, 1:] = self.drops(totals + unseen * critical_loss)[:, 1:]
        return np.asarray(np.quantile(draws, confidence, axis=0, method="higher"), dtype=np.float64)

    def scale_within(self, most: FloatArray, confidence: float, seed: int) -> float | None:
        """How many times as many comments like these bring each bound to its limit, to 1 %; at least 1.

        Args:
            most: the limits of the three drops, shape [3].
            confidence: of the bounds.
            seed: of the bootstrap.

        Returns:
            the factor, or None where even `MOST_POSITIVES` critical positives would not do.
        """
        drops, positives = self.drops(self.counts @ self.features), self.critical_positives()
        last = max(MOST_POSITIVES / positives, 2.0) if positives else math.inf
        low, high, scale, tried = 1.0, math.inf, 1.0, 0
        while high > TO * low:
            bounds = self.upper_bounds(confidence, 2000, seed, scale)
            within = bool((bounds <= most).all())
            if not within and scale >= last:
                return None
            low, high = (low, scale) if within and scale > 1.0 else (scale, high)
            # What a bound adds to its drop shrinks with the root of the comments; look on either side of where it fits.
            fits = scale * float(((bounds - drops) / (most - drops)).max()) ** 2
            guess = fits / math.sqrt(TO) if within else fits * math.sqrt(TO)
            if tried >= GUESSES or not low < guess < high:
                guess = math.sqrt(low * high) if math.isfinite(high) else 2.0 * low
            scale, tried = min(guess, last), tried + 1
        return high


def _features(actual: npt.NDArray[Any], first: npt.NDArray[Any], second: npt.NDArray[Any]) -> FloatArray:
    """Columns whose weighted sums are the counts behind both models' F1, from [K, C] indicators: [K, 5·C]."""
    return np.concatenate([actual, first, second, actual * first, actual * second], axis=1).astype(np.float64)
