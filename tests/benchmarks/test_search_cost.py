"""The sums of the cost benchmark, by hand."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.search_cost import Work, by_computing_seconds, compared, with_speeds

WEIGHTS = (0.5, 0.3, 0.2)


def timed(key: str) -> dict[str, Any]:
    return {"model_key": key, "timing": "shape", "timed_model": key, "speedup_factor": 4.0}


def test_a_model_costs_what_all_workers_had_computed_when_it_was_measured() -> None:
    works = [
        Work.told({"began": 100.0, "measured": [(5.0, "a"), (8.0, "b")]}),
        Work.told({"began": 104.0, "measured": [(2.0, "c")]}),
        Work.told({"began": 200.0, "measured": []}),
    ]
    assert by_computing_seconds(works) == [(6.0, "a"), (8.0, "c"), (10.0, "b")]


def test_a_model_whose_speed_another_trial_measures_is_measured_then_and_its_worker_computes_no_longer() -> None:
    lacking = {"model_key": "second", "timing": "shape", "speedup_factor": None, "f1_macro": 0.8}
    untold = {"model_key": "third", "timing": "another", "speedup_factor": None, "f1_macro": 0.8}
    works = [
        Work.told({"began": 100.0, "measured": [(6.0, timed("first"))]}),
        Work.told({"began": 100.0, "measured": [(1.0, lacking), (2.0, untold)]}),
    ]
    (cost, first), (same, second) = by_computing_seconds(with_speeds(works, [{"f1_macro": 0.8}], WEIGHTS))
    assert cost == same == 6.0 + 2.0 and first["model_key"] == "first"
    assert (second["model_key"], second["speedup_factor"], second["timed_model"]) == ("second", 4.0, "first")


def test_shares_are_of_what_the_other_paid_for_its_last_hypervolume() -> None:
    plain, ours = [(0.0, 0.0), (40.0, 0.3), (100.0, 0.3)], [(0.0, 0.0), (10.0, 0.35), (90.0, 0.4), (120.0, 0.5)]
    results = [{"seed": 0, "search": name, "curve": curve} for name, curve in (("plain", plain), ("ours", ours))]
    [row] = compared(results)
    assert row["share"] == pytest.approx(10.0 / 40.0)
    assert row["our_hypervolume_at_equal_cost"] == 0.4
