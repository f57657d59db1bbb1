"""TPE for many trials: Optuna's own suggestions, without reading every earlier trial again for each setting."""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence
from operator import attrgetter
from typing import Any

import numpy as np
import numpy.typing as npt
from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import TPESampler
from optuna.samplers._tpe.sampler import (
    _get_infeasible_trial_score,
    _split_complete_trials,
    _split_infeasible_trials,
    _split_pruned_trials,
    default_gamma,
    default_gamma_multiobjective,
)
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from search.ranks import Ranks

Numbers = npt.NDArray[np.int64]
_number = attrgetter("number")


class RememberingTPESampler(TPESampler):
    """TPE (Bergstra et al. 2011; with several objectives Ozaki et al. 2022) as Optuna has it, for one study that grows.

    Optuna's parts the trials into good ones and others, and collects what they had, for each setting of each
    suggestion: with 2,000 trials of ten settings 0.1 s. This one parts them when a trial has ended, and looks at an
    ended trial once. Suggestions are the same, trial by trial, as long as one process asks for them.
    """

    def __init__(self, seed: int, startup_trials: int) -> None:
        super().__init__(seed=seed, n_startup_trials=startup_trials)
        self._noted: dict[int, int] = {}
        """By number of a trial: how many of its settings are in `_values`."""
        self._values: dict[str, npt.NDArray[np.float64]] = {}
        """By setting and number of a trial: its value, as Optuna's distribution represents it; NaN without one."""
        self._seen, self._open = 0, list[int]()
        """How many trials were seen, and the numbers of those of them that had not ended."""
        self._ended: list[int] = []
        """Numbers of those that are learnt from."""
        self._complete, self._pruned, self._unsafe = list[FrozenTrial](), list[FrozenTrial](), list[FrozenTrial]()
        """Those of one objective, those that were pruned, and those that break a constraint; each by number."""
        self._ranks: Ranks | None = None
        """Of the complete ones of several objectives."""
        self._good: tuple[int, Numbers] = 0, np.empty(0, np.int64)
        self._asked: tuple[int, Numbers, Numbers] = -1, np.empty(0, np.int64), np.empty(0, np.int64)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A value of the setting, at random as long as few trials have ended."""
        self._look(study, trial)
        if len(self._ended) < self._n_startup_trials:
            return self._random_sampler.sample_independent(study, trial, param_name, param_distribution)
        return self._sample(study, trial, {param_name: param_distribution})[param_name]

    def _sample(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        good, others = self._look(study, trial)
        estimators = (
            self._build_parzen_estimator(study, search_space, good, handle_below=True),  # type: ignore[arg-type]
            self._build_parzen_estimator(study, search_space, others, handle_below=False),  # type: ignore[arg-type]
        )
        drawn = estimators[0].sample(self._rng.rng, self._n_ei_candidates)
        best = self._compare(drawn, self._worth(drawn, *estimators))
        return {name: distribution.to_external_repr(best[name]) for name, distribution in search_space.items()}

    def _worth(self, drawn: dict[str, npt.NDArray[Any]], *estimators: Any) -> npt.NDArray[np.float64]:
        """What Optuna chooses by; of a value that was drawn several times it is worked out once."""
        if len(drawn) > 1:
            return self._compute_acquisition_func(drawn, *estimators)
        [(name, values)] = drawn.items()
        different, which = np.unique(values, return_inverse=True)
        return np.asarray(self._compute_acquisition_func({name: different}, *estimators)[which], dtype=np.float64)

    def _look(self, study: Study, trial: FrozenTrial) -> tuple[Numbers, Numbers]:
        """Numbers of the good trials, and of the others, among which all that run if Optuna counts them."""
        if self._asked[0] == trial.number:
            return self._asked[1:]
        running = self._take_in(study, study._get_trials(deepcopy=False, use_cache=True))
        if len(self._ended) != self._good[0]:
            self._good = len(self._ended), self._part(study)
        good = self._good[1]
        counted = [number for number in running if number != trial.number] if self._constant_liar else []
        other = np.zeros(self._seen, np.bool_)
        other[self._ended + counted] = True
        other[good] = False
        self._asked = trial.number, good, np.flatnonzero(other)
        return self._asked[1:]

    def _take_in(self, study: Study, trials: Sequence[FrozenTrial]) -> list[int]:
        """Note what trials have had and how they ended since the last look; the numbers of those that run."""
        running, still_open = [], []
        for number in (*self._open, *range(self._seen, len(trials))):
            one = trials[number]
            if not one.state.is_finished():
                still_open.append(number)
            if one.state is TrialState.RUNNING:
                running.append(number)
                self._note(one)
            elif one.state in (TrialState.COMPLETE, TrialState.PRUNED):
                self._note(one)
                self._learn(study, one)
        self._seen, self._open = len(trials), still_open
        return running

    def _learn(self, study: Study, trial: FrozenTrial) -> None:
        """Keep an ended trial among those of its kind."""
        self._ended.append(trial.number)
        if _get_infeasible_trial_score(trial) > 0:
            insort(self._unsafe, trial, key=_number)
        elif trial.state is TrialState.PRUNED:
            insort(self._pruned, trial, key=_number)
        elif study._is_multi_objective():
            self._ranks = self._ranks or Ranks(len(study.directions))
            signs = [-1.0 if direction is StudyDirection.MAXIMIZE else 1.0 for direction in study.directions]
            self._ranks.add(trial.number, np.array(trial.values) * signs)
        else:
            insort(self._complete, trial, key=_number)

    def _part(self, study: Study) -> Numbers:
        """The good trials: the best complete ones, then pruned ones, then those that come nearest to be feasible."""
        share = default_gamma_multiobjective if study._is_multi_objective() else default_gamma
        room = share(len(self._ended))
        good = self._ranks.best(room).tolist() if self._ranks else []
        for split, trials in ((_split_complete_trials, self._complete), (_split_pruned_trials, self._pruned)):
            if trials and room > len(good):
                good += [one.number for one in split(trials, study, room - len(good))[0]]
        if room > len(good):
            good += [one.number for one in _split_infeasible_trials(self._unsafe, room - len(good))[0]]
        return np.array(sorted(good), np.int64)

    def _note(self, trial: FrozenTrial) -> None:
        """Keep the values of a trial, unless they are kept."""
        if self._noted.get(trial.number) == len(trial.params):
            return
        self._noted[trial.number] = len(trial.params)
        for name, value in trial.params.items():
            values = self._values.setdefault(name, np.full(64, np.nan))
            if trial.number >= len(values):
                values = np.concatenate([values, np.full(trial.number + 1, np.nan)])
                self._values[name] = values
            values[trial.number] = trial.distributions[name].to_internal_repr(value)

    def _get_internal_repr(
        self, trials: Any, search_space: dict[str, BaseDistribution], study: Study
    ) -> dict[str, npt.NDArray[np.float64]]:
        """Of the trials with these numbers that have all these settings, the values of each."""
        columns = np.full((len(search_space), len(trials)), np.nan)
        for column, name in zip(columns, search_space, strict=True):
            values = self._values.get(name, np.empty(0))
            there = trials < len(values)
            column[there] = values[trials[there]]
        whole = ~np.isnan(columns).any(axis=0)
        return {name: column[whole] for name, column in zip(search_space, columns, strict=True)}
