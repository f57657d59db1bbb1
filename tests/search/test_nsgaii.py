"""NSGA-II that remembers: trial by trial what Optuna's suggests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.samplers import NSGAIISampler

from search.nsgaii import RememberingNSGAIISampler


def space(trial: optuna.Trial) -> list[float]:
    """A choice, a setting under it, and one that every trial has; two objectives and a constraint."""
    kind = trial.suggest_categorical("kind", ["a", "b"])
    width = trial.suggest_int("width", 1, 9)
    part = trial.suggest_float("part", 0.0, 1.0) if kind == "a" else 0.5
    trial.suggest_categorical("only", ["one"])
    trial.set_constraint("wide", width - 7.0)
    return [width * part, (9 - width) + abs(part - 0.3)]


def searched(sampler: NSGAIISampler, seed: int, resumed: NSGAIISampler | None = None) -> Iterator[dict[str, Any]]:
    """Suggestions of a search with five trials at a time that end in any order; a few fail."""
    order = np.random.default_rng(seed)
    study = optuna.create_study(directions=["minimize"] * 2, sampler=sampler)
    running: list[tuple[optuna.Trial, list[float]]] = []
    for number in range(150):
        if number == 80 and resumed is not None:
            study.sampler = resumed
        trial = study.ask()
        running.append((trial, space(trial)))
        yield trial.params
        if len(running) == 5:
            ended, values = running.pop(int(order.integers(5)))
            if order.random() < 0.1:
                study.tell(ended, state=optuna.trial.TrialState.FAIL)
            else:
                study.tell(ended, values)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_each_suggestion_is_optunas(seed: int) -> None:
    ours, theirs = RememberingNSGAIISampler(seed, 12), NSGAIISampler(seed=seed, population_size=12)
    assert list(searched(ours, seed)) == list(searched(theirs, seed))


def test_a_study_that_is_there_is_gone_on_with_alike() -> None:
    ours = [RememberingNSGAIISampler(seed, 12) for seed in (0, 1)]
    theirs = [NSGAIISampler(seed=seed, population_size=12) for seed in (0, 1)]
    assert list(searched(ours[0], 0, ours[1])) == list(searched(theirs[0], 0, theirs[1]))
