"""Jobs that may fail or take long, done beside the program: none of them stops it, what fails is kept and tried again.

One thread does the jobs in their order, so that they may share what only one thread may use.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue

Job = Callable[[], None]


class Deferred:
    """A queue of jobs with a thread of its own, which does not keep the process alive.

    After a failure for which `is_down` holds, nothing more is tried until `close`: then all that is left, once.
    """

    def __init__(self, name: str, is_down: Callable[[Exception], bool], warn: Callable[[Exception], None]) -> None:
        """Start the thread.

        Args:
            name: of the thread.
            is_down: whether an error means that the jobs after it would fail too.
            warn: told the first error, on the thread.
        """
        self._is_down, self._warn = is_down, warn
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._kept: list[Job] = []
        self._down = self._warned = False
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def put(self, job: Job) -> None:
        """Have the job done after those put before it; returns at once."""
        self._jobs.put(job)

    def close(self, seconds: float) -> bool:
        """Try again what failed, and end; whether everything was done within `seconds`."""
        self._jobs.put(None)
        self._thread.join(seconds)
        return not self._thread.is_alive() and not self._kept

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            self._attempt(job)
        again, self._kept, self._down = self._kept, [], False
        for job in again:
            self._attempt(job)

    def _attempt(self, job: Job) -> None:
        if self._down:
            self._kept.append(job)
            return
        try:
            job()
        except Exception as error:  # of whatever kind: it must not end what the jobs only accompany
            self._kept.append(job)
            self._down = self._is_down(error)
            if not self._warned:
                self._warned = True
                self._warn(error)
