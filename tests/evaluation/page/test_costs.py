from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from evaluation.page.costs import reuse, stage_costs

Trials = Callable[..., pd.DataFrame]


def test_gains_are_medians_against_the_parent(make_trials: Trials) -> None:
    trials = make_trials(80, seed=5)
    by_key = {row["model_key"]: row for row in trials.to_dict("records")}
    costs = {(cost.stage, cost.method): cost for cost in stage_costs(trials)}
    assert [cost.stage for cost in stage_costs(trials)][0] == "baseline"
    for stage, column in (("after_kd", "distil.method"), ("after_quantization", "quantize.method")):
        for method in set(trials.loc[trials["stage"] == stage, column]):
            rows = [row for row in by_key.values() if row["stage"] == stage and row[column] == method]
            parents = [by_key[row["parent_key"]] for row in rows]
            pairs = list(zip(rows, parents, strict=True))
            cost = costs[stage, method]
            assert cost.models == len(rows)
            assert cost.seconds == pytest.approx(np.median([row["stage_seconds"] for row in rows]))
            assert cost.f1_change == pytest.approx(np.median([row["f1_macro"] - p["f1_macro"] for row, p in pairs]))
            ratios = [row["model_size_mb"] / p["model_size_mb"] for row, p in pairs]
            assert cost.size_ratio == pytest.approx(np.median(ratios))
            faster = [row["speedup_factor"] / p["speedup_factor"] for row, p in pairs]
            assert cost.speed_ratio == pytest.approx(np.median(faster))


def test_teacher_and_orphans_have_a_cost_and_no_gain(make_trials: Trials) -> None:
    trials = make_trials(5)
    costs = stage_costs(trials.assign(parent_key="gone"))
    assert all(np.isnan([cost.f1_change, cost.size_ratio, cost.speed_ratio]).all() for cost in costs)
    assert costs[0].seconds == trials["stage_seconds"][0]
    assert stage_costs(trials[:0]) == []


def test_failed_rows_and_copies_do_not_count(make_trials: Trials) -> None:
    trials = make_trials(20)
    failed = trials[2:5].assign(status="failed", model_key=None, error="x")
    assert repr(stage_costs(pd.concat([trials, failed, trials[3:9]]))) == repr(stage_costs(trials))


def test_seconds_are_those_built_and_those_saved(make_trials: Trials) -> None:
    trials = make_trials(30)
    trials.loc[4, "cache_hit"] = pd.NA
    trials.loc[5, "stage_seconds"] = np.nan
    found = {stage.stage: stage for stage in reuse(trials)}
    assert list(found) == ["baseline", "after_kd", "after_pruning", "after_quantization", "classical"]
    for name, stage in found.items():
        rows = [row for row in trials.to_dict("records") if row["stage"] == name]
        hits = [row["stage_seconds"] for row in rows if row["cache_hit"] is True]
        misses = [row["stage_seconds"] for row in rows if row["cache_hit"] is not True]
        assert (stage.reused, stage.built) == (len(hits), len(misses))
        assert stage.saved_seconds == pytest.approx(np.nansum(hits))
        assert stage.built_seconds == pytest.approx(np.nansum(misses))
    assert reuse(trials[:0]) == []
