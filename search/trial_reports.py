"""What the trials that run have reported: the last of it, and the models that they have come to."""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from search.faults import death_text
from search.sections import ResourcesConfig
from search.study_keys import ROWS, ROWS_SO_FAR
from search.trial import Row


@dataclass(frozen=True)
class _Report:
    content: Mapping[str, Any]
    attempt: int
    at: float
    """By the monotonic clock."""


class TrialReports:
    """Of each trial that runs, by Tune's id."""

    def __init__(self, resources: ResourcesConfig) -> None:
        """Of a study with these resources."""
        self._resources = resources
        self._last: dict[str, _Report] = {}
        self._rows: dict[str, list[Row]] = {}

    def add(self, trial_id: str, attempt: int, content: Mapping[str, Any]) -> list[Row]:
        """Keep what an attempt reports; returns the rows in it."""
        self._last[trial_id] = _Report(content, attempt, time.monotonic())
        rows = list(content.get(ROWS) or content.get(ROWS_SO_FAR) or [])
        if len(rows) >= len(self.rows(trial_id)):  # an attempt may die before it comes as far as the last
            self._rows[trial_id] = rows
        return rows

    def last(self, trial_id: str, attempt: int) -> Mapping[str, Any]:
        """The last report of this attempt; empty if it has sent none."""
        last = self._last.get(trial_id)
        return last.content if last and last.attempt == attempt else {}

    def rows(self, trial_id: str) -> list[Row]:
        """Of the models that the trial has come to, in whichever attempt."""
        return self._rows.get(trial_id, [])

    def death(self, trial_id: str, attempt: int, reason: str) -> str:
        """Why an attempt ended that could not say so itself; `reason` is what Ray says."""
        if not (last := self.last(trial_id, attempt)):
            return death_text("its start", 0.0, reason, self._resources)
        seconds = time.monotonic() - self._last[trial_id].at
        return death_text(last.get("at_stage", "its start"), seconds, reason, self._resources)

    def named_in(self, reason: str, trial_ids: Collection[str]) -> list[str]:
        """Those of the trials whose worker's process an error names."""
        pids = {trial_id: last.content.get("pid") for trial_id, last in self._last.items()}
        return [trial_id for trial_id in trial_ids if re.search(rf"\bpid={pids.get(trial_id)}\b", reason)]

    def drop(self, trial_ids: Collection[str]) -> None:
        """Forget trials that run no longer."""
        for trial_id in trial_ids:
            self._last.pop(trial_id, None)
            self._rows.pop(trial_id, None)
