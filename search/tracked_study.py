"""A study's way to MLflow: what has ended is logged while the search goes on, and nothing twice."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import optuna
from optuna.trial import FrozenTrial
from rich.console import Console

from cluster.tracking import tracking_place
from cluster.tracking_process import TrackerApart
from search.config import StudyConfig
from search.optuna_study import ENDED
from search.run_records import (
    AGAIN,
    milliseconds,
    reference_records,
    remeasured,
    run_name,
    stage_points,
    study_points,
    study_record,
    trial_record,
)
from search.start import STUDY_FILE
from search.study_keys import REFERENCES
from search.trial import Row

TRACKING_ID = "tracking_id"
"""User attribute of the Optuna study: the id under which MLflow knows its runs."""
IN_A_HURRY_SECONDS = 5.0
"""How long the end of an interrupted study may wait for MLflow."""


class TrackedStudy:
    """A study's way to MLflow while the block runs; nothing happens where `tracking.uri` is `none`."""

    def __init__(self, study: optuna.Study, config: StudyConfig, console: Console) -> None:
        self._study, self._config, self._console = study, config, console
        self._tracker: TrackerApart | None = None
        self._references: list[Row] = []

    def __enter__(self) -> Self:
        """Open the parent run, and log the trials of an earlier run of the study that are not there."""
        tracking = self._config.tracking
        place = tracking_place(tracking.uri, tracking.experiment, Path(self._config.results_dir))
        if place is not None:
            if TRACKING_ID not in self._study.user_attrs:
                self._study.set_user_attr(TRACKING_ID, uuid.uuid4().hex)
            study_id = self._study.user_attrs[TRACKING_ID]
            self._tracker = TrackerApart(place, study_id, study_record(self._config), self._warn)
            for trial in self._study.get_trials(deepcopy=False, states=ENDED):
                self.trial(trial)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._tracker is None:
            return
        if kind is None:
            self._tracker.close()
        else:
            self._tracker.finish("FAILED" if issubclass(kind, Exception) else "KILLED")
            self._tracker.close(IN_A_HURRY_SECONDS)

    def references(self) -> None:
        """Log teacher and classical floor, which have been trained."""
        for record in reference_records(self._study):
            if self._tracker:
                self._tracker.log(record)

    def trial(self, trial: FrozenTrial) -> None:
        """Log a trial that has ended."""
        if self._tracker is None:
            return
        if not self._references:  # a study's attributes are copied whole each time they are asked for
            self._references = self._study.user_attrs.get(REFERENCES, [])
        self._tracker.log(trial_record(trial, self._references))

    def results(self, rows: Sequence[Row], files: Sequence[Path], finished: bool) -> None:
        """Log what the end has measured anew, the study's counts, and its tables and figures.

        Args:
            rows: of the front and the references, with `test_*`.
            files: artifacts of the parent run.
            finished: whether all trials have ended.
        """
        if self._tracker is None:
            return
        if finished:
            for row in remeasured(self._study, rows):
                self._tracker.amend(run_name(row), stage_points(row, None, milliseconds(row["created_at"]), AGAIN))
        study_file = self._config.folder / STUDY_FILE
        files = [*files, *([study_file] if study_file.is_file() else [])]
        self._tracker.finish("FINISHED" if finished else "KILLED", list(study_points(self._study, rows)), files)

    def _warn(self, line: str) -> None:
        self._console.print(f"warning: {line}", highlight=False, markup=False, soft_wrap=True, style="yellow")
