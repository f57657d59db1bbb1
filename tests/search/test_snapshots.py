"""The Parquet files while a search runs: whole whenever they are read, soon up to date, and cheap."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest

from evaluation.records import read_metadata, read_records
from evaluation.study_files import read_study
from search.config import StudyConfig
from search.ending import Ending
from search.optuna_study import opened
from search.sampler import study_sampler
from search.searcher import ParetoSearcher
from search.snapshots import PAUSE, RecordFiles, Snapshots
from search.study_file import study_from
from search.study_keys import REFERENCES

REPORT = {"synthetic": True, "source": "embedded", "notice": "মন্তব্য"}


@pytest.fixture
def config(tmp_path: Path) -> StudyConfig:
    space = {
        "distil": {"method": {"choices": ["none", "logit"]}, "alpha": {"low": 0.0, "high": 1.0}},
        "search": {"trials": 5000, "sampler": "random"},
    }
    made = study_from(space | {"study": "s", "results_dir": str(tmp_path)})
    made.folder.mkdir()
    return made


@pytest.fixture
def searcher(config: StudyConfig) -> Iterator[ParetoSearcher]:
    verbosity = optuna.logging.get_verbosity()
    with opened(config, study_sampler(config)) as study:
        study.set_user_attr(REFERENCES, [row("teacher", 0.9, 90.0, stage="baseline"), row("floor", 0.7, 1.0)])
        yield ParetoSearcher(study, config)
    optuna.logging.set_verbosity(verbosity)


def row(key: str, f1: float, size: float, **changes: Any) -> dict[str, Any]:
    measured = {"study": "s", "stage": "after_kd", "model_key": key, "status": "ok", "safety_verdict": "safe"}
    drops = dict.fromkeys(("f1_drop", "critical_f1_drop", "critical_recall_drop"), 0.0)
    return measured | {"f1_macro": f1, "model_size_mb": size, "speedup_factor": 2.0} | drops | changes


def end_a_trial(searcher: ParetoSearcher, number: int, **changes: Any) -> None:
    """Each smaller and worse than the one before: all are on the front."""
    assert isinstance(searcher.suggest(str(number)), dict)
    model = row(f"k{number}", 0.85 - number / 10_000, 50.0 - number / 100, **changes)
    searcher.on_trial_complete(str(number), {"rows": [model]})


def keys(config: StudyConfig, name: str) -> list[str]:
    return [str(key) for key in read_records(config.folder / f"{name}.parquet")["model_key"].dropna()]


def test_the_front_is_that_of_the_trials_so_far(config: StudyConfig, searcher: ParetoSearcher) -> None:
    snapshots = Snapshots(searcher, RecordFiles(config, REPORT))
    snapshots.on_step_end(0, [])
    assert keys(config, "trials") == ["teacher", "floor"], "before the first trial"
    end_a_trial(searcher, 0)
    end_a_trial(searcher, 1, safety_verdict="unsafe")
    searcher.suggest("raises")
    searcher.on_trial_complete("raises", {"error": "ValueError: torn"}, error=True)
    snapshots.catch_up()
    assert keys(config, "trials") == ["teacher", "floor", "k0", "k1"]
    assert read_records(config.folder / "trials.parquet")["status"].tolist()[-1] == "failed"
    front = read_records(config.folder / "front.parquet")
    assert set(front["model_key"]) == {"teacher", "floor", "k0"} and front["on_front"].all()
    assert not [name for name in front if str(name).startswith("test_")]
    for name in ("trials", "front"):
        metadata = read_metadata(config.folder / f"{name}.parquet")
        assert metadata["study"] == "s" and metadata["synthetic"] == "true" and "মন্তব্য" in metadata["data"]


def test_trials_without_a_new_model_count_though_they_have_no_row(
    config: StudyConfig, searcher: ParetoSearcher
) -> None:
    files = RecordFiles(config, REPORT)
    end_a_trial(searcher, 0)
    for number in (1, 2):
        end_a_trial(searcher, number, model_key="k0")
    Snapshots(searcher, files).catch_up()
    assert keys(config, "trials") == ["teacher", "floor", "k0"] and read_study(config.folder).trials_ended == 3
    end_a_trial(searcher, 3, model_key="k0")
    told: list[str] = []
    outcome = Ending(config, files, "data", told.append).run(searcher.study, None)
    assert not outcome.finished and told[0].startswith("4 trials ended")
    assert read_study(config.folder).trials_ended == 4
    assert "<dt>Trials</dt><dd>4</dd>" in (config.folder / "report.html").read_text(encoding="utf-8")


def test_the_last_trial_is_written_soon_though_none_ends_after_it(
    config: StudyConfig, searcher: ParetoSearcher
) -> None:
    snapshots = Snapshots(searcher, RecordFiles(config, REPORT))
    for number in range(20):
        end_a_trial(searcher, number)
        snapshots.on_step_end(number, [])
    deadline = time.monotonic() + 60
    while len(keys(config, "trials")) < 22 and time.monotonic() < deadline:
        snapshots.on_step_end(0, [])
        time.sleep(0.01)
    assert len(keys(config, "trials")) == 22
    before = (config.folder / "trials.parquet").stat().st_mtime_ns
    time.sleep(0.05)
    snapshots.catch_up()
    assert (config.folder / "trials.parquet").stat().st_mtime_ns == before, "nothing new, nothing written"


def test_the_files_can_be_read_at_any_time_and_grow(config: StudyConfig, searcher: ParetoSearcher) -> None:
    """One thread reads as fast as it can while this one searches, until it has seen the files grow several times."""
    snapshots = Snapshots(searcher, RecordFiles(config, REPORT))
    snapshots.on_step_end(0, [])
    taken: list[float] = []
    over = threading.Event()
    seen: list[tuple[int, int]] = []
    problems: list[BaseException] = []

    def read() -> None:
        try:
            while not over.is_set():
                front = set(keys(config, "front"))
                trials = keys(config, "trials")
                assert front <= set(trials), "the front is never ahead of the trials"
                seen.append((len(trials), len(front)))
        except BaseException as error:
            problems.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    started, number = time.monotonic(), 0
    try:
        while len(set(seen)) < 4 and not problems and time.monotonic() - started < 120:
            end_a_trial(searcher, number)
            number += 1
            before = time.monotonic()
            snapshots.on_step_end(number, [])
            taken.append(time.monotonic() - before)
        elapsed = time.monotonic() - started
    finally:
        over.set()
        reader.join()
    assert problems == []
    assert seen == sorted(seen) and len(set(seen)) >= 4
    # Each but the last is followed by a pause of so many times its length.
    assert sum(taken) - max(taken) < elapsed / PAUSE + 0.5
    snapshots.catch_up()
    assert len(keys(config, "trials")) == number + 2


def test_a_resumed_search_writes_what_was_there(config: StudyConfig, searcher: ParetoSearcher) -> None:
    end_a_trial(searcher, 0)
    resumed = Snapshots(ParetoSearcher(searcher.study, config), RecordFiles(config, REPORT))
    assert not (config.folder / "trials.parquet").exists()
    resumed.on_step_end(0, [])
    assert keys(config, "trials") == ["teacher", "floor", "k0"]
