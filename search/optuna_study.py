"""The Optuna study of a search: opening it, and its rows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import optuna
from optuna.trial import TrialState

from search.config import StudyConfig
from search.space import Space
from search.study_database import StudyDatabase
from search.study_keys import QUIET, REFERENCES, ROWS
from search.trial import Row

ENDED = (TrialState.COMPLETE, TrialState.FAIL)
MINIMISED = {"model_size_mb", "latency_ratio"}
"""Objectives that are; the others are maximised."""


def collected_rows(study: optuna.Study) -> list[Row]:
    """Rows of `trials.parquet`: teacher and floor, then each model once, under the first trial by number that has it.

    A trial that failed has a row of its own. Figures of the repeated, quiet measurement replace the first ones.
    """
    quiet: dict[str, Row] = study.user_attrs.get(QUIET, {})
    rows: list[Row] = [{**row, "trial": None} for row in study.user_attrs.get(REFERENCES, [])]
    for trial in study.get_trials(deepcopy=False, states=ENDED):
        rows += [{**row, "trial": trial.number} for row in trial.user_attrs.get(ROWS, [])]
    seen: set[str] = set()
    kept = []
    for row in rows:
        key = row.get("model_key")
        if key is None or key not in seen:
            kept.append({**row, **quiet.get(key or "", {})})
        seen.add(key or "")
    return kept


@contextmanager
def opened(config: StudyConfig, sampler: optuna.samplers.BaseSampler) -> Iterator[optuna.Study]:
    """`open_study` while the block runs; after it `study.db` is one whole file."""
    study = open_study(config, sampler)
    try:
        yield study
    finally:
        study._storage.close()  # type: ignore[attr-defined]  # a StudyDatabase


def open_study(config: StudyConfig, sampler: optuna.samplers.BaseSampler) -> optuna.Study:
    """The Optuna study of `study.db`, made if it is not there, with the study's points as its first trials."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        study_name=config.study,
        storage=StudyDatabase(config.folder.resolve() / "study.db"),
        sampler=sampler,
        directions=["minimize" if name in MINIMISED else "maximize" for name in config.search.objectives],
        load_if_exists=True,
    )
    if all(trial.state == TrialState.WAITING for trial in study.get_trials(deepcopy=False)):
        space = Space(config)
        for point in config.search.points:
            study.enqueue_trial(space.named(point), skip_if_exists=True)
    return study
