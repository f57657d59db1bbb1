"""What is kept of the reports of trials that run."""

from __future__ import annotations

import pytest

from search.sections import ResourcesConfig
from search.study_keys import ROWS, ROWS_SO_FAR
from search.trial_reports import TrialReports

STUDENT, SPARSE = {"model_key": "student"}, {"model_key": "sparse"}


@pytest.fixture
def reports() -> TrialReports:
    return TrialReports(ResourcesConfig(stage_minutes=1.0))


def test_an_attempt_that_comes_less_far_leaves_the_rows_of_the_last(reports: TrialReports) -> None:
    assert reports.add("a", 1, {ROWS_SO_FAR: [STUDENT, SPARSE]}) == [STUDENT, SPARSE]
    assert reports.add("a", 2, {ROWS_SO_FAR: [STUDENT]}) == [STUDENT]
    assert reports.rows("a") == [STUDENT, SPARSE] and reports.rows("b") == []
    assert reports.last("a", 1) == {} and reports.last("a", 2) == {ROWS_SO_FAR: [STUDENT]}
    assert reports.add("a", 2, {ROWS: [SPARSE, STUDENT]}) == reports.rows("a") == [SPARSE, STUDENT]


def test_of_a_death_it_is_told_at_which_stage_and_after_how_long(
    reports: TrialReports, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.monotonic", lambda: 100.0)
    reports.add("a", 1, {"at_stage": "distil"})
    assert "died without a word at distil" in reports.death("a", 1, "")
    assert "died without a word at its start" in reports.death("a", 2, "")
    assert "died without a word at its start" in reports.death("b", 1, "")
    monkeypatch.setattr("time.monotonic", lambda: 160.0)
    assert "distil took longer than resources.stage_minutes=1" in reports.death("a", 1, "")


def test_an_error_names_trials_by_their_process(reports: TrialReports) -> None:
    for trial_id, pid in (("a", 12), ("b", 123), ("c", 7)):
        reports.add(trial_id, 1, {"pid": pid})
    assert reports.named_in("a worker (pid=123) died, and pid=7 too", ["a", "b", "d"]) == ["b"]
    reports.drop(["b", "d"])
    assert reports.named_in("a worker (pid=123) died", ["a", "b"]) == [] and reports.last("b", 1) == {}
