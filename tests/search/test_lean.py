"""What Ray Tune's own trials hold after they have ended."""

from __future__ import annotations

import pickle
from typing import Any

from ray.tune.experiment import Trial

from search.lean import LeanTrials
from search.optuna_study import CURVES, ROWS


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
