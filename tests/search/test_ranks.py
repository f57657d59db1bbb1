"""Non-domination ranks one by one: those that Optuna computes for all points anew."""

from __future__ import annotations

import numpy as np
import optuna
import pytest
from optuna.samplers._tpe.sampler import _split_complete_trials_multi_objective
from optuna.study._multi_objective import _fast_non_domination_rank
from optuna.trial import create_trial

from search.ranks import Ranks


def points(count: int, objectives: int, steps: int, seed: int) -> np.ndarray:
    """On a grid: few steps make many equal points."""
    return np.random.default_rng(seed).integers(0, steps, (count, objectives)) / steps


@pytest.mark.parametrize("objectives", [2, 3])
@pytest.mark.parametrize("steps", [3, 40, 10_000])
def test_ranks_are_those_of_all_points_at_once(objectives: int, steps: int) -> None:
    losses = points(200, objectives, steps, seed=steps)
    ranks = Ranks(objectives)
    for number, point in enumerate(losses):
        ranks.add(number, point)
        if number % 40 == 39:
            expected = _fast_non_domination_rank(losses[: number + 1])
            assert ranks.ranks == dict(enumerate(expected.tolist()))


@pytest.mark.parametrize("steps", [3, 40, 10_000])
def test_the_best_are_those_that_optuna_takes_in_whatever_order_they_came(steps: int) -> None:
    losses = points(150, 3, steps, seed=1)
    ranks = Ranks(3)
    for number in np.random.default_rng(2).permutation(150):
        ranks.add(int(number), losses[number])
    study = optuna.create_study(directions=["minimize"] * 3)
    trials = [create_trial(values=point.tolist()) for point in losses]
    for number, trial in enumerate(trials):
        trial.number = number
    for count in (1, 5, 15, 60, 149, 150):
        good, _ = _split_complete_trials_multi_objective(trials, study, count)
        assert ranks.best(count).tolist() == [trial.number for trial in good]


def test_none_of_none() -> None:
    assert Ranks(2).best(0).tolist() == []
    assert Ranks(2).best(3).tolist() == []
