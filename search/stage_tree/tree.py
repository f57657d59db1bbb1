"""What is known of a search as a tree: models that exist, what they measure, and what a new one would add."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from search.stage_tree.chains import Chain, Prefix
from search.stage_tree.effects import PHYSICS, QUALITY, Effects, FloatArray
from search.stage_tree.gain import FrontGain
from search.stage_tree.prospects import Prospects
from search.stage_tree.surface import Surface

EFFECT_SCALES, LEFT_SCALES = (0.03, 0.4, 0.4, 0.05, 0.5), (0.03, 0.15, 0.15, 0.05, 0.2)
"""A typical effect of one setting on the three losses, the excess over the safety limits, and log10 seconds: where
nothing is expected of it, and what is left of it where something is."""
QUALITIES, QUANTITIES = [0, 3], [1, 2, 4]
"""Of `EFFECT_SCALES`: F1 and excess, which are learnt apart from size, latency and seconds."""
FAILURE_SCALE = 0.3
F1_BELOW, F1_ABOVE, ORDERS = 0.05, 0.05, 2.0
"""The box of the hypervolume: F1 from this much below the root to this much above, two orders in size and latency."""
EXCESS_ABOVE = 0.05
"""Beyond the safety limits by this much, a model is no more unsafe than by any more: that is not learnt."""
OVERHEAD_SECONDS = 2.0
"""Of each new model beside its stage: answering, measuring, reporting."""
MOST_RUNNING = 128
"""Running trials whose models are predicted beside the candidates'."""


Expecting = Callable[[Chain], Mapping[str, FloatArray]]
"""Of a chain, by stage: the expected changes in the order of `EFFECT_SCALES`; of seconds, their log10."""
NOTHING = np.zeros(len(EFFECT_SCALES))


@dataclass(frozen=True)
class StageOutcome:
    """What one stage of a trial brought."""

    losses: tuple[float, float, float] | None
    """-macro F1, log10 of size and of latency, in any fixed units; None if the stage failed."""
    excess: float = 0.0
    """Largest drop beyond its safety limit; the model is feasible at 0 or below."""
    seconds: float | None = 0.0
    """What the stage took, whoever ran it; None for a stage that was left out."""


@dataclass(frozen=True)
class _Node:
    """A model that exists."""

    losses: FloatArray
    excess: float


class StageTree:
    """Models that exist, by the settings that lead to them, and beliefs about those that do not."""

    def __init__(self, stages: Sequence[str], seed: int, expected: Expecting | None = None) -> None:
        self._stages, self._seed = tuple(stages), seed
        self._expected = expected or (lambda chain: dict.fromkeys(self._stages, NOTHING))
        self._root: _Node | None = None
        self._gain: FrontGain | None = None
        self._useless = np.full(4, np.inf)
        self._nodes: dict[Prefix, _Node] = {}
        self._open: list[Prefix] = []
        self._near_front: list[Prefix] = []
        self._building: Counter[Prefix] = Counter()
        self._begun: dict[int, Chain] = {}
        self._ended: set[Prefix] = set()
        self._dead: set[Prefix] = set()
        self._left_out: set[Prefix] = set()
        scales = np.array(LEFT_SCALES if expected else EFFECT_SCALES)
        self._qualities = {stage: Surface(scales[QUALITIES], QUALITY) for stage in stages}
        self._quantities = {stage: Effects(scales[QUANTITIES], PHYSICS) for stage in stages}
        self._failures = {stage: Effects((FAILURE_SCALE,)) for stage in stages}

    def plant(self, root: StageOutcome) -> None:
        """The model that every chain begins with was measured."""
        if self._root is None and root.losses is not None:
            self._expected = lru_cache(maxsize=1 << 16)(self._expected)
            self._root = _Node(np.array(root.losses), root.excess)
            worst = self._root.losses + np.array([F1_BELOW, 0.0, 0.0])
            self._useless = np.array([worst[0], np.inf, np.inf, EXCESS_ABOVE])
            best = self._root.losses - np.array([F1_ABOVE, ORDERS, ORDERS])
            self._gain = FrontGain(worst, best, self._seed)

    def begin(self, number: int, chain: Chain) -> None:
        """A trial starts: what it will build is taken."""
        self._begun[number] = chain
        self._building.update(chain.prefixes)

    def end(self, number: int, chain: Chain, outcomes: Sequence[StageOutcome]) -> None:
        """A trial ended; outcomes in the order of the stages, fewer if it was stopped or failed."""
        begun = self._begun.pop(number, None)
        if begun is not None:
            self._building.subtract(begun.prefixes)
        self._ended.add(chain.prefixes[-1])
        if outcomes and len(outcomes) < len(self._stages) and outcomes[-1].losses is not None:
            self._dead.add(chain.prefixes[len(outcomes) - 1])
        parent, expected = self._root, self._expected(chain)
        for stage, prefix, outcome in zip(self._stages, chain.prefixes, outcomes, strict=False):
            known = self._nodes.get(prefix)
            if outcome.seconds is None:
                self._left_out.add(chain.own(stage))
            elif known is None:
                self._learn(stage, chain, parent, outcome, expected[stage])
            if outcome.losses is None:
                return
            if known is None:
                known = self._nodes[prefix] = _Node(np.array(outcome.losses), outcome.excess)
                self._grow(prefix, known)
            parent = known

    def is_taken(self, chain: Chain) -> bool:
        """Whether a trial has run this chain, is at it, or was stopped on its way."""
        last = chain.prefixes[-1]
        return last in self._ended or self._building[last] > 0 or not self._dead.isdisjoint(chain.prefixes)

    def is_new(self, chain: Chain) -> bool:
        """Whether it is not taken, and no trial builds what it lacks."""
        if self.is_taken(chain):
            return False
        missing = next((prefix for prefix in chain.prefixes if prefix not in self._nodes), None)
        return missing is None or self._building[missing] == 0

    def first_missing(self, chain: Chain) -> int:
        """Index of the first stage whose model does not exist; of the last one if all do."""
        missing = (index for index, prefix in enumerate(chain.prefixes) if prefix not in self._nodes)
        return next(missing, len(self._stages) - 1)

    def random_prefix(self, generator: np.random.Generator, near_front: bool) -> dict[str, Any]:
        """Settings that lead to a model that exists; of the front's chains alone if there are any and it is asked."""
        choices = self._near_front if near_front and self._near_front else self._open
        return dict(choices[int(generator.integers(len(choices)))]) if choices else {}

    def prospects(self, chains: Sequence[Chain], generator: np.random.Generator, beliefs: int) -> Prospects:
        """What chains promise under several beliefs; random before the root is known.

        What running trials should bring under the same belief counts as gained already, but not what they would bring
        by luck: else, where many run, all that is good seems to be found.
        """
        if self._root is None or self._gain is None:
            gain, second = generator.random((beliefs, len(chains))), np.ones((beliefs, len(chains)))
            return Prospects(gain, second, gain, second)
        running = self._running(generator)
        luck = [True] * len(chains) + [False] * len(running)
        losses, seconds, works = self._predict(self._root, [*chains, *running], luck, generator, beliefs)
        gained, losses = losses[:, len(chains) :], losses[:, : len(chains)]
        seconds, works = seconds[:, : len(chains)], works[:, : len(chains)]
        later = np.arange(len(self._stages)) > np.array([self.first_missing(chain) for chain in chains])[:, None]
        gain, begun_gain = self._gain.of(losses, [np.ones_like(later), ~later], gained)
        # Where nothing seems to gain, the cheapest chain with a safe model is tried: it teaches something for little.
        safe = np.isfinite(losses).any(axis=(-1, -2))
        return Prospects(
            (gain + 1e-9 * safe + 1e-12) * works,
            seconds.sum(axis=-1),
            begun_gain * works,
            np.where(later, 0.0, seconds).sum(axis=-1),
        )

    def _running(self, generator: np.random.Generator) -> list[Chain]:
        """Chains that trials are at; some of them at random where they are many."""
        chains = list(self._begun.values())
        if len(chains) <= MOST_RUNNING:
            return chains
        return [chains[index] for index in generator.choice(len(chains), MOST_RUNNING, replace=False)]

    def _predict(
        self,
        root: _Node,
        chains: Sequence[Chain],
        luck: Sequence[bool],
        generator: np.random.Generator,
        beliefs: int,
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Losses of each stage's model [beliefs, chains, stages, 3], infinite for one that exists, is left out or is
        infeasible; seconds of each stage [beliefs, chains, stages]; probability that all work [beliefs, chains].
        """
        shape = (beliefs, len(chains), len(self._stages))
        losses, seconds, works = np.full((*shape, 3), np.inf), np.zeros(shape), np.ones(shape)
        values = np.tile(np.append(root.losses, root.excess), (beliefs, len(chains), 1))
        expected = [self._expected(chain) for chain in chains]
        for index, stage in enumerate(self._stages):
            new = []
            for row, chain in enumerate(chains):
                node = self._nodes.get(chain.prefixes[index])
                if node is not None:
                    values[:, row] = np.append(node.losses, node.excess)
                elif chain.own(stage) not in self._left_out:
                    new.append(row)
            if not new:
                continue
            features = [chains[row].features(stage) for row in new]
            effect = np.tile([expected[row][stage] for row in new], (beliefs, 1, 1))
            lucky = [luck[row] for row in new]
            places = [chains[row].places(stage) for row in new]
            effect[..., QUALITIES] += self._qualities[stage].sample(features, places, generator, beliefs, lucky)
            effect[..., QUANTITIES] += self._quantities[stage].sample(features, generator, beliefs)
            failing = self._failures[stage].sample(features, generator, beliefs)[..., 0]
            values[:, new] += effect[..., :4]
            losses[:, new, index] = np.where(values[:, new, 3:] <= 0.0, values[:, new, :3], np.inf)
            seconds[:, new, index] = 10.0 ** np.clip(effect[..., 4], -1.0, 5.0)
            works[:, new, index] = np.where(failing > 0.5, 0.0, 1.0 - np.clip(failing, 0.0, 1.0))
        return losses, seconds, works.prod(axis=-1)

    def _learn(
        self, stage: str, chain: Chain, parent: _Node | None, outcome: StageOutcome, expected: FloatArray
    ) -> None:
        features = chain.features(stage)
        self._failures[stage].add(features, [float(outcome.losses is None)])
        if outcome.losses is None or parent is None:
            return
        seconds = np.log10((outcome.seconds or 0.0) + OVERHEAD_SECONDS)
        before, after = np.append(parent.losses, parent.excess), np.append(outcome.losses, outcome.excess)
        change = np.minimum(after, self._useless) - np.minimum(before, self._useless)
        measured = np.append(change, seconds) - expected
        self._qualities[stage].add(features, chain.places(stage), measured[QUALITIES])
        self._quantities[stage].add(features, measured[QUANTITIES])

    def _grow(self, prefix: Prefix, node: _Node) -> None:
        """A new model: chains may go on below it, and the front may grow."""
        if prefix not in self._ended and prefix not in self._dead:
            self._open.append(prefix)
        if node.excess <= 0.0 and self._gain is not None and self._gain.add(node.losses):
            self._near_front.append(prefix)
            del self._near_front[:-64]
