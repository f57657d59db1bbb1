"""Runs that outlast the program: one line of JSON each, written as soon as the run has ended."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LACKED = {"driver_seconds": 0.0, "suggestion_factor": 0.0}
"""Settings that lines of before they were there lack, with what they had been."""
Task = tuple[str, bool, int, int]
"""Sampler, reuse, workers and seed of a run."""


class KeptRuns:
    """The runs of one benchmark, those of its earlier calls too if it has a file."""

    def __init__(self, file: Path | None, settings: Mapping[str, Any]) -> None:
        """Take the file, and what runs must have in common to be compared; runs of other settings are left alone.

        How long a run may go on is none of it: one that ended without its 95 % counts as it is.
        """
        self._file, self._settings = file, dict(settings)
        self.runs: dict[Task, dict[str, Any]] = {}
        lines = file.read_text(encoding="utf-8").splitlines() if file and file.is_file() else []
        for line in lines:
            kept = json.loads(line)
            if LACKED | kept["settings"] == LACKED | self._settings:
                self.runs[task_of(kept["run"])] = kept["run"]

    def add(self, run: dict[str, Any]) -> None:
        """Take up a run that has ended."""
        self.runs[task_of(run)] = run
        if self._file:
            with self._file.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"settings": self._settings, "run": run}) + "\n")


def task_of(run: Mapping[str, Any]) -> Task:
    """What the run was asked to be."""
    return run["sampler"], run["reuse"], run["workers"], run["seed"]
