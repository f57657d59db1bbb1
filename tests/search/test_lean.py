"""What Ray Tune's own trials hold after they have ended, and how often it asks for their trainable."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from ray.tune import registry
from ray.tune.experiment import Trial

from search.lean import LeanTrials, trainables_fetched_once
from search.study_keys import CURVES, ROWS


def run(callbacks: list[LeanTrials], end: str) -> Trial:
    """A trial of Tune's as its controller treats it: a callback sees each result before the trial keeps it."""
    trial = Trial("trainable", stub=True, trial_id="t")
    rows = [{f"column{index}": float(index) for index in range(100)} for _ in range(3)]
    for iteration in range(1, 5):
        figures = {f"figure{index}": 1.0 * index for index in range(12)}
        result: dict[str, Any] = {"at_stage": "prune", "training_iteration": iteration, **figures}
        result |= {ROWS: rows, CURVES: [{"epochs": rows}], "traceback": "x" * 3000, "error": "torn"}
        for callback in callbacks:
            callback.on_trial_result(iteration, [trial], trial, result)
        trial.update_last_result(result)
    for callback in callbacks:
        getattr(callback, end)(5, [trial], trial)
    return trial


def size(trial: Trial) -> int:
    return len(pickle.dumps(trial.run_metadata.__dict__)) + len(trial.get_json_state()[1])


def test_rows_and_statistics_are_gone_and_the_tables_columns_stay() -> None:
    for end in ("on_trial_complete", "on_trial_error"):
        trial = run([LeanTrials()], end)
        assert {"at_stage", "figure3", "error"} <= set(trial.last_result)
        assert not {ROWS, CURVES, "traceback"} & set(trial.last_result)
        assert trial.metric_analysis == {}
        assert size(trial) < size(run([], end)) / 10


def test_a_trainable_is_fetched_once_and_those_unknown_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs: Any = registry._global_registry
    fetched: list[str] = []
    registered = {"known": object()}

    def contains(category: str, key: str) -> bool:
        fetched.append(key)
        return key in registered

    def get(category: str, key: str) -> object:
        fetched.append(key)
        return registered[key]

    with monkeypatch.context() as patched:
        patched.setattr(type(theirs), "contains", lambda self, *asked: contains(*asked))
        patched.setattr(type(theirs), "get", lambda self, *asked: get(*asked))
        with trainables_fetched_once():
            found = {registry.get_trainable_cls("known") for _ in range(5)}
            assert found == {registered["known"]} and len(fetched) == 2
            with pytest.raises(Exception, match="late"):
                registry.get_trainable_cls("late")
            registered["late"] = object()
            assert registry.get_trainable_cls("late") is registered["late"]
        fetched.clear()
        registry.get_trainable_cls("known")
        assert len(fetched) == 2
