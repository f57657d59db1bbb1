"""What of a study is finished at a moment, as one finds it from outside, and what a fault has changed of it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from evaluation.records import RUN_DEPENDENT, plain_value

MODEL = ("trial", "stage", "model_key")
"""Columns that name a row of `trials.parquet`."""
SHOWN = 4
"""Differences that are told in full."""


@dataclass(frozen=True)
class Evidence:
    """What is finished."""

    trials: dict[int, tuple[str, str | None]]
    """By number: Optuna's state, and when the trial ended."""
    database_models: frozenset[str]
    """Keys of the models in the rows of `study.db`."""
    recorded_models: frozenset[str]
    """Keys of the models in `trials.parquet`."""
    artifacts: dict[str, str]
    """By `stage/key`: what tells this building of the artifact from another one."""

    def with_state(self, state: str) -> set[int]:
        """Numbers of the trials in an Optuna state, such as `COMPLETE`."""
        return {number for number, (its, _) in self.trials.items() if its == state}


def gather(folder: Path, artifacts: Mapping[str, str]) -> Evidence:
    """The evidence of a study's results folder and of its store."""
    trials, models = _database(folder / "study.db")
    return Evidence(trials, models, _recorded(folder / "trials.parquet"), dict(artifacts))


def _database(file: Path) -> tuple[dict[int, tuple[str, str | None]], frozenset[str]]:
    if not file.is_file():
        return {}, frozenset()
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=20.0)) as connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
        if not {"trials", "trial_user_attributes", "study_user_attributes"} <= tables:
            return {}, frozenset()
        trials = connection.execute("SELECT number, state, datetime_complete FROM trials").fetchall()
        texts = connection.execute(
            "SELECT value_json FROM trial_user_attributes WHERE key = 'rows' "
            "UNION ALL SELECT value_json FROM study_user_attributes WHERE key = 'reference_rows'"
        ).fetchall()
    rows = [row for (text,) in texts for row in json.loads(text)]
    keys = frozenset(row["model_key"] for row in rows if row.get("model_key"))
    return {number: (state, ended) for number, state, ended in trials}, keys


def _recorded(file: Path) -> frozenset[str]:
    return (
        frozenset(pd.read_parquet(file, columns=["model_key"])["model_key"].dropna()) if file.is_file() else frozenset()
    )


def lost(before: Evidence, after: Evidence) -> list[str]:
    """Models and artifacts that were there, and no longer are; what counts at the end is `trials.parquet`."""
    models = (before.database_models | before.recorded_models) - after.recorded_models
    return sorted({f"model {key}" for key in models} | (before.artifacts.keys() - after.artifacts.keys()))


def run_again(before: Evidence, after: Evidence, trials: int) -> list[int]:
    """Numbers of trials that were complete and ran again, under their own number or beyond the study's `trials`."""
    again = {number for number in before.with_state("COMPLETE") if before.trials[number] != after.trials.get(number)}
    return sorted(again | {number for number in after.trials if number >= trials})


def built_again(before: Evidence, after: Evidence) -> list[str]:
    """Artifacts that were finished, and were built a second time."""
    return sorted(name for name, mark in before.artifacts.items() if after.artifacts.get(name, mark) != mark)


def row_differences(expected: pd.DataFrame, found: pd.DataFrame) -> list[str]:
    """In words, what two runs' rows of `trials.parquet` differ in, columns that depend on the run apart."""
    ours, theirs = _by_model(expected), _by_model(found)
    told = [f"no row {_name(model)}" for model in ours.keys() - theirs.keys()]
    told += [f"a row more: {_name(model)}" for model in theirs.keys() - ours.keys()]
    for model in ours.keys() & theirs.keys():
        wanted, there = ours[model], theirs[model]
        for column in sorted((wanted.keys() | there.keys()) - set(RUN_DEPENDENT)):
            if wanted.get(column) != there.get(column):
                told.append(f"{_name(model)}: {column} is {there.get(column)}, was {wanted.get(column)}")
    more = [f"and {len(told) - SHOWN} more"] if len(told) > SHOWN else []
    return sorted(told)[:SHOWN] + more


def _by_model(frame: pd.DataFrame) -> dict[tuple[Any, ...], dict[str, Any]]:
    rows = [{str(name): plain_value(value) for name, value in row.items()} for row in frame.to_dict("records")]
    return {tuple(row[name] for name in MODEL): row for row in rows}


def _name(model: tuple[Any, ...]) -> str:
    trial, stage, key = model
    return f"{'reference' if trial is None else f'trial {trial}'} {stage} {(key or 'failed')[:8]}"
