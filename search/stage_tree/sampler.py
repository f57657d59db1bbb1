"""The stage-tree sampler: spends each second where it is expected to add most to the front.

Trials that share the first stages of their chains share the models that these leave behind. So a suggestion may open a
new student, prune a student that exists, or quantize a pruned model that exists, and these differ in cost by a hundred
times. What each would give is predicted from the effects of the settings seen so far (`surface.py`), added to the
measured figures of the longest prefix that exists; what it would cost, from the measured seconds of the stages that are
still to be run. The chain with the largest expected gain in hypervolume per second is suggested: the mean over draws of
beliefs, as in expected hypervolume improvement (Emmerich et al. 2011, doi:10.1109/CEC.2011.5949880), by the second
(Snoek et al. 2012, arXiv:1206.2944). What running trials should bring under the same belief counts as gained already
(Daulton et al. 2020, arXiv:2006.05078). Where a round suggests several chains, the others are best by single beliefs,
or next by the mean where many trials run: so many chains seem best by luck under one belief that it says little.
A chain whose later stages are dear and pay seldom is begun only, and gone on with if its student deserves it
(`prospects.py`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any, Protocol

import numpy as np
from optuna import Study
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState
from threadpoolctl import ThreadpoolController

from search.independent import IndependentSampler
from search.stage_tree.beliefs import StageOutcome
from search.stage_tree.chains import Chain, Space, draw_chain, plain
from search.stage_tree.shapes import Shapes
from search.stage_tree.tree import Expecting, Goal, StageTree


class Outcomes(Protocol):
    """How a study's measurements are read."""

    def root(self, study: Study) -> StageOutcome | None:
        """The model that every chain begins with; None while it is not known."""

    def of(self, trial: FrozenTrial, root: StageOutcome | None) -> Sequence[StageOutcome]:
        """A trial's stages in their order: fewer if it was stopped, the last without losses if it failed.

        Latency is NaN where it is not known yet.
        """


CANDIDATES, FEWEST_CANDIDATES = 384, 8
"""Chains drawn for a round of prediction; fewer each time that all were taken, as in a space that was run whole."""
SUGGESTIONS_PER_TRIAL = 1 / 128
"""Further suggestions taken from one round of prediction, per trial so far: a round costs tens of milliseconds."""
MOST_SUGGESTIONS = CANDIDATES // 2
BELIEFS = 32
"""Drawn for a round."""
MANY, DRAWN_UNTRIED = 128, 3
"""More trials at a time than this are many. Those that begin before any model is measured are drawn at random, and run
whole: what is expected beforehand is wrong alike for all of a kind, and they would be of few kinds. Of so many drawn
the one that promises most a second is begun."""


class StageTreeSampler(IndependentSampler):
    """An Optuna sampler of staged chains; the space's settings are named `stage.setting`."""

    def __init__(
        self,
        space: Space,
        stages: Sequence[str],
        outcomes: Outcomes,
        *,
        seed: int,
        startup_trials: int = 4,
        expected: Expecting | None = None,
        without: Mapping[str, Mapping[str, Any]] | None = None,
        shapes: Shapes | None = None,
        promise: Callable[[Chain], float] = lambda chain: 1.0,
        goal: Goal = lambda losses, root: losses,
    ) -> None:
        """Take the define-by-run space, the stages in their order, and how a trial's outcomes are read.

        Args:
            space: asks a trial for its settings, as the study's trials will be asked.
            stages: in the chain's order; the part of a setting's name before the dot.
            outcomes: reads root and trials of the study.
            seed: with one worker, equal seeds give equal suggestions.
            startup_trials: chains drawn at random before the first prediction.
            expected: what is known of the stages beforehand; what is learnt is how they differ from it.
            without: by stage, the settings that leave it out; a chain can then be begun, and its rest decided later.
            shapes: learns which models need not be timed; without it none is thought to take any time for that.
            promise: of a chain while nothing is measured, above 0, in any unit: alike for all, the cheapest is best.
            goal: what is minimised, of the losses of models and the root's; the front of the losses without it.
        """
        self._space, self._stages, self._outcomes = space, tuple(stages), outcomes
        self._seed, self._startup = seed, startup_trials
        self._generator = np.random.default_rng(seed)
        self._without, self._promise = without or {}, promise
        self.tree = StageTree(self._stages, seed, expected, shapes, goal)
        self._root: StageOutcome | None = None
        self._ended = 0
        self._planned: dict[int, Chain] = {}
        self._queue: deque[Chain] = deque()
        self._tries = CANDIDATES
        self._libraries = ThreadpoolController()

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Plan the whole chain, unless the trial has settings: one that is run again, or was enqueued with its own."""
        self._take_up(study)
        fixed = trial.params or trial.system_attrs.get("fixed_params")
        chain = self._drawn(fixed) if fixed is not None else self._plan()
        self._planned[trial.number] = chain
        self.tree.begin(trial.number, chain)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """The planned value; where a question was not foreseen, a random one that fits."""
        chain = self._planned.get(trial.number)
        if chain is not None:
            value = chain.params.get(param_name, self)
            if value is not self and param_distribution._contains(param_distribution.to_internal_repr(value)):
                return value
        generator = np.random.default_rng([self._seed, trial.number, len(trial.params)])
        return draw_chain(_asking(param_name, param_distribution), (), generator).params[param_name]

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """Learn from what the trial measured."""
        self._take_up(study)  # a resumed search ends a trial of the earlier run before it begins one of its own
        self._learn(trial)
        self._planned.pop(trial.number, None)

    def hear(self, trial: FrozenTrial) -> None:
        """Learn from a trial that runs and has measured its models, but for a speed that another trial measures."""
        chain = self._planned.get(trial.number)
        if chain is not None:
            self.tree.hear(chain, self._outcomes.of(trial, self._root))

    def _take_up(self, study: Study) -> None:
        """As soon as the root is known: it, and all that trials of an earlier run measured."""
        if self._root is None and (root := self._outcomes.root(study)) is not None:
            self._root = root
            self.tree.plant(root)
            for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.FAIL)):
                self._learn(trial)

    def _learn(self, trial: FrozenTrial) -> None:
        self._ended += 1
        given = {plain(name): value for name, value in trial.params.items()}
        chain = self._planned.get(trial.number) or self._drawn(given)
        self.tree.end(trial.number, chain, self._outcomes.of(trial, self._root))

    def _plan(self) -> Chain:
        """The next chain: from the last round of prediction while it lasts, else from a new one."""
        for _ in range(len(self._queue)):
            chain = self._queue.popleft()
            if self.tree.is_new(chain):
                return chain
            if not self.tree.is_taken(chain):  # what it lacks is being built
                self._queue.append(chain)
        if self._ended < self._startup:
            return self._random_new()
        many = len(self._planned) >= MANY
        if self.tree.is_bare and many:
            untried = [self._random_new() for _ in range(DRAWN_UNTRIED)]
            return max(untried, key=lambda chain: self._promise(chain) / self.tree.expected_seconds(chain))
        drawn = self._candidates(self._tries)
        candidates = [chain for chain in drawn if self.tree.is_new(chain)]
        self._tries = CANDIDATES if candidates else max(self._tries // 2, FEWEST_CANDIDATES)
        if not candidates:  # rather wait for a model that another builds than run a chain twice
            return next((chain for chain in drawn if not self.tree.is_taken(chain)), None) or self._drawn()
        trials = self._ended + len(self._planned)
        suggestions = min(1 + int(trials * SUGGESTIONS_PER_TRIAL), MOST_SUGGESTIONS)
        with self._libraries.limit(limits=1, user_api="blas"):  # small matrices: more threads only wait for another
            prospects = self.tree.prospects(candidates, self._generator, BELIEFS)
        worth, better_begun = prospects.per_second, prospects.better_begun
        mean = worth.mean(axis=0, keepdims=True)
        one_by_one = np.argsort(-(mean if many else worth), axis=1, kind="stable").T.ravel().tolist()
        best_first = [int(mean.argmax()), *one_by_one]
        best, *others = [
            self._begun(candidates[index]) if better_begun[index] else candidates[index]
            for index in islice(dict.fromkeys(best_first), suggestions)
        ]
        self._queue.extend(others)
        return best

    def _candidates(self, count: int) -> list[Chain]:
        """Chains below models that exist, new students near those of the front, and new ones at random."""
        chains = []
        for index in range(count):
            kind = index % 4
            below = self.tree.random_prefix(self._generator, near_front=kind == 1) if kind < 3 else {}
            if kind == 2 and below:  # a neighbour: a few settings of a known chain drawn anew
                kept = self._generator.random(len(below)) < 0.8
                below = {name: value for (name, value), keep in zip(below.items(), kept, strict=True) if keep}
            chains.append(self._drawn(below))
        return chains

    def _begun(self, chain: Chain) -> Chain:
        """The chain up to its first missing stage, if the space can leave the rest out; else all of it."""
        first = self.tree.first_missing(chain)
        rest: dict[str, Any] = {}
        for stage in self._stages[first + 1 :]:
            rest |= self._without.get(stage, {})
        short = self._drawn(dict(chain.prefixes[first]) | rest)
        fits = short.prefixes[first] == chain.prefixes[first] and rest.items() <= dict(short.prefixes[-1]).items()
        return short if fits and self.tree.is_new(short) else chain

    def _drawn(self, given: Any = None) -> Chain:
        settings = {plain(name): value for name, value in (given or {}).items()}
        return draw_chain(self._space, self._stages, self._generator, settings)

    def _random_new(self) -> Chain:
        """A random chain that is neither measured nor at work; where many in a row are, one that waits for such."""
        waits = None
        for _ in range(CANDIDATES):
            chain = self._drawn()
            if self.tree.is_new(chain):
                return chain
            waits = waits or (None if self.tree.is_taken(chain) else chain)
        return waits or self._drawn()


def _asking(name: str, distribution: BaseDistribution) -> Space:
    """A space of one setting."""

    def ask(trial: Any) -> Any:
        if isinstance(distribution, CategoricalDistribution):
            return trial.suggest_categorical(name, distribution.choices)
        bounds: Any = distribution
        suggest = trial.suggest_int if isinstance(distribution, IntDistribution) else trial.suggest_float
        return suggest(name, bounds.low, bounds.high, step=bounds.step, log=bounds.log)

    return ask
