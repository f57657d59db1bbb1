"""`trials.parquet` and `front.parquet`: valid at any time of a search, and never far behind it."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from ray.tune import Callback

from evaluation.environment import environment
from evaluation.front import front_rows
from evaluation.records import TRIALS_ENDED, write_records
from search.config import StudyConfig
from search.optuna_study import collected_rows
from search.searcher import ParetoSearcher
from search.trial import Row

PAUSE = 20.0
"""A snapshot is written when the last one is older than so many times what it took: a twentieth of the time at most."""


@dataclass(frozen=True)
class RecordFiles:
    """A study's two Parquet files; each is replaced at once, so that a reader finds a whole one."""

    config: StudyConfig
    report: Mapping[str, Any]
    """What preparing the comments reported."""

    def write(self, rows: list[Row], front: list[Row], trials_ended: int) -> list[Path]:
        """Write all rows, and then those of the front: what is on it is in the first file too.

        A trial that brought no new model has no row: how many have ended is told beside the rows.
        """
        trials, best = self.config.folder / "trials.parquet", self.config.folder / "front.parquet"
        metadata = {**self.metadata, TRIALS_ENDED: str(trials_ended)}
        write_records(rows, trials, metadata=metadata)
        write_records(front, best, metadata=metadata)
        return [trials, best]

    @cached_property
    def metadata(self) -> dict[str, str]:
        """What the report needs to know beside the rows, the same at any time of the search."""
        return {
            "study": self.config.study,
            "preset": self.config.preset,
            "critical_label": self.config.critical_label,
            "label_columns": json.dumps(self.config.data.label_columns, ensure_ascii=False),
            "synthetic": json.dumps(bool(self.report["synthetic"])),
            "data": json.dumps(self.report, ensure_ascii=False, default=str),
            "environment": json.dumps(environment(), ensure_ascii=False),
        }


class Snapshots(Callback):
    """Writes the files while the search runs, from Tune's loop: after a trial, once the last one is old enough.

    The front has no `test_*` columns yet: test is touched once, at the end.
    """

    def __init__(self, searcher: ParetoSearcher, files: RecordFiles) -> None:
        self._searcher, self._files = searcher, files
        self._written: int | None = None
        self._due = 0.0

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune stores its callbacks to restore itself from, which we do from the database."""
        return {}

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Tune's loop comes here at least ten times a second."""
        if time.monotonic() >= self._due:
            self.catch_up()

    def catch_up(self) -> None:
        """Write what has ended since the last snapshot, if anything has."""
        if self._written == self._searcher.ended:
            return
        started = time.monotonic()
        rows = collected_rows(self._searcher.study)
        self._files.write(rows, front_of(rows), self._searcher.ended)
        self._written = self._searcher.ended
        self._due = time.monotonic() + PAUSE * (time.monotonic() - started)


def front_of(rows: list[Row]) -> list[Row]:
    """The rows on either front, with `on_front` and `on_safe_front`, smallest model first."""
    marked = front_rows(pd.DataFrame(rows))
    flags = zip(marked.index, marked["on_front"], marked["on_safe_front"], strict=True)
    return [{**rows[index], "on_front": bool(on), "on_safe_front": bool(safe)} for index, on, safe in flags]
