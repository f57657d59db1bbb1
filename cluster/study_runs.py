"""The runs of one study in MLflow: a parent, and nested runs below it; each may be written again without harm.

A run is known by its study's id and its own name, a metric's point by its step and time.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

STUDY_ID, RUN_NAME, PARENT = "pareto.study_id", "pareto.run", "study"
"""Tags by which a run is found again, and the parent's value of the second."""
ENDED = ("FINISHED", "FAILED", "KILLED")
NAME_LENGTH, VALUE_LENGTH, TAG_LENGTH = 250, 6000, 5000
PARAMS_AT_ONCE, METRICS_AT_ONCE = 50, 500
FIGURES = {".png", ".pdf", ".html", ".svg"}

Status = Literal["FINISHED", "FAILED", "KILLED"]


@dataclass(frozen=True)
class Point:
    """One value of a metric."""

    name: str
    value: float
    step: int
    timestamp_ms: int
    """Milliseconds since 1970, UTC; two points of the same name, step and time are one."""


@dataclass(frozen=True)
class RunRecord:
    """What is logged of a run; names may be any text."""

    name: str
    """Different for each nested run of a study."""
    started_ms: int
    ended_ms: int
    status: Status = "FINISHED"
    params: Mapping[str, object] = field(default_factory=dict)
    metrics: Sequence[Point] = ()
    tags: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Place:
    """Where runs are logged."""

    uri: str
    """Of the store or server, without credentials: MLflow takes those from the environment."""
    experiment: str
    artifacts: str | None
    """URI of the folder for the artifacts of a new experiment; None leaves that to the server."""


class StudyRuns:
    """The runs of one study in MLflow; for one thread."""

    def __init__(self, place: Place, study_id: str, parent: RunRecord) -> None:
        self._place, self._study_id, self._parent = place, study_id, parent

    @cached_property
    def _client(self) -> Any:
        # MLflow 3.17 uses what SQLAlchemy 2.1 deprecates; a filter, as a context of filters is not for threads
        warnings.filterwarnings("ignore", "The ``noload`` loader strategy", DeprecationWarning)
        from mlflow import MlflowClient

        return MlflowClient(tracking_uri=self._place.uri)

    @cached_property
    def _experiment_id(self) -> str:
        found = self._client.get_experiment_by_name(self._place.experiment)
        if found is not None:
            return str(found.experiment_id)
        return str(self._client.create_experiment(self._place.experiment, artifact_location=self._place.artifacts))

    @cached_property
    def _parent_id(self) -> str:
        """The parent run, running: the study's own from before, or a new one."""
        record, run = self._parent, self._find(PARENT)
        if run is None:
            run = self._create(PARENT, record, {})
        else:
            self._client.update_run(run.info.run_id, status="RUNNING")
        self._write(run, record)
        return str(run.info.run_id)

    def open(self) -> None:
        """Have the parent run."""
        _ = self._parent_id

    def log(self, record: RunRecord) -> None:
        """Write a nested run from start to end; one that has ended is left alone, one that has not is completed.

        A trial that failed and was run again to its end is completed too.
        """
        run = self._find(record.name)
        ended = run is not None and run.info.status in ENDED
        if ended and not (run.info.status == "FAILED" and record.status == "FINISHED"):
            return
        run = run or self._create(record.name, record, {"mlflow.parentRunId": self._parent_id})
        self._write(run, record)
        self._client.set_terminated(run.info.run_id, record.status, record.ended_ms)

    def amend(self, name: str, metrics: Sequence[Point]) -> None:
        """Add points to a nested run.

        Raises:
            LookupError: there is no such run.
        """
        run = self._find(name)
        if run is None:
            raise LookupError(f"run {name!r} was not logged")
        self._write(run, RunRecord(name, 0, 0, metrics=metrics))

    def finish(self, status: Status, metrics: Sequence[Point], files: Sequence[Path]) -> None:
        """Metrics and artifacts of the parent, and its end."""
        run = self._client.get_run(self._parent_id)
        self._write(run, RunRecord(PARENT, 0, 0, metrics=metrics))
        for file in files:
            folder = "figures" if file.suffix.lower() in FIGURES else "tables"
            self._client.log_artifact(self._parent_id, str(file), folder)
        self._client.set_terminated(self._parent_id, status)

    def dispose(self) -> None:
        """Close the connections to a database."""
        store = self._client._tracking_client.store
        if hasattr(store, "engine"):
            store.engine.dispose()

    def _find(self, name: str) -> Any:
        """The study's run of this name, or None; asked of MLflow, which may have one whose making seemed to fail."""
        query = f"tags.`{STUDY_ID}` = '{self._study_id}' and tags.`{RUN_NAME}` = '{name}'"
        found = self._client.search_runs([self._experiment_id], query, max_results=1)
        return found[0] if found else None

    def _create(self, name: str, record: RunRecord, tags: Mapping[str, str]) -> Any:
        ours = {STUDY_ID: self._study_id, RUN_NAME: name}
        return self._client.create_run(
            self._experiment_id, start_time=record.started_ms, tags={**ours, **tags}, run_name=record.name
        )

    def _write(self, run: Any, record: RunRecord) -> None:
        """Params that the run has not, tags and metrics, in requests that are small enough."""
        from mlflow.entities import Metric, Param, RunTag

        known = run.data.params  # a param is written once: MLflow refuses another value
        named = {valid_name(name): _text(value, VALUE_LENGTH) for name, value in record.params.items()}
        params = [Param(name, value) for name, value in named.items() if name not in known]
        tags = [RunTag(valid_name(name), _text(value, TAG_LENGTH)) for name, value in record.tags.items()]
        metrics = [Metric(valid_name(one.name), one.value, one.timestamp_ms, one.step) for one in record.metrics]
        run_id = run.info.run_id
        for start in range(0, len(params), PARAMS_AT_ONCE):
            self._client.log_batch(run_id, params=params[start : start + PARAMS_AT_ONCE])
        for start in range(0, len(tags), PARAMS_AT_ONCE):
            self._client.log_batch(run_id, tags=tags[start : start + PARAMS_AT_ONCE])
        for start in range(0, len(metrics), METRICS_AT_ONCE):
            self._client.log_batch(run_id, metrics=metrics[start : start + METRICS_AT_ONCE])


def valid_name(name: str) -> str:
    """A name that MLflow takes, different for different names.

    A name of letters, digits and `_ - . / space` stays as it is. In any other, what is not allowed becomes `_`, and 12
    hex digits of the name's SHA-256 end it; a name that already looks so is treated the same.
    """
    plain = re.fullmatch(r"[\w./ -]+", name) and len(name) <= NAME_LENGTH and not re.search(r"-[0-9a-f]{12}$", name)
    if plain and posixpath.normpath(name) == name == name.strip() and not name.startswith(("/", "..")) and name != ".":
        return name
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    kept = "/".join(part for part in re.sub(r"[^\w./ -]", "_", name).split("/") if part.strip(". "))
    return f"{kept.lstrip('. ')[: NAME_LENGTH - 13].rstrip(' /')}-{digest}"


def _text(value: object, length: int) -> str:
    text = str(value)
    return text if len(text) <= length else f"{text[: length - 1]}…"
