"""What is believed of models that do not exist: what each stage does to quality, size, latency and seconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from search.stage_tree.chains import Chain
from search.stage_tree.effects import PHYSICS, QUALITY, Effects, FloatArray
from search.stage_tree.surface import Surface

EFFECT_SCALES, LEFT_SCALES = (0.03, 0.4, 0.4, 0.05, 0.5), (0.03, 0.15, 0.15, 0.05, 0.2)
"""A typical effect of one setting on the three losses, the excess over the safety limits, and log10 seconds: where
nothing is expected of it, and what is left of it where something is."""
QUALITIES, QUANTITIES = [0, 3], [1, 2, 4]
"""Of `EFFECT_SCALES`: F1 and excess, which are learnt apart from size, latency and seconds."""
FAILURE_SCALE = 0.3
OVERHEAD_SECONDS = 2.0
"""Of each new model beside its stage: answering, measuring, reporting."""


@dataclass(frozen=True)
class StageOutcome:
    """What one stage of a trial brought."""

    losses: tuple[float, float, float] | None
    """-macro F1 (or another quality), log10 of size and of latency, in any fixed units; None if the stage failed.
    Latency is NaN while it is not known."""
    excess: float = 0.0
    """Largest drop beyond its safety limit; the model is feasible at 0 or below."""
    seconds: float | None = 0.0
    """What the stage took, whoever ran it; None for a stage that was left out."""
    shape: str = ""
    """Name of what it has in common with all models that are as large and as fast."""


class Beliefs:
    """Beliefs about every stage, which outcomes change."""

    def __init__(self, stages: Sequence[str], expecting: bool) -> None:
        """Begin with what is believed where something is expected of the settings, or nothing."""
        scales = np.array(LEFT_SCALES if expecting else EFFECT_SCALES)
        self.useless = np.full(4, np.inf)
        """Losses and excess from which on a model is no worse than any that is worse still: that is not learnt."""
        self.qualities = {stage: Surface(scales[QUALITIES], QUALITY) for stage in stages}
        self.quantities = {stage: Effects(scales[QUANTITIES], PHYSICS) for stage in stages}
        self._failures = {stage: Effects((FAILURE_SCALE,)) for stage in stages}

    def learn(
        self,
        stage: str,
        chain: Chain,
        parent: FloatArray | None,
        outcome: StageOutcome,
        expected: FloatArray,
        quality: bool = True,
    ) -> None:
        """Learn from a new model, or that its stage failed.

        Args:
            stage: that built it.
            chain: that it is of.
            parent: losses and excess of the model that the stage began with, shape [4].
            outcome: what the model measures; size, latency and seconds are learnt as soon as the latency is known.
            expected: of the stage, in the order of `EFFECT_SCALES`.
            quality: whether F1 and excess, and that the stage works, are yet to be learnt.
        """
        features = chain.features(stage)
        if quality:
            self._failures[stage].add(features, [float(outcome.losses is None)])
        if outcome.losses is None or parent is None:
            return
        measured = self._measured(parent, outcome, expected)
        if quality:
            self.qualities[stage].add(features, chain.places(stage), measured[QUALITIES])
        if np.isfinite(measured).all():
            self.quantities[stage].add(features, measured[QUANTITIES])

    def _measured(self, parent: FloatArray, outcome: StageOutcome, expected: FloatArray) -> FloatArray:
        """The change against the parent that was not expected, in the order of `EFFECT_SCALES`."""
        after = np.append(outcome.losses or (), outcome.excess)
        change = np.minimum(after, self.useless) - np.minimum(parent, self.useless)
        return np.asarray(np.append(change, np.log10((outcome.seconds or 0.0) + OVERHEAD_SECONDS)) - expected)

    def sample(
        self,
        stage: str,
        chains: Sequence[Chain],
        luck: Sequence[bool],
        expected: Sequence[FloatArray],
        generator: np.random.Generator,
        beliefs: int,
    ) -> tuple[FloatArray, FloatArray]:
        """Changes that a stage of chains brings, [beliefs, chains, 5] in the order of `EFFECT_SCALES`, and the
        probability that it works, [beliefs, chains]; `luck` says whose own luck is drawn.
        """
        features, places = [chain.features(stage) for chain in chains], [chain.places(stage) for chain in chains]
        change = np.tile(np.asarray(expected), (beliefs, 1, 1))
        change[..., QUALITIES] += self.qualities[stage].sample(features, places, generator, beliefs, luck)
        change[..., QUANTITIES] += self.quantities[stage].sample(features, generator, beliefs)
        failing = self._failures[stage].sample(features, generator, beliefs)[..., 0]
        return change, np.where(failing > 0.5, 0.0, 1.0 - np.clip(failing, 0.0, 1.0))
