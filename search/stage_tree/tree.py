"""What is known of a search as a tree: models that exist, what they measure, and what a new one would add."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from search.stage_tree.beliefs import EFFECT_SCALES, Beliefs, StageOutcome
from search.stage_tree.chains import Chain, Prefix
from search.stage_tree.effects import FloatArray
from search.stage_tree.gain import FrontGain
from search.stage_tree.prospects import Prospects
from search.stage_tree.shapes import Shapes

F1_BELOW, F1_ABOVE, ORDERS = 0.05, 0.05, 2.0
"""The box of the hypervolume: F1 from this much below the root to this much above, two orders in size and latency."""
EXCESS_ABOVE = 0.05
"""Beyond the safety limits by this much, a model is no more unsafe than by any more."""
MOST_RUNNING, OF_MANY = 128, 16
"""Running trials whose models are predicted beside the candidates', and how many of them, at random, where more run:
what hundreds should bring leaves little to gain near the best, though the luck of each new model there is its own."""


Expecting = Callable[[Chain], Mapping[str, FloatArray]]
"""Of a chain, by stage: the expected changes in the order of `EFFECT_SCALES`; of seconds, their log10."""
NOTHING = np.zeros(len(EFFECT_SCALES))
Goal = Callable[[FloatArray, FloatArray], FloatArray]
"""Of the losses of models [..., 3] and of the root's [3]: what counts [..., m], infinite or NaN for none that does."""


class StageTree:
    """Models that exist, by the settings that lead to them, and beliefs about those that do not."""

    def __init__(
        self,
        stages: Sequence[str],
        seed: int,
        expected: Expecting | None = None,
        shapes: Shapes | None = None,
        goal: Goal = lambda losses, root: losses,
    ) -> None:
        self._stages, self._seed = tuple(stages), seed
        self._shapes = shapes or Shapes()
        self._expected = expected or (lambda chain: dict.fromkeys(self._stages, NOTHING))
        self._goal = goal
        self._root: FloatArray | None = None
        self._gain: FrontGain | None = None
        self._nodes: dict[Prefix, FloatArray] = {}
        """Losses and excess of models that exist, shape [4]."""
        self._untimed: dict[Prefix, FloatArray] = {}
        """Likewise, of those whose latency is not known yet."""
        self._open: list[Prefix] = []
        self._near_front: list[Prefix] = []
        self._building: Counter[Prefix] = Counter()
        self._begun: dict[int, Chain] = {}
        self._ended: set[Prefix] = set()
        self._dead: set[Prefix] = set()
        self._left_out: set[Prefix] = set()
        self.beliefs = Beliefs(self._stages, expecting=expected is not None)

    def plant(self, root: StageOutcome) -> None:
        """The model that every chain begins with was measured."""
        if self._root is None and root.losses is not None:
            self._expected = lru_cache(maxsize=1 << 16)(self._expected)
            self._root = np.append(root.losses, root.excess)
            worst = self._root[:3] + np.array([F1_BELOW, 0.0, 0.0])
            best = self._root[:3] - np.array([F1_ABOVE, ORDERS, ORDERS])
            self.beliefs.useless = np.array([worst[0], np.inf, np.inf, EXCESS_ABOVE])
            self._gain = FrontGain(self._aims(worst), self._aims(best), self._seed)

    def begin(self, number: int, chain: Chain) -> None:
        """A trial starts, or starts again: what it will build is taken."""
        self._leave(number)
        self._begun[number] = chain
        self._building.update(chain.prefixes)
        self._shapes.begin(chain.prefixes)

    def hear(self, chain: Chain, outcomes: Sequence[StageOutcome]) -> None:
        """A trial has built its models; it ends when the latency of all of them is known. Outcomes as in `end`."""
        self._ended.add(chain.prefixes[-1])
        if outcomes and len(outcomes) < len(self._stages) and outcomes[-1].losses is not None:
            self._dead.add(chain.prefixes[len(outcomes) - 1])
        parent, expected = self._root, self._expected(chain)
        for stage, prefix, outcome in zip(self._stages, chain.prefixes, outcomes, strict=False):
            known, heard = self._nodes.get(prefix), prefix in self._untimed
            if outcome.seconds is None:
                self._left_out.add(chain.own(stage))
            elif known is None:
                self.beliefs.learn(stage, chain, parent, outcome, expected[stage], quality=not heard)
            if outcome.losses is None:
                return
            if known is None:
                known = np.append(outcome.losses, outcome.excess)
                if not heard and prefix not in self._ended and prefix not in self._dead:
                    self._open.append(prefix)
                self._grow(prefix, known)
                if outcome.seconds is not None and np.isfinite(known).all():
                    self._shapes.add(stage, prefix, outcome.shape, known[1:3])
            parent = known

    def end(self, number: int, chain: Chain, outcomes: Sequence[StageOutcome]) -> None:
        """A trial ended; outcomes in the order of the stages, fewer if it was stopped or failed."""
        self._leave(number)
        self.hear(chain, outcomes)

    def _leave(self, number: int) -> None:
        """What a trial was to build is taken by it no longer."""
        if (begun := self._begun.pop(number, None)) is not None:
            self._building.subtract(begun.prefixes)
            self._shapes.end(begun.prefixes)

    @property
    def is_bare(self) -> bool:
        """Whether no model is known but the root."""
        return not self._nodes and not self._untimed

    def expected_seconds(self, chain: Chain) -> float:
        """What its stages should take by what is known beforehand, whether or not they exist."""
        return float(sum(10.0 ** change[4] for change in self._expected(chain).values()))

    def is_taken(self, chain: Chain) -> bool:
        """Whether a trial has run this chain, is at it, or was stopped on its way."""
        last = chain.prefixes[-1]
        return last in self._ended or self._building[last] > 0 or not self._dead.isdisjoint(chain.prefixes)

    def is_new(self, chain: Chain) -> bool:
        """Whether it is not taken, and no trial builds what it lacks."""
        if self.is_taken(chain):
            return False
        missing = next((prefix for prefix in chain.prefixes if not self._exists(prefix)), None)
        return missing is None or self._building[missing] == 0

    def _exists(self, prefix: Prefix) -> bool:
        return prefix in self._nodes or prefix in self._untimed

    def first_missing(self, chain: Chain) -> int:
        """Index of the first stage whose model does not exist; of the last one if all do."""
        missing = (index for index, prefix in enumerate(chain.prefixes) if not self._exists(prefix))
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
        gain, begun_gain = self._gain.of(self._aims(losses), [np.ones_like(later), ~later], self._aims(gained))
        # Where nothing seems to gain, the cheapest chain with a safe model is tried: it teaches something for little.
        safe = np.isfinite(losses).any(axis=(-1, -2))
        return Prospects(
            (gain + 1e-9 * safe + 1e-12) * works,
            seconds.sum(axis=-1),
            begun_gain * works,
            np.where(later, 0.0, seconds).sum(axis=-1),
        )

    def _aims(self, losses: FloatArray) -> FloatArray:
        """What counts of losses, [..., m]."""
        assert self._root is not None
        return self._goal(losses, self._root[:3])

    def _running(self, generator: np.random.Generator) -> list[Chain]:
        """Chains that trials are at; a few of them at random where they are many."""
        chains = list(self._begun.values())
        if len(chains) <= MOST_RUNNING:
            return chains
        return [chains[index] for index in generator.choice(len(chains), OF_MANY, replace=False)]

    def _predict(
        self,
        root: FloatArray,
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
        values = np.tile(root, (beliefs, len(chains), 1))
        expected = [self._expected(chain) for chain in chains]
        for index, stage in enumerate(self._stages):
            new = []
            for row, chain in enumerate(chains):
                node = self._nodes.get(chain.prefixes[index])
                if node is not None:
                    values[:, row] = node
                elif chain.own(stage) not in self._left_out:
                    new.append(row)
            if not new:
                continue
            its_chains, its_luck = [chains[row] for row in new], [luck[row] for row in new]
            its_expected = [expected[row][stage] for row in new]
            change, works[:, new, index] = self.beliefs.sample(
                stage, its_chains, its_luck, its_expected, generator, beliefs
            )
            values[:, new] += change[..., :4]
            timing = self._known_figures(stage, new, [chain.prefixes[index] for chain in its_chains], values)
            seconds[:, new, index] = 10.0 ** np.clip(change[..., 4], -1.0, 5.0) + timing
            losses[:, new, index] = np.where(values[:, new, 3:] <= 0.0, values[:, new, :3], np.inf)
            built = [row for row in new if chains[row].prefixes[index] in self._untimed]
            seconds[:, built, index], works[:, built, index] = 0.0, 1.0
            losses[:, [row for row in built if luck[row]], index] = np.inf  # it is the gain of the trial that built it
        return losses, seconds, works.prod(axis=-1)

    def _known_figures(
        self, stage: str, rows: Sequence[int], prefixes: Sequence[Prefix], values: FloatArray
    ) -> list[float]:
        """Put what is known of models that are not measured in place of beliefs; the seconds to time each of them.

        Args:
            stage: that builds the models.
            rows: of `values`, one for each model.
            prefixes: of the models.
            values: losses and excess, shape [beliefs, rows, 4].
        """
        for row, prefix in zip(rows, prefixes, strict=True):
            if (figures := self._shapes.figures(stage, prefix)) is not None:
                values[:, row, 1:3] = figures
            if (untimed := self._untimed.get(prefix)) is not None:
                values[:, row, [0, 1, 3]] = untimed[[0, 1, 3]]
        return [self._shapes.seconds(stage, prefix) for prefix in prefixes]

    def _grow(self, prefix: Prefix, node: FloatArray) -> None:
        """A new model, or one whose latency is known now: the front may grow."""
        if np.isnan(node[2]):
            self._untimed[prefix] = node
            return
        self._untimed.pop(prefix, None)
        self._nodes[prefix] = node
        if node[3] <= 0.0 and self._gain is not None and self._gain.add(self._aims(node[:3])):
            self._near_front.append(prefix)
            del self._near_front[:-64]
