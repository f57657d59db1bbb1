"""`study.db` as Optuna's own storage reads it, after a kill too, and what our copy in memory makes of it."""

from __future__ import annotations

import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from search.study_database import StudyDatabase, at_once

DIRECTIONS = ["maximize", "minimize"]
ROOT = Path(__file__).parents[2]


pytestmark = pytest.mark.usefixtures("quiet_optuna")


@pytest.fixture
def opened() -> Iterator[Callable[[Path], StudyDatabase]]:
    """Opens a database; all are closed at the end."""
    storages: list[StudyDatabase] = []

    def open_again(file: Path) -> StudyDatabase:
        storages.append(StudyDatabase(file))
        return storages[-1]

    yield open_again
    for storage in storages:
        storage.close()


def study_in(storage: optuna.storages.BaseStorage, sampler: BaseSampler | None = None) -> optuna.Study:
    return optuna.create_study(
        study_name="s", storage=storage, sampler=sampler, directions=DIRECTIONS, load_if_exists=True
    )


def run(study: optuna.Study, trials: int) -> None:
    """Ask and tell every kind of setting, attribute, constraint and end."""
    for index in range(trials):
        trial = study.ask()
        method = trial.suggest_categorical("distil.method", ["none", "logit"])
        alpha = trial.suggest_float("distil.alpha", 0.0, 1.0, step=0.1)
        rate = trial.suggest_float("rate", 1e-5, 1e-1, log=True)
        layers = trial.suggest_int("layers[1|2]", 1, 12) if method == "logit" else 0
        rows = [{"model_key": f"k{index}", "f1_macro": alpha, "হুমকি": None, "status": "ok"}]
        trial.set_user_attr("rows", [])
        trial.set_user_attr("rows", rows)
        trial.set_constraint("drop", alpha - 0.5)
        if index % 5 == 4:
            study.tell(trial, state=TrialState.FAIL)
        else:
            study.tell(trial, [alpha + layers, rate])


def plain(trials: list[FrozenTrial]) -> list[dict[str, Any]]:
    """All of trials that is stored, but for the ids, which are each storage's own."""
    names = ("number", "state", "values", "params", "distributions", "user_attrs", "system_attrs")
    times = ("datetime_start", "datetime_complete")
    return [{name: getattr(trial, name) for name in (*names, *times)} for trial in trials]


def optunas(file: Path) -> list[dict[str, Any]]:
    """The trials of the file as Optuna's storage reads them."""
    storage = RDBStorage(f"sqlite:///{file}")
    found = plain(optuna.load_study(study_name="s", storage=storage).get_trials())
    storage.remove_session()
    storage.engine.dispose()
    return found


def test_optuna_reads_what_was_written_and_we_what_optuna_wrote(
    opened: Callable[[Path], StudyDatabase], tmp_path: Path
) -> None:
    study = study_in(opened(tmp_path / "study.db"), RandomSampler(seed=0))
    study.set_user_attr("references", [{"f1": 0.5}])
    study.enqueue_trial({"distil.method": "logit", "distil.alpha": 0.3})
    run(study, 11)
    study.ask().suggest_float("distil.alpha", 0.0, 1.0, step=0.1)
    study.enqueue_trial({"distil.alpha": 0.7})
    ours = plain(study.get_trials())
    assert [trial["state"].name for trial in ours].count("FAIL") == 2
    assert ours[0]["params"]["distil.alpha"] == 0.3
    there = optunas(tmp_path / "study.db")
    assert there == ours, "times to the microsecond"

    again = study_in(opened(tmp_path / "study.db"))
    assert plain(again.get_trials()) == there
    assert again.user_attrs == {"references": [{"f1": 0.5}]} and again.directions == study.directions

    theirs = RDBStorage(f"sqlite:///{tmp_path / 'theirs.db'}")
    run(study_in(theirs, RandomSampler(seed=1)), 6)
    theirs.remove_session()
    theirs.engine.dispose()
    taken_up = study_in(opened(tmp_path / "theirs.db"))
    assert plain(taken_up.get_trials()) == optunas(tmp_path / "theirs.db")
    run(taken_up, 3)
    assert [trial["number"] for trial in optunas(tmp_path / "theirs.db")] == list(range(9))


@pytest.fixture
def _in_dhaka(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Asia/Dhaka")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("_in_dhaka")
def test_times_are_the_machines_own_in_memory_and_utc_in_the_file(
    opened: Callable[[Path], StudyDatabase], tmp_path: Path
) -> None:
    study = study_in(opened(tmp_path / "study.db"), RandomSampler(seed=0))
    study.enqueue_trial({"distil.alpha": 0.3})
    run(study, 2)
    ours = plain(study.get_trials())
    assert optunas(tmp_path / "study.db") == ours == plain(study_in(opened(tmp_path / "study.db")).get_trials())
    assert all(abs(datetime.now() - trial["datetime_start"]) < timedelta(minutes=1) for trial in ours)
    with closing(sqlite3.connect(tmp_path / "study.db")) as connection:
        [[began]] = connection.execute("SELECT min(datetime_start) FROM trials").fetchall()
    assert abs(datetime.now(UTC) - datetime.fromisoformat(began).replace(tzinfo=UTC)) < timedelta(minutes=1)


def test_what_is_written_at_once_comes_into_the_file_together(
    opened: Callable[[Path], StudyDatabase], tmp_path: Path
) -> None:
    study = study_in(opened(tmp_path / "study.db"), NSGAIISampler(population_size=2, seed=0))
    run(study, 1)
    with at_once(study):
        run(study, 4)
        study.set_user_attr("note", "ended")
        assert len(optunas(tmp_path / "study.db")) == 1, "another reader sees nothing yet"
        assert len(study.get_trials()) == 5
    assert optunas(tmp_path / "study.db") == plain(study.get_trials())
    with pytest.raises(ValueError, match="torn"), at_once(study):
        run(study, 1)
        raise ValueError("torn")
    run(study, 1)
    assert optunas(tmp_path / "study.db") == plain(study.get_trials()), "an error between loses nothing"
    elsewhere = study_in(RDBStorage(f"sqlite:///{tmp_path / 'theirs.db'}"))
    with at_once(elsewhere):
        run(elsewhere, 1)
    elsewhere._storage.remove_session()
    assert len(optunas(tmp_path / "theirs.db")) == 1


@pytest.mark.parametrize("sampler", [TPESampler, NSGAIISampler])
def test_samplers_suggest_the_same_as_with_optunas_own_storage(
    sampler: Callable[..., BaseSampler], opened: Callable[[Path], StudyDatabase], tmp_path: Path
) -> None:
    own = RDBStorage(f"sqlite:///{tmp_path / 'own.db'}")
    chosen = []
    for storage in (own, opened(tmp_path / "study.db")):
        study = study_in(storage, sampler(seed=3))
        run(study, 25)
        chosen.append([trial.params for trial in study.get_trials()])
    own.remove_session()
    own.engine.dispose()
    assert chosen[0] == chosen[1]


def test_a_point_that_waits_is_taken_once_also_by_a_second_run(
    opened: Callable[[Path], StudyDatabase], tmp_path: Path
) -> None:
    first = study_in(opened(tmp_path / "study.db"))
    for alpha in (0.1, 0.2):
        first.enqueue_trial({"a": alpha})
    assert first.ask().suggest_float("a", 0.0, 1.0) == 0.1
    second = study_in(opened(tmp_path / "study.db"))
    assert second.ask().suggest_float("a", 0.0, 1.0) == 0.2
    assert [trial.state.name for trial in second.get_trials()] == ["RUNNING", "RUNNING"]


def test_a_second_writer_is_noticed(opened: Callable[[Path], StudyDatabase], tmp_path: Path) -> None:
    one, other = (study_in(opened(tmp_path / "study.db")) for _ in range(2))
    one.ask()
    with pytest.raises(RuntimeError, match=r"study\.db: another process adds trials"):
        other.ask()


def test_closed_it_is_one_file(opened: Callable[[Path], StudyDatabase], tmp_path: Path) -> None:
    storage = opened(tmp_path / "study.db")
    study = study_in(storage, RandomSampler(seed=0))
    run(study, 3)
    assert (tmp_path / "study.db-wal").stat().st_size > 0
    storage.close()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["study.db"]
    shutil.copy(tmp_path / "study.db", tmp_path / "copy.db")
    assert optunas(tmp_path / "copy.db") == plain(study.get_trials())
    run(study, 1)
    assert len(optunas(tmp_path / "study.db")) == 4, "it may be used again"


KILLED = """
import sys, optuna
from pathlib import Path
from search.study_database import StudyDatabase
optuna.logging.set_verbosity(optuna.logging.WARNING)
study = optuna.create_study(study_name="s", storage=StudyDatabase(Path(sys.argv[1])), direction="maximize")
while True:
    trial = study.ask()
    value = trial.suggest_float("a", 0.0, 1.0)
    trial.set_user_attr("rows", [{"f1_macro": value}] * 50)
    study.tell(trial, value)
    print(trial.number, repr(value), flush=True)
"""


def test_what_was_told_is_there_after_sigkill(opened: Callable[[Path], StudyDatabase], tmp_path: Path) -> None:
    file = tmp_path / "study.db"
    command = [sys.executable, "-c", KILLED, str(file)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    told = [process.stdout.readline().split() for _ in range(25)]
    process.send_signal(signal.SIGKILL)
    told += [line.split() for line in process.communicate()[0].splitlines(keepends=True) if line.endswith("\n")]
    assert process.returncode == -signal.SIGKILL
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    trials = optuna.load_study(study_name="s", storage=opened(file)).get_trials()
    assert len(trials) >= len(told) >= 25
    for (number, value), trial in zip(told, trials, strict=False):
        assert (trial.number, trial.state, trial.value) == (int(number), TrialState.COMPLETE, float(value))
        assert trial.user_attrs["rows"] == [{"f1_macro": float(value)}] * 50
    assert sum(trial.state != TrialState.COMPLETE for trial in trials) <= 1


def test_the_dashboard_may_read_while_we_write(opened: Callable[[Path], StudyDatabase], tmp_path: Path) -> None:
    """A reader in the middle of its transaction holds up nobody, and sees what was there when it began."""
    study = study_in(opened(tmp_path / "study.db"), RandomSampler(seed=0))
    run(study, 2)
    with closing(sqlite3.connect(tmp_path / "study.db", timeout=0.1, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM trials").fetchall() == [(2,)]
        run(study, 2)
        assert reader.execute("SELECT count(*) FROM trials").fetchall() == [(2,)]
        reader.execute("COMMIT")
        assert reader.execute("SELECT count(*) FROM trials").fetchall() == [(4,)]
