"""Tracking with MLflow: the driver alone writes, from one thread; a search never waits for it or fails with it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from cluster.deferred import Deferred
from cluster.study_runs import Place, Point, RunRecord, Status, StudyRuns

OFF = "none"
"""The URI that means: no tracking."""
CLOSE_SECONDS = 60.0
"""How long the end of a study may wait for what is still to be logged."""
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
}
"""What MLflow is told where the user's environment says nothing; seconds."""


def tracking_place(uri: str | None, experiment: str, results_dir: Path) -> Place | None:
    """Where a study is logged: `mlflow.db` in `results_dir` when no URI is given, None when it is `none`."""
    if uri == OFF:
        return None
    uri = uri or f"sqlite:///{results_dir.resolve() / 'mlflow.db'}"
    if not uri.startswith("sqlite:"):
        return Place(uri, experiment, None)
    database = Path(uri.removeprefix("sqlite:///")).resolve()
    return Place(f"sqlite:///{database}", experiment, (database.parent / "mlartifacts").as_uri())


class Tracker:
    """Logs a study's runs; every method but `close` returns at once and raises nothing."""

    def __init__(self, place: Place, study_id: str, parent: RunRecord, warn: Callable[[str], None]) -> None:
        """Open the study's parent run, the one it had before if it goes on.

        Args:
            place: where.
            study_id: tells studies of one name apart.
            parent: the parent run; `ended_ms` and `status` are those of `finish`.
            warn: told once what went wrong.
        """
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        self._warn, self._place = warn, place
        self._runs = StudyRuns(place, study_id, parent)
        self._queue = Deferred("mlflow", _unreachable, self._tell)
        self._queue.put(self._runs.open)

    def log(self, record: RunRecord) -> None:
        """Log a nested run, unless it is there and has ended."""
        self._queue.put(lambda: self._runs.log(record))

    def amend(self, name: str, metrics: Sequence[Point]) -> None:
        """Add points to a nested run that was logged."""
        self._queue.put(lambda: self._runs.amend(name, metrics))

    def finish(self, status: Status, metrics: Sequence[Point] = (), files: Sequence[Path] = ()) -> None:
        """End the parent run, with its last metrics and these files as artifacts."""
        self._queue.put(lambda: self._runs.finish(status, metrics, files))

    def close(self, seconds: float = CLOSE_SECONDS) -> bool:
        """Try again what failed; whether everything is logged. Takes at most `seconds`."""
        done = self._queue.close(seconds)
        if done:
            self._runs.dispose()
        else:
            self._warn(f"not everything was logged at {self._place.uri}; run again with --resume to log the rest")
        return done

    def _tell(self, error: Exception) -> None:
        lines = str(error).splitlines() or [""]
        told = f"{type(error).__name__}: {lines[0][:300]}"
        self._warn(f"MLflow at {self._place.uri}: {told}; the search goes on, and all is tried again at its end")


def _unreachable(error: Exception) -> bool:
    """Whether MLflow did not answer, rather than refuse this one request."""
    if isinstance(error, LookupError | FileNotFoundError):
        return False
    return getattr(error, "error_code", "INTERNAL_ERROR") in ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE")
