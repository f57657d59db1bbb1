"""TPE that remembers: trial by trial what Optuna's suggests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.samplers import TPESampler

from search.tpe import RememberingTPESampler


def space(trial: optuna.Trial) -> list[float]:
    """Choices, settings under them, and ones that every trial has; two objectives and a constraint."""
    kind = trial.suggest_categorical("kind", ["a", "b"])
    width = trial.suggest_int("width", 1, 64, log=True)
    part = trial.suggest_float("part", 0.0, 1.0, step=0.05) if kind == "a" else 0.5
    rate = trial.suggest_float("rate", 1e-4, 1e-1, log=True)
    flag = trial.suggest_categorical("flag", [True, False])
    trial.set_constraint("wide", width - 40.0)
    return [width * part + flag, (64 - width) + abs(part - 0.3) + abs(np.log10(rate) + 2)]


def searched(sampler: TPESampler, seed: int, objectives: int, resumed: TPESampler | None = None) -> Iterator[Any]:
    """Suggestions of a search with five trials at a time that end in any order; a few fail, some are pruned."""
    order = np.random.default_rng(seed)
    study = optuna.create_study(directions=["minimize"] * objectives, sampler=sampler)
    running: list[tuple[optuna.Trial, list[float]]] = []
    for number in range(150):
        if number == 80 and resumed is not None:
            study.sampler = resumed
        trial = study.ask()
        running.append((trial, space(trial)[:objectives]))
        yield trial.params
        if len(running) == 5:
            ended, values = running.pop(int(order.integers(5)))
            fate = order.random()
            if fate < 0.1:
                study.tell(ended, state=optuna.trial.TrialState.FAIL)
            elif fate < 0.2 and objectives == 1:
                study.tell(ended, state=optuna.trial.TrialState.PRUNED)
            else:
                study.tell(ended, values)


@pytest.mark.parametrize("objectives", [1, 2])
@pytest.mark.parametrize("seed", [0, 1])
def test_each_suggestion_is_optunas(seed: int, objectives: int) -> None:
    ours, theirs = RememberingTPESampler(seed, 6), TPESampler(seed=seed, n_startup_trials=6)
    assert list(searched(ours, seed, objectives)) == list(searched(theirs, seed, objectives))


@pytest.mark.parametrize("objectives", [1, 2])
def test_a_study_that_is_there_is_gone_on_with_alike(objectives: int) -> None:
    ours = [RememberingTPESampler(seed, 6) for seed in (0, 1)]
    theirs = [TPESampler(seed=seed, n_startup_trials=6) for seed in (0, 1)]
    assert list(searched(ours[0], 0, objectives, ours[1])) == list(searched(theirs[0], 0, objectives, theirs[1]))
