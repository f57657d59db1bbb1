"""Between Tune and Optuna, driven as Tune would: how each trial ends, what is taken up again, which rows come out."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState
from ray.tune.search import Searcher

from evaluation.records import RUN_DEPENDENT, SPEED, read_records, write_records
from evaluation.shape import TIMING
from search import budget
from search.config import StudyConfig
from search.optuna_study import collected_rows, open_study
from search.sampler import study_sampler
from search.searcher import ParetoSearcher
from search.snapshots import front_of
from search.study_file import study_from
from search.study_keys import QUIET, REFERENCES

Row = dict[str, Any]
FEASIBLE = ("f1_drop", "critical_f1_drop", "critical_recall_drop")


@pytest.fixture
def config(tmp_path: Path) -> StudyConfig:
    made = study_from(
        {
            "study": "s",
            "results_dir": str(tmp_path),
            "distil": {"method": {"choices": ["none", "logit"]}, "alpha": {"low": 0.0, "high": 1.0}},
            "prune": {"method": {"choices": ["none", "wanda"]}, "sparsity": {"low": 0.1, "high": 0.9, "step": 0.1}},
            "search": {"trials": 6, "sampler": "random"},
        }
    )
    made.folder.mkdir()
    return made


@pytest.fixture
def opened() -> Iterator[Callable[[StudyConfig], ParetoSearcher]]:
    """Opens a study's database as a new run would; every connection is closed at the end."""
    verbosity = optuna.logging.get_verbosity()
    studies: list[optuna.Study] = []

    def open_again(config: StudyConfig) -> ParetoSearcher:
        studies.append(open_study(config, study_sampler(config)))
        return ParetoSearcher(studies[-1], config)

    yield open_again
    optuna.logging.set_verbosity(verbosity)
    for study in studies:
        _dispose(study)


def _dispose(study: optuna.Study) -> None:
    storage: Any = study._storage
    storage.close()


def row(key: str, **changes: Any) -> Row:
    measured: Row = {"study": "s", "stage": "after_kd", "model_key": key, "status": "ok", "error": None}
    measured |= {"f1_macro": 0.8, "model_size_mb": 2.0, "speedup_factor": 4.0, "safety_verdict": "safe"}
    return measured | {f"{name}{end}": 0.0 for name in FEASIBLE for end in ("", "_upper")} | changes


def with_sampler(config: StudyConfig, sampler: str) -> StudyConfig:
    return config.model_copy(update={"search": config.search.model_copy(update={"sampler": sampler})})


def states(config: StudyConfig) -> dict[int, str]:
    """The trials' states as they stand in the file, read without Optuna."""
    connection = sqlite3.connect(config.folder / "study.db")
    try:
        return dict(connection.execute("SELECT number, state FROM trials ORDER BY number").fetchall())
    finally:
        connection.close()


def test_a_good_trial_is_complete_with_its_values_and_feasible(
    config: StudyConfig, opened: Callable[[StudyConfig], ParetoSearcher]
) -> None:
    searcher = opened(config)
    searcher.suggest("a")
    searcher.on_trial_result("a", {"at_stage": "distil"})
    searcher.on_trial_complete("a", {"at_stage": "done", "rows": [row("first", f1_macro=0.1), row("last")]})
    [trial] = searcher.study.best_trials
    assert trial.values == [0.8, 2.0, 0.25]
    assert trial.constraints == pytest.approx(
        {"f1_drop": -0.05, "critical_f1_drop": -0.03, "critical_recall_drop": -0.03}
    )
    assert states(config) == {0: "COMPLETE"}
    assert [(one["model_key"], one["trial"]) for one in collected_rows(searcher.study)] == [("first", 0), ("last", 0)]


ENDINGS: dict[str, tuple[Row | None, Row | None, bool, str]] = {
    "NaN objective": (None, {"rows": [row("k", f1_macro=math.nan)]}, False, "objective is not finite: f1_macro=nan"),
    "null objective": (None, {"rows": [row("k", speedup_factor=None)]}, False, "not finite: latency_ratio=nan"),
    "infinite objective": (None, {"rows": [row("k", model_size_mb=math.inf)]}, False, "model_size_mb=inf"),
    "no rows": (None, {"rows": []}, False, "the trial returned no measured model"),
    "no report at all": (None, None, False, "the trial returned no measured model"),
    "raised": ({"rows": [row("k")], "error": "ValueError: torn"}, None, True, "ValueError: torn"),
    "raised before a row": ({"rows": [], "error": "OSError: full"}, None, True, "OSError: full"),
    "died while working": ({"at_stage": "prune", "f1_macro": 0.9}, None, True, "worker died without a word"),
    "died at once": (None, None, True, "worker died without a word"),
    "died with good rows": ({"rows": [row("k")]}, None, True, "worker died without a word"),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_trial_without_a_result_fails_with_its_error(
    ending: str, config: StudyConfig, opened: Callable[[StudyConfig], ParetoSearcher]
) -> None:
    report, result, died, told = ENDINGS[ending]
    searcher = opened(config)
    suggested = searcher.suggest("a")
    assert isinstance(suggested, dict)
    if report is not None:
        searcher.on_trial_result("a", report)
    searcher.on_trial_complete("a", result, error=died)
    assert states(config) == {0: "FAIL"}
    assert searcher.study.best_trials == []
    [trial] = searcher.study.trials
    assert told in trial.user_attrs["error"]
    *measured, failed = collected_rows(searcher.study)
    assert (failed["status"], failed["trial"], failed.get("model_key")) == ("failed", 0, None)
    assert told in failed["error"]
    assert failed["distil.method"] == suggested["params"]["distil.method"]
    assert all(one["status"] == "ok" and math.isfinite(one["f1_macro"]) for one in measured)
    write_records(collected_rows(searcher.study), config.folder / "trials.parquet")
    assert told in read_records(config.folder / "trials.parquet")["error"].iloc[-1]


def test_models_measured_before_a_failure_are_kept(
    config: StudyConfig, opened: Callable[[StudyConfig], ParetoSearcher]
) -> None:
    searcher = opened(config)
    searcher.suggest("a")
    rows = [row("zero", f1_macro=0.0), row("good", stage="after_pruning")]
    searcher.on_trial_result("a", {"rows": rows, "error": "ValueError: torn"})
    searcher.on_trial_complete("a", None, error=True)
    kept = collected_rows(searcher.study)
    assert [one.get("model_key") for one in kept] == ["zero", "good", None]
    assert kept[2]["stage"] == "after_pruning"


@pytest.mark.parametrize("limit", FEASIBLE)
def test_a_drop_beyond_its_limit_is_infeasible(
    limit: str, config: StudyConfig, opened: Callable[[StudyConfig], ParetoSearcher]
) -> None:
    """However good its values: it dominates the feasible one, which alone is kept among the best."""
    searcher = opened(config)
    for name, ending in {
        "good": row("good"),
        "bad": row("bad", f1_macro=1.0, model_size_mb=0.1, **{limit: 0.2}),
    }.items():
        searcher.suggest(name)
        searcher.on_trial_complete(name, {"rows": [ending]})
    assert states(config) == {0: "COMPLETE", 1: "COMPLETE"}
    assert [trial.number for trial in searcher.study.best_trials] == [0]
    broken = {name for name, value in searcher.study.trials[1].constraints.items() if value > 0}
    assert broken == {limit}


@pytest.mark.parametrize("drop", [None, math.nan, "absent"])
def test_a_trial_without_safety_values_is_infeasible(
    drop: Any, config: StudyConfig, opened: Callable[[StudyConfig], ParetoSearcher]
) -> None:
    measured = row("k", f1_macro=1.0)
    for name in FEASIBLE:
        measured[name] = drop
    if drop == "absent":
        measured = {name: value for name, value in measured.items() if not name.endswith(("drop", "upper"))}
    searcher = opened(config)
    searcher.suggest("a")
    searcher.on_trial_complete("a", {"rows": [measured]})
    assert searcher.study.best_trials == []
    constraints = searcher.study.trials[0].constraints
    assert set(constraints) == set(FEASIBLE) and min(constraints.values()) > 0


def test_trials_are_counted_down_to_the_end(
    config: StudyConfig, opened: Callable[[StudyConfig], ParetoSearcher]
) -> None:
    searcher = opened(config)
    for number in range(6):
        assert searcher.remaining == 6 - number
        suggested = searcher.suggest(f"t{number}")
        assert isinstance(suggested, dict) and suggested["number"] == number
        if number % 2:
            searcher.on_trial_complete(f"t{number}", {"rows": [row(f"k{number}")]}, error=number == 3)
    assert searcher.remaining == 0
    assert searcher.suggest("more") == Searcher.FINISHED
    searcher.on_trial_complete("more", None)
    searcher.on_trial_complete("t1", {"rows": []}, error=True)
    assert states(config) == dict(enumerate(["RUNNING", "COMPLETE", "RUNNING", "FAIL", "RUNNING", "COMPLETE"]))


@pytest.mark.parametrize("sampler", ["random", "tpe", "nsgaii", "stage_tree"])
def test_what_a_killed_run_left_is_taken_up(
    sampler: str, config: StudyConfig, opened: Callable[[StudyConfig], ParetoSearcher]
) -> None:
    config = with_sampler(config, sampler)
    killed = opened(config)
    before = [killed.suggest(f"t{number}") for number in range(4)]
    killed.on_trial_complete("t1", {"rows": [row("k1")]})
    killed.on_trial_complete("t2", {"rows": [], "error": "ValueError: torn"})
    finished = [killed.study.trials[number] for number in (1, 2)]

    resumed = opened(config)
    assert resumed.remaining == 2 + 2
    again = [resumed.suggest(f"again{number}") for number in range(4)]
    assert again[:2] == [before[0], before[3]]
    assert [one["number"] for one in again if isinstance(one, dict)] == [0, 3, 4, 5]
    assert resumed.suggest("more") == Searcher.FINISHED
    for number in range(4):
        resumed.on_trial_complete(f"again{number}", {"rows": [row(f"new{number}")]})
    assert states(config) == dict(enumerate(["COMPLETE", "COMPLETE", "FAIL", "COMPLETE", "COMPLETE", "COMPLETE"]))
    kept = [resumed.study.trials[number] for number in (1, 2)]
    assert [(one.values, one.params, one.user_attrs, one.datetime_complete) for one in kept] == [
        (one.values, one.params, one.user_attrs, one.datetime_complete) for one in finished
    ]
    assert opened(config).remaining == 0


def test_only_what_failed_for_a_passing_reason_is_run_again_by_a_resumed_study(
    config: StudyConfig, opened: Callable[[StudyConfig], ParetoSearcher]
) -> None:
    """Under its own number, with its settings, and without what it had reported."""
    first = opened(config)
    before = [first.suggest(f"t{number}") for number in range(6)]
    endings: dict[int, tuple[dict[str, Any] | None, bool]] = {
        0: ({"rows": [row("k0")]}, False),
        1: ({"rows": [row("k1")], "error": "ValueError: torn"}, False),
        2: ({"rows": [row("k2")], "error": "OSError: full", "may_pass": True}, True),
        3: (None, True),
        4: ({"rows": [row("k4", f1_macro=math.nan)]}, False),
        5: ({"rows": [row("k5")]}, False),
    }
    for number, (report, error) in endings.items():
        if report is not None:
            first.on_trial_result(f"t{number}", report)
        first.on_trial_complete(f"t{number}", None if error else report, error)
    assert states(config) == dict(enumerate(["COMPLETE", "FAIL", "FAIL", "FAIL", "FAIL", "COMPLETE"]))
    assert "k2" in {one.get("model_key") for one in collected_rows(first.study)}

    resumed = opened(config)
    assert (resumed.remaining, resumed.ended) == (2, 4)
    assert states(config) == dict(enumerate(["COMPLETE", "FAIL", "FAIL", "FAIL", "FAIL", "COMPLETE"])), "not yet"
    assert [resumed.suggest("again2"), resumed.suggest("again3"), resumed.suggest("more")] == [
        before[2],
        before[3],
        Searcher.FINISHED,
    ]
    assert states(config)[2] == states(config)[3] == "RUNNING"
    resumed.on_trial_complete("again2", {"rows": [row("k2"), row("more", stage="after_pruning")]})
    resumed.on_trial_complete("again3", {"rows": [], "error": "ValueError: torn"})
    assert resumed.ended == 6
    for study in (resumed.study, opened(config).study):
        kept = {trial.number: trial for trial in study.trials}
        assert [trial.state.name for trial in kept.values()] == [
            "COMPLETE",
            "FAIL",
            "COMPLETE",
            "FAIL",
            "FAIL",
            "COMPLETE",
        ]
        assert kept[2].user_attrs.get("error") is None and kept[2].values == [0.8, 2.0, 0.25]
        assert kept[3].user_attrs["error"] == "ValueError: torn"
        assert kept[2].params == {**first.study.trials[2].params}
        numbers = {one["model_key"]: one["trial"] for one in collected_rows(study) if one.get("model_key")}
        assert numbers == {"k0": 0, "k1": 1, "k2": 2, "more": 2, "k5": 5}
    assert opened(config).remaining == 0


def with_search(config: StudyConfig, **changes: Any) -> StudyConfig:
    return config.model_copy(update={"search": config.search.model_copy(update=changes)})


def test_trials_that_fail_for_a_passing_reason_say_nothing_of_progress(
    config: StudyConfig, opened: Callable[[StudyConfig], ParetoSearcher]
) -> None:
    config = with_search(config, patience=2, trials=9)
    first = opened(config)
    for number in range(4):
        first.suggest(f"t{number}")
        report = {"rows": [], "error": "OSError: No space left on device", "may_pass": True} if number else None
        first.on_trial_complete(f"t{number}", report or {"rows": [row("k0")]}, error=number > 0)
    assert first.spent is None and first.remaining == 5
    resumed = opened(config)
    assert resumed.spent is None and resumed.remaining == 3 + 5


def test_trials_that_were_cut_off_are_run_to_their_end_also_when_the_budget_is_spent(
    config: StudyConfig, opened: Callable[[StudyConfig], ParetoSearcher]
) -> None:
    config = with_search(config, patience=1)
    killed = opened(config)
    for number in range(4):
        killed.suggest(f"t{number}")
    for number in (0, 1):
        killed.on_trial_complete(f"t{number}", {"rows": [row("k0")]})
    assert killed.spent and killed.remaining == 0

    resumed = opened(config)
    assert resumed.spent and resumed.remaining == 2
    assert [resumed.suggest(name)["number"] for name in ("a", "b")] == [2, 3]  # type: ignore[index]
    assert resumed.suggest("more") == Searcher.FINISHED
    for name in ("a", "b"):
        resumed.on_trial_complete(name, {"rows": [row("k0")]})
    assert states(config) == dict.fromkeys(range(4), "COMPLETE")


def test_a_resumed_search_has_the_time_that_is_left(
    config: StudyConfig, opened: Callable[[StudyConfig], ParetoSearcher], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(budget.time, "monotonic", lambda: now[0])
    config = with_search(config, max_seconds=60.0)
    first = opened(config)
    first.suggest("a")
    now[0] += 40.0
    first.on_trial_complete("a", {"rows": [row("k0")]})
    now[0] += 1000.0  # it was killed, and is resumed after a while
    resumed = opened(config)
    assert resumed.spent is None and resumed.remaining == 5
    now[0] += 20.0
    assert resumed.spent == "search.max_seconds=60 (1 min 00 s) have passed" and resumed.remaining == 0
    assert opened(with_search(config, max_seconds=90.0)).spent is None


def test_a_limit_that_is_set_on_resume_counts_the_time_before(
    config: StudyConfig, opened: Callable[[StudyConfig], ParetoSearcher], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(budget.time, "monotonic", lambda: now[0])
    first = opened(config)
    first.suggest("a")
    now[0] += 40.0
    first.on_trial_complete("a", {"rows": [row("k0")]})
    now[0] += 20.0  # until it was interrupted
    first.close()
    assert opened(with_search(config, max_seconds=61.0)).spent is None
    assert opened(with_search(config, max_seconds=60.0)).spent


SPEEDS: Row = dict.fromkeys(SPEED, 4.0) | {"machine": "here"}


def timed(key: str, timing: str) -> Row:
    """As a worker reports a model whose shape it timed itself."""
    return row(key, size_compression_ratio=5.0, **{TIMING: timing, **SPEEDS, "timed_model": key})


def untimed(key: str, timing: str) -> Row:
    """As a worker reports a model of a shape that another one times."""
    return row(key, size_compression_ratio=5.0, speedup_factor=None, tradeoff_score=None, **{TIMING: timing})


def test_a_trial_ends_when_the_speed_that_another_measures_is_told(
    config: StudyConfig, opened: Callable[[StudyConfig], ParetoSearcher]
) -> None:
    searcher = opened(config)
    searcher.study.set_user_attr(REFERENCES, [row("teacher", stage="baseline")])
    searcher = opened(config)
    for number in range(3):
        searcher.suggest(f"t{number}")
    searcher.on_trial_complete("t1", {"rows": [untimed("second", "shape")]})
    assert states(config)[1] == "RUNNING" and searcher.ended == 0
    searcher.on_trial_result("t0", {"rows_so_far": [untimed("first", "other")]})
    assert states(config)[1] == "RUNNING"
    searcher.on_trial_result("t0", {"rows_so_far": [timed("first", "shape")]})
    assert states(config) == {0: "RUNNING", 1: "COMPLETE", 2: "RUNNING"} and searcher.ended == 1
    trial = searcher.study.trials[1]
    assert trial.values == [0.8, 2.0, 0.25]
    [told] = trial.user_attrs["rows"]
    assert {name: told[name] for name in SPEED} == SPEEDS | {"timed_model": "first"} and TIMING not in told
    assert told["tradeoff_score"] == pytest.approx(0.5 + 0.3 * 0.5 + 0.2 * 0.8)
    searcher.on_trial_complete("t2", {"rows": [untimed("third", "shape")]})
    searcher.on_trial_complete("t0", {"rows": [timed("first", "shape")]})
    assert states(config) == dict.fromkeys(range(3), "COMPLETE")
    assert all(TIMING not in one for one in collected_rows(searcher.study))


def test_a_trial_whose_speed_nobody_measures_any_more_is_run_again_and_waits(
    config: StudyConfig, opened: Callable[[StudyConfig], ParetoSearcher]
) -> None:
    searcher = opened(with_sampler(config, "stage_tree"))
    before = [searcher.suggest(f"t{number}") for number in range(2)]
    searcher.on_trial_complete("t1", {"rows": [untimed("second", "shape")]})
    later = searcher.suggest("t2")
    assert isinstance(later, dict) and later["number"] == 2 and not later["waits"], "t0 may time it yet"
    searcher.on_trial_complete("t0", {"rows": [], "error": "ValueError: torn"})
    again = searcher.suggest("t3")
    assert isinstance(before[1], dict) and again == before[1] | {"waits": True}
    assert states(config) == {0: "FAIL", 1: "RUNNING", 2: "RUNNING"}
    searcher.on_trial_complete("t3", {"rows": [row("second")]})
    assert states(config)[1] == "COMPLETE" and searcher.ended == 2


def test_at_the_end_of_a_search_no_trial_is_left_waiting_for_a_speed(
    config: StudyConfig, opened: Callable[[StudyConfig], ParetoSearcher]
) -> None:
    """It has failed for a reason that may be gone: a resumed study runs it again."""
    searcher = opened(config)
    searcher.suggest("t0")
    searcher.on_trial_complete("t0", {"rows": [row("student"), untimed("sparse", "shape")]})
    searcher.close()
    assert states(config) == {0: "FAIL"} and searcher.study.best_trials == []
    *measured, failed = collected_rows(searcher.study)
    assert [one["model_key"] for one in measured] == ["student"], "a model without its speed is not measured"
    assert failed["error"].startswith("its speed was to be measured") and "--resume" in failed["error"]
    resumed = opened(config)
    again = resumed.suggest("again")
    assert isinstance(again, dict) and again["number"] == 0
    resumed.on_trial_complete("again", {"rows": [row("student"), row("sparse")]})
    assert states(config) == {0: "COMPLETE"}


def test_trials_that_wait_for_a_speed_are_kept_when_tunes_loop_breaks_down_or_the_driver_is_killed(
    config: StudyConfig, opened: Callable[[StudyConfig], ParetoSearcher]
) -> None:
    searcher = opened(config)
    before = [searcher.suggest(f"t{number}") for number in range(2)]
    searcher.on_trial_complete("t1", {"rows": [untimed("second", "shape")]})
    assert opened(config).suggest("killed") == before[0]
    assert searcher.take_back("pid=1") and searcher.remaining == 6
    assert [searcher.suggest("t2"), searcher.suggest("t3")] == [
        one | {"attempt": attempt} for one, attempt in zip(before, (2, 1), strict=True) if isinstance(one, dict)
    ]


def test_a_trial_that_fails_keeps_only_models_whose_speed_is_known(
    config: StudyConfig, opened: Callable[[StudyConfig], ParetoSearcher]
) -> None:
    searcher = opened(config)
    for number in range(2):
        searcher.suggest(f"t{number}")
    searcher.on_trial_result("t0", {"rows_so_far": [timed("first", "shape")]})
    rows = [untimed("second", "shape"), untimed("third", "other")]
    searcher.on_trial_complete("t1", {"rows": rows, "error": "ValueError: torn"})
    [known, failed] = collected_rows(searcher.study)
    assert (known["model_key"], known["speedup_factor"]) == ("second", 4.0)
    assert failed["status"] == "failed"


@pytest.mark.parametrize(("sampler", "waits"), [("stage_tree", False), ("tpe", True), ("nsgaii", True)])
def test_workers_wait_for_speeds_where_the_sampler_learns_from_ended_trials_alone(
    sampler: str, waits: bool, config: StudyConfig, opened: Callable[[StudyConfig], ParetoSearcher]
) -> None:
    suggested = opened(with_sampler(config, sampler)).suggest("t0")
    assert isinstance(suggested, dict) and suggested["waits"] is waits


def test_the_stage_tree_learns_at_once_from_a_trial_that_waits_for_a_speed(
    config: StudyConfig, opened: Callable[[StudyConfig], ParetoSearcher]
) -> None:
    searcher = opened(with_sampler(config, "stage_tree"))
    searcher.study.set_user_attr(REFERENCES, [row("teacher", stage="baseline")])
    searcher.study.enqueue_trial({"distil.method": "logit", "distil.alpha": 0.5, "prune.method": "none"})
    searcher.suggest("t0")
    sampler: Any = searcher.study.sampler
    [chain] = sampler._planned.values()
    assert sampler.tree.first_missing(chain) == 0
    searcher.on_trial_complete("t0", {"rows": [untimed("student", "shape")]})
    assert sampler.tree.first_missing(chain) > 0, "others may go on from its student"
    assert states(config) == {0: "RUNNING"}


def tune_trial(number: int, error_file: Path | None = None) -> Any:
    """What Tune hands to its callbacks, as far as they look at it."""
    config = {"number": number}
    return SimpleNamespace(trial_id=f"t{number}", config=config, error_file=error_file and str(error_file))


def test_reports_of_an_attempt_that_failed_do_not_mix_with_those_of_the_next(
    config: StudyConfig, opened: Callable[[StudyConfig], ParetoSearcher]
) -> None:
    searcher = opened(config)
    for number in range(4):
        searcher.suggest(f"t{number}")
        trial = tune_trial(number)
        searcher.attempts.on_trial_start(0, [], trial)
        searcher.on_trial_result(f"t{number}", {"at_stage": "prune", "rows_so_far": [row("student")]})
        report = {"rows": [row("student")], "error": "OSError: full", "may_pass": True}
        searcher.on_trial_result(f"t{number}", report)
        searcher.attempts.on_trial_recover(0, [], trial)
        assert trial.config["attempt"] == 2
    assert states(config) == dict.fromkeys(range(4), "RUNNING")

    searcher.on_trial_result("t0", {"at_stage": "done", "rows": [row("student"), row("sparse")]})
    searcher.on_trial_complete("t0", {"at_stage": "done"})
    searcher.on_trial_result("t1", {"at_stage": "distil", "rows_so_far": []})
    searcher.on_trial_complete("t1", None, error=True)
    searcher.on_trial_complete("t2", None, error=True)
    searcher.on_trial_result("t3", {"at_stage": "done", "rows": [], "error": "ValueError: torn"})
    searcher.on_trial_complete("t3", {"at_stage": "done", "error": "ValueError: torn"})
    trials = searcher.study.trials
    assert [trial.state.name for trial in trials] == ["COMPLETE", "FAIL", "FAIL", "FAIL"]
    assert [one["model_key"] for one in trials[0].user_attrs["rows"]] == ["student", "sparse"]
    assert "error" not in trials[0].user_attrs
    told = [trial.user_attrs["error"] for trial in trials[1:]]
    assert told[0].startswith("the trial's worker died without a word at distil") and "tried 2 times" in told[0]
    assert told[1].startswith("the trial's worker died without a word at its start") and "tried 2 times" in told[1]
    assert told[2] == "ValueError: torn (tried 2 times)"
    for trial in trials[1:]:
        assert [one.get("model_key") for one in trial.user_attrs["rows"]] == ["student", None], "what was measured"


def test_rows_that_a_dying_worker_has_reported_are_kept(
    config: StudyConfig, opened: Callable[[StudyConfig], ParetoSearcher]
) -> None:
    searcher = opened(config)
    searcher.suggest("t0")
    searcher.on_trial_result("t0", {"at_stage": "after_kd", "rows_so_far": [row("student")]})
    searcher.on_trial_result("t0", {"at_stage": "prune", "rows_so_far": [row("student")]})
    searcher.on_trial_complete("t0", None, error=True)
    assert [one.get("model_key") for one in collected_rows(searcher.study)] == ["student", None]


def test_when_tunes_loop_breaks_down_its_trials_are_kept_for_the_next(
    config: StudyConfig, opened: Callable[[StudyConfig], ParetoSearcher]
) -> None:
    """The trial that the error names has used up an attempt, the others are not to blame."""
    searcher = opened(config)
    before = [searcher.suggest(f"t{number}") for number in range(3)]
    searcher.on_trial_complete("t0", {"rows": [row("k0")]})
    low = "Task was killed due to the node running low on memory. pid=12, memory used=9GB"
    for breakdown in range(3):
        for number, pid in ((1, 11), (2, 12)):
            searcher.on_trial_result(
                f"t{number}", {"at_stage": "distil", "pid": pid, "rows_so_far": [row(f"k{number}")]}
            )
        assert searcher.take_back(low)
        if breakdown < 2:
            again = [searcher.suggest("t1"), searcher.suggest("t2")]
            assert again == [before[1], {**before[2], "attempt": breakdown + 2}]  # type: ignore[dict-item]
    assert searcher.suggest("t1") == before[1]
    assert states(config) == {0: "COMPLETE", 1: "RUNNING", 2: "FAIL"}
    problem = searcher.study.trials[2].user_attrs["error"]
    assert "ran out of memory" in problem and "resources.memory_gb_per_trial" in problem and "tried 3 times" in problem
    assert searcher.take_back("no process is named") and not searcher.take_back("nothing runs")
    assert searcher.suggest("t1") == {**before[1], "attempt": 2}  # type: ignore[dict-item]


def test_a_trial_cut_off_while_it_was_suggested_gets_the_same_params(
    config: StudyConfig, opened: Callable[[StudyConfig], ParetoSearcher], tmp_path: Path
) -> None:
    undisturbed = config.model_copy(update={"results_dir": str(tmp_path / "undisturbed")})
    undisturbed.folder.mkdir(parents=True)
    expected = opened(undisturbed).suggest("t0")
    killed = opened(config)
    killed.study.ask()
    resumed = opened(config)
    assert resumed.remaining == 6
    assert resumed.suggest("t0") == expected


BAD: dict[str, tuple[dict[str, Any] | None, bool]] = {
    "infeasible": (
        {"rows": [row("unsafe", f1_macro=0.99, model_size_mb=0.01, f1_drop=0.2, safety_verdict="unsafe")]},
        False,
    ),
    "NaN": ({"rows": [row("nan", f1_macro=math.nan, model_size_mb=0.01)]}, False),
    "null": ({"rows": [row("null", speedup_factor=None, model_size_mb=0.01)]}, False),
    "raised": ({"rows": [], "error": "ValueError: torn"}, True),
    "died": (None, True),
}
"""How a trial ends that must not count, and whether Tune calls it an error; their models are the smallest of all."""


@pytest.mark.parametrize("sampler", ["random", "tpe", "nsgaii", "gp", "stage_tree"])
def test_what_is_infeasible_nan_or_crashed_is_never_feasible_running_or_on_a_front(
    sampler: str, config: StudyConfig, opened: Callable[[StudyConfig], ParetoSearcher]
) -> None:
    """Good trials and bad ones of each kind, a kill in the middle of them all, and the same again after it."""
    search = config.search.model_copy(update={"sampler": sampler, "trials": 4 * len(BAD) + 2})
    config = config.model_copy(update={"search": search, "distil": {**config.distil, "method": "logit"}})
    killed = opened(config)
    teacher = row("teacher", stage="baseline", f1_macro=0.9, model_size_mb=90.0, speedup_factor=1.0)
    references = [teacher, row("floor", stage="classical")]
    killed.study.set_user_attr(REFERENCES, references)

    def end(searcher: ParetoSearcher, trial_id: str, kind: str, name: str) -> None:
        report, error = BAD.get(kind, ({"rows": [row("good", f1_macro=0.87, model_size_mb=1.0)]}, False))
        rows = [one | {"model_key": f"{one['model_key']} {name}"} for one in (report or {}).get("rows", [])]
        if report is not None:
            searcher.on_trial_result(trial_id, report | {"rows": rows})
        searcher.on_trial_complete(trial_id, None if error else {"rows": rows}, error)

    numbers: dict[str, dict[str, int]] = {}
    kinds = ["good", *BAD]
    for run in ("killed", "resumed"):
        searcher = killed if run == "killed" else opened(config)
        for kind in kinds:
            suggested = searcher.suggest(f"{run} {kind}")
            assert isinstance(suggested, dict)
            numbers.setdefault(kind, {})[run] = suggested["number"]
        for kind in kinds if run == "resumed" else kinds[:3]:
            end(searcher, f"{run} {kind}", kind, run)

    number = {kind: numbers[kind]["resumed"] for kind in kinds} | {
        f"old {kind}": numbers[kind]["killed"] for kind in kinds
    }
    # Those that the kill cut off were taken up first, under the names of others.
    assert [number[kind] for kind in kinds[:3]] == [number[f"old {kind}"] for kind in kinds[3:]]
    good = {number["good"], number["old good"]}
    feasible_state = {number["infeasible"], number["old infeasible"]} | good
    assert states(config) == {
        index: "COMPLETE" if index in feasible_state else "FAIL" for index in range(len(states(config)))
    }
    for study in (searcher.study, opened(config).study):
        assert {trial.number for trial in study.best_trials} == good
        feasible = {
            trial.number
            for trial in study.get_trials(states=(TrialState.COMPLETE,))
            if all(value <= 0 for value in trial.constraints.values())
        }
        assert feasible == good
        front = front_of(collected_rows(study))
        assert {one["model_key"] for one in front} == {"good killed", "good resumed", "teacher"}
    assert opened(config).tally.front == len({(one["f1_macro"], one["model_size_mb"]) for one in front})
    died = 1  # is run again, as is told below
    assert opened(config).remaining == search.trials - len(states(config)) + died
    if sampler == "stage_tree":
        tree = searcher.study.sampler.tree  # type: ignore[attr-defined]
        generator = np.random.default_rng(0)
        near = {tree.random_prefix(generator, near_front=True)["distil.alpha"] for _ in range(50)}
        assert near <= {searcher.study.trials[index].params["distil.alpha"] for index in good}


def test_a_resumed_study_may_ask_for_more_trials_or_fewer(
    config: StudyConfig, opened: Callable[[StudyConfig], ParetoSearcher]
) -> None:
    first = opened(config)
    for number in range(6):
        first.suggest(f"t{number}")
        if number != 4:
            first.on_trial_complete(f"t{number}", {"rows": [row(f"k{number}")]})
    for trials, remaining in ((9, 4), (6, 1), (2, 1)):
        search = config.search.model_copy(update={"trials": trials})
        assert opened(config.model_copy(update={"search": search})).remaining == remaining


def test_points_come_first_also_when_a_run_is_killed_between_them(
    config: StudyConfig, opened: Callable[[StudyConfig], ParetoSearcher]
) -> None:
    points = ({"distil.method": "logit", "distil.alpha": 0.25}, {"prune.method": "wanda", "prune.sparsity": 0.3})
    search = config.search.model_copy(update={"points": points, "trials": 4})
    config = config.model_copy(update={"search": search})
    killed = opened(config)
    assert killed.remaining == 4
    first = killed.suggest("t0")
    resumed = opened(config)
    assert resumed.remaining == 4
    suggested = []
    for index in range(4):
        one = resumed.suggest(f"again{index}")
        assert isinstance(one, dict)
        suggested.append(one)
    assert suggested[0] == first
    assert [one["number"] for one in suggested] == [0, 1, 2, 3]
    assert all(point.items() <= one["params"].items() for point, one in zip(points, suggested, strict=False))
    assert resumed.suggest("more") == Searcher.FINISHED


def test_rows_name_each_model_once_under_the_lowest_trial(
    config: StudyConfig, opened: Callable[[StudyConfig], ParetoSearcher]
) -> None:
    searcher = opened(config)
    searcher.study.set_user_attr(REFERENCES, [row("teacher", stage="baseline"), row("floor", stage="classical")])
    for number in range(4):
        searcher.suggest(f"t{number}")
    endings = {
        3: {"rows": [row("student", node="of 3"), row("third", stage="after_pruning")]},
        2: {"rows": [row("teacher", stage="baseline", node="of 2")]},
        1: {"rows": [row("student", node="of 1"), row("first", stage="after_pruning")]},
    }
    for number, report in endings.items():
        searcher.on_trial_complete(f"t{number}", report)
    kept = [(one["model_key"], one["trial"], one.get("node")) for one in collected_rows(searcher.study)]
    assert kept == [
        ("teacher", None, None),
        ("floor", None, None),
        ("student", 1, "of 1"),
        ("first", 1, None),
        ("third", 3, None),
    ]


def test_quiet_figures_replace_the_first_ones(
    config: StudyConfig, opened: Callable[[StudyConfig], ParetoSearcher]
) -> None:
    searcher = opened(config)
    searcher.study.set_user_attr(REFERENCES, [row("teacher", stage="baseline")])
    searcher.suggest("t0")
    searcher.on_trial_complete("t0", {"rows": [row("a"), row("b", stage="after_pruning")]})
    before = {one["model_key"]: one for one in collected_rows(searcher.study)}
    figures = {"speedup_factor": 3.0, "latency_mean_ms": 7.0}
    searcher.study.set_user_attr(QUIET, {"b": figures, "teacher": {"latency_mean_ms": 9.0}})
    after = {one["model_key"]: one for one in collected_rows(searcher.study)}
    assert after == {
        "teacher": before["teacher"] | {"latency_mean_ms": 9.0},
        "a": before["a"],
        "b": before["b"] | figures,
    }
    assert set(figures) <= set(RUN_DEPENDENT)


@pytest.mark.parametrize(
    ("objectives", "directions", "values"),
    [
        (["f1_macro", "model_size_mb", "latency_ratio"], "MAXIMIZE MINIMIZE MINIMIZE", [0.8, 2.0, 0.25]),
        (["latency_ratio", "f1_macro"], "MINIMIZE MAXIMIZE", [0.25, 0.8]),
        (["tradeoff_score"], "MAXIMIZE", [0.6]),
    ],
)
def test_objectives_are_told_in_their_order_and_direction(
    objectives: list[str],
    directions: str,
    values: list[float],
    config: StudyConfig,
    opened: Callable[[StudyConfig], ParetoSearcher],
) -> None:
    search = config.search.model_copy(update={"objectives": tuple(objectives)})
    searcher = opened(config.model_copy(update={"search": search}))
    searcher.suggest("t0")
    searcher.on_trial_complete("t0", {"rows": [row("a", tradeoff_score=0.6)]})
    assert " ".join(direction.name for direction in searcher.study.directions) == directions
    assert searcher.study.get_trials(states=(TrialState.COMPLETE,))[0].values == values
