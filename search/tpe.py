"""TPE for many trials: Optuna's own suggestions, without reading every earlier trial again for each setting."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import TPESampler
from optuna.samplers._tpe.sampler import _split_trials, default_gamma, default_gamma_multiobjective
from optuna.trial import FrozenTrial, TrialState

Numbers = npt.NDArray[np.int64]


class RememberingTPESampler(TPESampler):
    """TPE (Bergstra et al. 2011; with several objectives Ozaki et al. 2022) as Optuna has it, for one study that grows.

    Optuna's parts the trials into good ones and others, and collects what they had, for each setting of each
    suggestion: with 2,000 trials of ten settings 0.1 s. This one parts them when a trial has ended, and collects what a
    trial had once. Suggestions are the same, trial by trial, as long as one process asks for them.
    """

    def __init__(self, seed: int, startup_trials: int) -> None:
        super().__init__(seed=seed, n_startup_trials=startup_trials)
        self._noted: dict[int, int] = {}
        """By number of a trial: how many of its settings are in `_values`."""
        self._values: dict[str, npt.NDArray[np.float64]] = {}
        """By setting and number of a trial: its value, as Optuna's distribution represents it; NaN without one."""
        self._parted: tuple[int, list[FrozenTrial], list[FrozenTrial]] = 0, [], []
        self._asked: tuple[int, Numbers, Numbers] = -1, np.empty(0, np.int64), np.empty(0, np.int64)

    def _sample(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        if self._asked[0] != trial.number:
            self._asked = trial.number, *self._look(study, trial)
        _, good, others = self._asked
        estimators = (
            self._build_parzen_estimator(study, search_space, good, handle_below=True),  # type: ignore[arg-type]
            self._build_parzen_estimator(study, search_space, others, handle_below=False),  # type: ignore[arg-type]
        )
        drawn = estimators[0].sample(self._rng.rng, self._n_ei_candidates)
        best = self._compare(drawn, self._compute_acquisition_func(drawn, *estimators))
        return {name: distribution.to_external_repr(best[name]) for name, distribution in search_space.items()}

    def _look(self, study: Study, trial: FrozenTrial) -> tuple[Numbers, Numbers]:
        """Numbers of the good trials, and of the others, among which all that run if Optuna counts them."""
        trials = study._get_trials(deepcopy=False, use_cache=True)
        ended = [one for one in trials if one.state in (TrialState.COMPLETE, TrialState.PRUNED)]
        if len(ended) != self._parted[0]:
            share = default_gamma_multiobjective if study._is_multi_objective() else default_gamma
            self._parted = len(ended), *_split_trials(study, ended, share(len(ended)))
        _, good, others = self._parted
        if self._constant_liar:
            running = (one for one in trials if one.state is TrialState.RUNNING and one.number != trial.number)
            others = sorted([*others, *running], key=lambda one: one.number)
        for one in (*good, *others):
            self._note(one)
        return np.array([one.number for one in good], np.int64), np.array([one.number for one in others], np.int64)

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
