"""Which models are of one shape: they are equally large and fast, and one of them is timed for all.

To time a small student takes longer than to train it. Another of a shape that was timed costs so much less, and nothing
but its quality is left to chance. Two models are of one shape where they differ only in how they were trained; where
that does not hold, as with heads that are pruned by their importance, it shows, and is believed less.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from search.stage_tree.chains import Prefix
from search.stage_tree.effects import FloatArray

DOUBT, DOUBTED = 0.1, 1.0
"""Share of the models expected to have their shape alone though they should not, and the models that this weighs."""


class Shapes:
    """Shapes that were timed, by the settings that lead to them."""

    def __init__(self, of_training: Collection[str] = (), timing_seconds: float = 0.0) -> None:
        """Take the settings that no shape depends on, and what it takes to time a shape."""
        self._of_training, self._timing = frozenset(of_training), timing_seconds
        self._building: Counter[Prefix] = Counter()
        self._figures: dict[Prefix, FloatArray] = {}
        self._names: set[str] = set()
        self._alike: Counter[str] = Counter()
        self._alone: Counter[str] = Counter()

    def key(self, prefix: Prefix) -> Prefix:
        """What of the settings up to a stage decides the shape of its model."""
        return tuple(item for item in prefix if item[0] not in self._of_training)

    def begin(self, prefixes: Collection[Prefix]) -> None:
        """Models with these settings are being built: who comes later finds them timed."""
        self._building.update(map(self.key, prefixes))

    def end(self, prefixes: Collection[Prefix]) -> None:
        """They are no longer."""
        self._building.subtract(map(self.key, prefixes))

    def add(self, stage: str, prefix: Prefix, shape: str, figures: FloatArray) -> None:
        """A new model of a stage was measured: the name of its shape, and its log size and latency, shape [2]."""
        key = self.key(prefix)
        if key in self._figures:
            self._alike[stage] += 1
            self._alone[stage] += shape not in self._names
        self._names.add(shape)
        self._figures[key] = figures

    def seconds(self, stage: str, prefix: Prefix) -> float:
        """What it should take to time a new model."""
        key = self.key(prefix)
        if key in self._figures or self._building[key] > 0:
            return self._timing * self._doubt(stage)
        return self._timing

    def figures(self, stage: str, prefix: Prefix) -> FloatArray | None:
        """Log size and latency of a new model, shape [2], if others of its shape were timed."""
        return self._figures.get(self.key(prefix)) if self._doubt(stage) <= DOUBT else None

    def _doubt(self, stage: str) -> float:
        return (DOUBT * DOUBTED + self._alone[stage]) / (DOUBTED + self._alike[stage])
