"""Speeds that another trial measures: which rows lack one, what they are given, and which trials are kept for it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from optuna.trial import Trial

from evaluation.records import SPEED
from evaluation.shape import TIMING
from search.timings import Timings, Untimed, is_untimed

Row = dict[str, Any]
SPEEDS: Row = {name: 2.0 for name in SPEED} | {"timed_model": "first", "machine": "here", "speedup_factor": 4.0}


def timed(key: str, timing: str = "t") -> Row:
    return {"model_key": key, "f1_macro": 0.8, "size_compression_ratio": 5.0, TIMING: timing, **SPEEDS}


def untimed(key: str, timing: str = "t") -> Row:
    return {"model_key": key, "f1_macro": 0.6, "size_compression_ratio": 20.0, "tradeoff_score": None, TIMING: timing}


def ended(*rows: Row, begun: int = 1) -> Untimed:
    return Untimed(cast(Trial, SimpleNamespace()), 1, list(rows), [], begun)


@pytest.fixture
def timings() -> Timings:
    return Timings(0.8, (0.5, 0.3, 0.2))


def test_a_row_is_given_the_speed_of_its_timing_and_the_score_that_follows(timings: Timings) -> None:
    assert timings.lacking([untimed("second")]) and timings.completed([untimed("second")]) == []
    timings.hear([timed("first")])
    assert not timings.lacking([untimed("second")]) and timings.lacking([untimed("third", "another")])
    [row] = timings.completed([untimed("second")])
    assert {name: row[name] for name in SPEED} == SPEEDS and TIMING not in row
    assert row["tradeoff_score"] == pytest.approx(0.5 * 0.6 / 0.8 + 0.3 + 0.2 * 4.0 / 5.0)
    assert (row["model_key"], row["f1_macro"]) == ("second", 0.6)


def test_what_a_trial_timed_itself_stays_as_it_is(timings: Timings) -> None:
    timings.hear([timed("first")])
    again = timed("second") | {"speedup_factor": 4.5, "tradeoff_score": 0.9}
    assert timings.completed([again, {"model_key": "teacher"}]) == [
        {name: value for name, value in again.items() if name != TIMING},
        {"model_key": "teacher"},
    ]


def test_rows_are_told_with_what_is_known_so_far(timings: Timings) -> None:
    timings.hear([timed("first")])
    known, unknown = timings.told([untimed("second"), untimed("third", "another")])
    assert not is_untimed(known) and known["speedup_factor"] == 4.0
    assert is_untimed(unknown) and unknown == untimed("third", "another")


def test_a_trial_is_kept_until_all_its_speeds_are_told(timings: Timings) -> None:
    both, one = ended(untimed("a"), untimed("b", "u")), ended(untimed("c"))
    timings.keep(both)
    timings.keep(one)
    assert timings.hear([untimed("d")]) == [] and timings.hear([timed("first")]) == [one]
    assert timings.hear([timed("first")]) == [] and timings.hear([timed("other", "u")]) == [both]
    assert timings.untold() == []


def test_a_speed_that_no_trial_before_it_can_tell_any_more_is_untold(timings: Timings) -> None:
    early, late = ended(untimed("a"), begun=3), ended(untimed("b"), begun=5)
    timings.keep(early)
    timings.keep(late)
    assert timings.untold(oldest=2) == [], "the trial in place 2 had begun when the early one ended"
    assert timings.untold(oldest=3) == [early] and timings.untold(oldest=4) == []
    assert timings.untold() == [late]
