"""A study and MLflow together: what whole runs on Ray leave there, a resumed study, and a server that is dead."""

from __future__ import annotations

import io
import json
import socket
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna
import pytest
from rich.console import Console

from evaluation.records import read_records
from search.config import StudyConfig
from search.study_file import study_from
from search.study_keys import CURVES, REFERENCE_CURVES, REFERENCES, ROWS
from search.tracked_study import TRACKING_ID, TrackedStudy
from search.trial import STORED_AS

PER_EPOCH = {"val_loss", "val_accuracy", "val_macro_f1", "val_f1", "val_best_threshold"}
PER_EPOCH |= {"soft_loss", "hard_loss", "total_loss"}
MADE = {"created_at": "2026-01-02T03:04:05+00:00", "stage_seconds": 1.0, "status": "ok", "safety_verdict": "safe"}


def ask(database: Path, query: str, *values: object) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        return connection.execute(query, values).fetchall()


def runs_of(database: Path, study_id: str) -> dict[str, str]:
    """Ids of a study's runs by name, read without MLflow."""
    query = (
        "SELECT name, run_uuid FROM runs JOIN tags USING (run_uuid) WHERE tags.key = 'pareto.study_id' AND value = ?"
    )
    found = ask(database, query, study_id)
    assert len(dict(found)) == len(found), "no run is there twice"
    return dict(found)


def tags_of(database: Path, run: str) -> dict[str, str]:
    return dict(ask(database, "SELECT key, value FROM tags WHERE run_uuid = ?", run))


def curves_of(database: Path, run: str) -> list[tuple[Any, ...]]:
    """Every figure of every epoch: name, epoch, value."""
    query = "SELECT key, step, value FROM metrics WHERE run_uuid = ? AND step > 0 ORDER BY key, step"
    return [point for point in ask(database, query, run) if point[0].rpartition("/")[2] in PER_EPOCH]


class Logged:
    """What a run of the smoke study left in MLflow."""

    def __init__(self, run: Any) -> None:
        self.folder: Path = run.folder
        self.store: Path = run.config.store_root
        self.database = Path(run.config.tracking.uri.removeprefix("sqlite:///"))
        [[found]] = ask(
            self.folder / "study.db", "SELECT value_json FROM study_user_attributes WHERE key = ?", TRACKING_ID
        )
        self.runs = runs_of(self.database, json.loads(found))
        self.trials = read_records(self.folder / "trials.parquet")

    def status(self, name: str) -> str:
        [[status]] = ask(self.database, "SELECT status FROM runs WHERE run_uuid = ?", self.runs[name])
        return str(status)


@pytest.mark.e2e
def test_a_run_for_the_study_and_one_for_each_trial_and_reference(smoke_runs: Any) -> None:
    for run in (smoke_runs.first, smoke_runs.second, smoke_runs.faulty):
        logged = Logged(run)
        children = {"teacher", "classical", "trial 0", "trial 1", "trial 2"}
        assert set(logged.runs) == children | {"smoke"}
        assert logged.status("smoke") == "FINISHED"
        for name in children:
            assert tags_of(logged.database, logged.runs[name])["mlflow.parentRunId"] == logged.runs["smoke"]
        failed = {f"trial {row.trial}": row.error for row in logged.trials.itertuples() if row.status == "failed"}
        for name in children:
            assert logged.status(name) == ("FAILED" if name in failed else "FINISHED")
            assert tags_of(logged.database, logged.runs[name]).get("error") == failed.get(name)
    assert len(failed) == 2
    assert "MLflow" not in smoke_runs.first.printed


@pytest.mark.e2e
def test_figures_are_those_of_the_parquet_file(smoke_runs: Any) -> None:
    """The models on the front were measured again: the latest value is the one that counts."""
    logged = Logged(smoke_runs.first)
    query = "SELECT value FROM latest_metrics WHERE run_uuid = ? AND key = ?"
    for _, row in logged.trials.iterrows():
        name = {"baseline": "teacher", "classical": "classical"}.get(row["stage"]) or f"trial {row['trial']}"
        for column in (
            "f1_macro",
            "model_size_mb",
            "latency_mean_ms",
            "throughput_samples_per_sec",
            "per_label_f1.threat",
        ):
            [[value]] = ask(logged.database, query, logged.runs[name], f"{row['stage']}/{column}")
            assert value == row[column], (name, column)
    for _, row in read_records(logged.folder / "front.parquet").iterrows():
        name = {"baseline": "teacher", "classical": "classical"}.get(row["stage"]) or f"trial {row['trial']}"
        [[value]] = ask(logged.database, query, logged.runs[name], f"{row['stage']}/test_f1_macro")
        assert value == row["test_f1_macro"]


@pytest.mark.e2e
def test_curves_are_those_of_the_artifacts(smoke_runs: Any) -> None:
    logged = Logged(smoke_runs.first)
    seen = set()
    for _, row in logged.trials[logged.trials["model_key"].notna()].iterrows():
        manifest = logged.store / STORED_AS[row["stage"]] / row["model_key"] / "manifest.json"
        history = json.loads(manifest.read_text("utf-8"))["notes"].get("history") or []
        name = {"baseline": "teacher", "classical": "classical"}.get(row["stage"]) or f"trial {row['trial']}"
        expected = [(f"{row['stage']}/{key}", entry["epoch"], entry[key]) for entry in history for key in PER_EPOCH]
        found = [one for one in curves_of(logged.database, logged.runs[name]) if one[0].startswith(f"{row['stage']}/")]
        assert found == sorted(expected)
        seen |= {row["stage"]} if history else set()
    assert seen >= {"baseline", "after_kd", "after_pruning"}


@pytest.mark.e2e
def test_stages_that_were_found_log_the_same_curves(smoke_runs: Any) -> None:
    first, second = Logged(smoke_runs.first), Logged(smoke_runs.second)
    assert second.trials["cache_hit"].all() and not first.trials["cache_hit"].all()
    fresh, found = ({name: curves_of(one.database, run) for name, run in one.runs.items()} for one in (first, second))
    assert fresh == found
    assert fresh["teacher"] and any(fresh[f"trial {number}"] for number in range(3))


@pytest.mark.e2e
def test_tables_and_figures_are_artifacts(smoke_runs: Any) -> None:
    logged = Logged(smoke_runs.first)
    [[uri]] = ask(logged.database, "SELECT artifact_uri FROM runs WHERE run_uuid = ?", logged.runs["smoke"])
    folder = Path(uri.removeprefix("file://"))
    for file in (
        "figures/front.png",
        "figures/front.pdf",
        "tables/front.tex",
        "tables/trials.parquet",
        "tables/study.yaml",
    ):
        assert (folder / file).read_bytes() == (logged.folder / Path(file).name).read_bytes()


def row(stage: str, key: str, **changes: Any) -> dict[str, Any]:
    return MADE | {"stage": stage, "model_key": key, "f1_macro": 0.5, "model_size_mb": 1.0} | changes


def study_of(trials: int) -> optuna.Study:
    """A study in memory with so many trials that have ended."""
    study = optuna.create_study()
    study.set_user_attr(REFERENCES, [row("baseline", "a"), row("classical", "z")])
    study.set_user_attr(REFERENCE_CURVES, [{"name": "baseline", "epochs": [{"epoch": 1, "val_loss": 0.5}]}])
    for _ in range(trials):
        end_one(study)
    return study


def end_one(study: optuna.Study) -> optuna.trial.FrozenTrial:
    trial = study.ask()
    model = row("after_kd", f"k{trial.number}", **{"distil.method": "logit", "distil.layers": 1})
    trial.set_user_attr(ROWS, [model])
    trial.set_user_attr(CURVES, [{"name": "after_kd", "epochs": [{"epoch": 1, "val_loss": 0.25}]}])
    study.tell(trial, 1.0)
    return study.trials[trial.number]


def config_for(folder: Path, uri: str | None = None) -> StudyConfig:
    return study_from({"study": "s", "results_dir": str(folder), "tracking": {"uri": uri}})


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder whose default store is there; to make it takes seconds."""
    folder = tmp_path_factory.mktemp("results")
    assert track(config_for(folder), study_of(0)) == ""
    return folder


def track(config: StudyConfig, study: optuna.Study, new: int = 0, finished: bool = True) -> str:
    """A run of the study with so many new trials; what it printed."""
    console = Console(file=io.StringIO(), width=500)
    with TrackedStudy(study, config, console) as tracked:
        tracked.references()
        for _ in range(new):
            tracked.trial(end_one(study))
        tracked.results([], [], finished)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_resumed_study_goes_on_in_its_run_and_logs_nothing_twice(results: Path) -> None:
    study, config, database = study_of(0), config_for(results), results / "mlflow.db"
    assert track(config, study, new=2, finished=False) == ""
    begun = runs_of(database, study.user_attrs[TRACKING_ID])
    assert set(begun) == {"s", "teacher", "classical", "trial 0", "trial 1"}
    assert ask(database, "SELECT status FROM runs WHERE run_uuid = ?", begun["s"]) == [("KILLED",)]
    points = ask(database, "SELECT count(*) FROM metrics")
    assert track(config, study, finished=False) == ""
    assert ask(database, "SELECT count(*) FROM metrics") == points
    assert track(config, study, new=1) == ""
    ended = runs_of(database, study.user_attrs[TRACKING_ID])
    assert set(ended) == {*begun, "trial 2"} and begun.items() <= ended.items()
    assert ask(database, "SELECT status FROM runs WHERE run_uuid = ?", begun["s"]) == [("FINISHED",)]
    assert curves_of(database, ended["trial 0"]) == [("after_kd/val_loss", 1, 0.25)]


def test_a_dead_server_stops_and_slows_nothing_and_a_later_run_logs_it_all(results: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{free.getsockname()[1]}"
    study = study_of(0)
    started = time.perf_counter()
    printed = track(config_for(results, uri), study, new=5)
    assert time.perf_counter() - started < 60
    first, second = printed.splitlines()
    assert first.startswith(f"warning: MLflow at {uri}: ") and "the search goes on" in first
    assert second == f"warning: not everything was logged at {uri}; run again with --resume to log the rest"
    assert track(config_for(results), study) == ""
    runs = runs_of(results / "mlflow.db", study.user_attrs[TRACKING_ID])
    assert set(runs) == {"s", "teacher", "classical", *(f"trial {number}" for number in range(5))}


def test_an_error_ends_the_run_as_failed(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.tracked_study.IN_A_HURRY_SECONDS", 60.0)  # a busy machine may take ten to import MLflow
    study = study_of(1)
    with pytest.raises(ZeroDivisionError), TrackedStudy(study, config_for(results), Console(file=io.StringIO())):
        raise ZeroDivisionError
    runs = runs_of(results / "mlflow.db", study.user_attrs[TRACKING_ID])
    status = dict(ask(results / "mlflow.db", "SELECT run_uuid, status FROM runs"))
    assert {name: status[run] for name, run in runs.items()} == {"s": "FAILED", "trial 0": "FINISHED"}


def test_no_tracking(tmp_path: Path) -> None:
    study = study_of(1)
    assert track(config_for(tmp_path, "none"), study, new=1) == ""
    assert list(tmp_path.iterdir()) == [] and TRACKING_ID not in study.user_attrs
