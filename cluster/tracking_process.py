"""Tracking in a process of its own: MLflow computes longer for a trial than the whole rest of the driver."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Any

from cluster.deferred import Deferred
from cluster.study_runs import Place, Point, RunRecord, Status
from cluster.tracking import CLOSE_SECONDS, Tracker

NICENESS = 10
"""The process takes what the driver and the trials leave."""
GRACE_SECONDS = 1.0


class TrackerApart:
    """A `Tracker` in a child process, which ends with this one however it ends."""

    def __init__(self, place: Place, study_id: str, parent: RunRecord, warn: Callable[[str], None]) -> None:
        """See `Tracker`."""
        self._warn, self._place = warn, place
        self._over = Event()
        self._answer: bool | None = None
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        arguments = (theirs, place, study_id, parent)
        self._process = context.Process(target=_serve, args=arguments, name="mlflow", daemon=True)
        self._process.start()
        theirs.close()  # the child has it: here its end must be seen
        # A thread sends: the pipe holds little, and the child may be busy.
        self._queue = Deferred("mlflow", lambda error: isinstance(error, OSError), lambda error: None)
        self._listener = Thread(target=self._listen, name="mlflow's answers", daemon=True)
        self._listener.start()

    @property
    def pid(self) -> int | None:
        """The child's process id."""
        return self._process.pid

    def log(self, record: RunRecord) -> None:
        """See `Tracker`."""
        self._send("log", record)

    def amend(self, name: str, metrics: Sequence[Point]) -> None:
        """See `Tracker`."""
        self._send("amend", name, metrics)

    def finish(self, status: Status, metrics: Sequence[Point] = (), files: Sequence[Path] = ()) -> None:
        """See `Tracker`."""
        self._send("finish", status, metrics, files)

    def close(self, seconds: float = CLOSE_SECONDS) -> bool:
        """See `Tracker`."""
        until = time.monotonic() + seconds
        self._send("close", seconds)
        if self._queue.close(seconds):
            self._over.wait(max(0.0, until - time.monotonic()) + GRACE_SECONDS)
        if self._answer is None:
            self._over.set()
            self._warn(f"not everything was logged at {self._place.uri}; run again with --resume to log the rest")
        self._process.join(0.0 if self._answer is None else GRACE_SECONDS)
        self._process.kill()
        self._process.join()
        self._listener.join()
        self._connection.close()
        return bool(self._answer)

    def _send(self, method: str, *arguments: Any) -> None:
        self._queue.put(lambda: self._connection.send((method, arguments)))

    def _listen(self) -> None:
        """Pass on warnings, until the child tells whether all was done, or is no more."""
        try:
            while not isinstance(answer := self._connection.recv(), bool):
                self._warn(answer)
            self._answer = answer
        except (EOFError, OSError):
            if not self._over.is_set():
                self._warn(f"the process that logs at {self._place.uri} has ended: killed, or out of memory")
        self._over.set()


def _serve(connection: Connection, place: Place, study_id: str, parent: RunRecord) -> None:
    """The child: do what is sent, until `close` or the other end is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the search, which then closes this
    os.nice(NICENESS)
    sending = Lock()

    def answer(message: object) -> None:
        with sending, suppress(OSError):  # warnings come from the tracker's thread, and the driver may be gone
            connection.send(message)

    tracker = Tracker(place, study_id, parent, answer)
    while True:
        try:
            method, arguments = connection.recv()
        except EOFError:
            return
        done = getattr(tracker, method)(*arguments)
        if method == "close":
            answer(done)
            return
