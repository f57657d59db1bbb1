import math
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from evaluation.front import hypervolume
from evaluation.page.history import hypervolume_series, study_history


@pytest.mark.parametrize("objectives", [2, 3])
def test_every_step_is_the_hypervolume_of_all_rows_so_far(objectives: int) -> None:
    rng = np.random.default_rng(objectives)
    for rows in (1, 7, 60):
        losses = rng.random((rows, objectives)).round(1)
        losses[rng.random(rows) < 0.2] = np.nan
        order = rng.integers(0, rows, rows).astype(float)
        reference = np.full(objectives, 0.9)
        steps, volumes = hypervolume_series(losses, order, reference)
        assert steps.tolist() == sorted(set(order))
        assert volumes == pytest.approx([hypervolume(losses[order <= step], reference) for step in steps], abs=1e-12)


def test_a_long_series_is_thinned_and_exact_where_it_is_shown() -> None:
    rng = np.random.default_rng(0)
    losses, order, reference = rng.random((500, 3)), np.arange(500.0), np.ones(3)
    steps, volumes = hypervolume_series(losses, order, reference, most_steps=20)
    assert len(steps) == 20 and (steps[0], steps[-1]) == (0, 499)
    assert volumes == pytest.approx([hypervolume(losses[order <= step], reference) for step in steps])


def test_no_rows_give_no_steps() -> None:
    steps, volumes = hypervolume_series(np.empty((0, 3)), np.empty(0), np.ones(3))
    assert steps.shape == volumes.shape == (0,)


def scratch(trials: pd.DataFrame) -> float:
    """The hypervolume by its definition, row by row."""
    teacher = trials[trials["stage"] == "baseline"].iloc[0]
    losses = [
        [
            -row["f1_macro"],
            math.log10(row["model_size_mb"]),
            -math.log10(row["speedup_factor"]),
        ]
        for _, row in trials.iterrows()
        if row["status"] == "ok" and row["safety_verdict"] != "unsafe" and row["speedup_factor"] > 0
    ]
    return hypervolume(
        np.array(losses), np.array([0.05 - teacher["f1_macro"], math.log10(teacher["model_size_mb"]), 0.0])
    )


def test_a_studys_curves_are_those_computed_from_scratch(make_trials: Callable[..., pd.DataFrame]) -> None:
    trials = make_trials(50, seed=1)
    trials.loc[10, "status"] = "stopped_unsafe"
    trials.loc[11, "speedup_factor"] = np.nan
    history = study_history(trials.sample(frac=1, random_state=0), 16)
    assert history is not None
    assert history.trials.tolist() == list(range(17))
    number = trials["trial"].fillna(-1) + 1
    assert history.by_trial == pytest.approx([scratch(trials[number <= last]) for last in history.trials])
    assert history.seconds.tolist() == [7.0 * row for row in range(50)]
    assert history.by_time == pytest.approx([scratch(trials[: row + 1]) for row in range(50)])
    assert 0 <= history.by_trial[0] < history.by_trial[-1]
    drawn = history.as_json()
    assert drawn["trials"]["x"] == list(range(17)) and len(drawn["seconds"]["y"]) == 50


def test_unsafe_models_count_for_nothing(make_trials: Callable[..., pd.DataFrame]) -> None:
    trials = make_trials(50, seed=1)
    before = study_history(trials, 16)
    trials.loc[trials["safety_verdict"] == "unsafe", ["f1_macro", "model_size_mb"]] = [1.0, 0.001]
    after = study_history(trials, 16)
    assert before is not None and after is not None
    assert after.by_trial == pytest.approx(before.by_trial)


def test_the_curve_goes_on_to_the_last_trial_that_ended(make_trials: Callable[..., pd.DataFrame]) -> None:
    trials = make_trials(50, seed=1)
    exact, longer, running = (study_history(trials, ended) for ended in (16, 40, 12))
    assert exact is not None and longer is not None and running is not None
    assert longer.trials.tolist() == [*range(17), 40]
    assert longer.by_trial.tolist() == [*exact.by_trial, exact.by_trial[-1]]
    assert longer.seconds.tolist() == exact.seconds.tolist()
    assert running.trials.tolist() == list(range(17)), "a later trial may end before an earlier one"


def test_without_a_teacher_or_times_there_is_no_curve(make_trials: Callable[..., pd.DataFrame]) -> None:
    trials = make_trials(9)
    assert study_history(trials[1:], 3) is None
    assert study_history(trials[:0], 0) is None
    timeless = study_history(trials.assign(created_at=["yesterday", *[None] * 8]), 3)
    assert timeless is not None and timeless.seconds.size == 0 and timeless.trials.size == 4
