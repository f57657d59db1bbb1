"""Limits that a worker process puts on itself: how long a stage may take, and how much memory a trial."""

from __future__ import annotations

import faulthandler
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

GIGABYTE = 2**30
STANDARD_ERROR = 2
"""File descriptor: Ray has its workers write there to a log of their own."""
PROCESS_STATUS = Path("/proc/self/status")


class StageClock:
    """Ends the process when a stage takes too long, also when a hang in C keeps Python itself from running.

    Before that the stacks of all threads go to standard error. There is one timer in a process, `CLOCK`.
    """

    def __init__(self) -> None:
        self._seconds: float | None = None

    @contextmanager
    def limited(self, minutes: float | None) -> Iterator[None]:
        """Let no stage inside take longer than so many minutes; null for no limit. The first one begins now."""
        self._seconds = None if minutes is None else 60.0 * minutes
        self.start()
        try:
            yield
        finally:
            self.stop()
            self._seconds = None

    def start(self) -> None:
        """A stage begins: it has all its time from now."""
        if self._seconds is not None:
            faulthandler.dump_traceback_later(self._seconds, exit=True, file=STANDARD_ERROR)

    def stop(self) -> None:
        """Nothing runs that may take too long, until the next start."""
        if self._seconds is not None:
            faulthandler.cancel_dump_traceback_later()


CLOCK = StageClock()


@contextmanager
def memory_limit(gigabytes: float | None) -> Iterator[None]:
    """Let what needs more memory inside fail with an error of its own, before the machine runs out.

    Counted is what the process uses at the start, and every private page that it reserves from then on; memory that it
    shares with others, such as Ray's object store, is not. Where there is no `/proc`, nothing is limited.

    Args:
        gigabytes: of 2**30 bytes; null for no limit.
    """
    if gigabytes is None or not PROCESS_STATUS.is_file():
        yield
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    # The address space (RLIMIT_AS) would be no measure: the object store alone maps a third of the machine's memory.
    wanted = int(gigabytes * GIGABYTE) + _reserved_unused()
    resource.setrlimit(resource.RLIMIT_DATA, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _reserved_unused() -> int:
    """Bytes that count for the limit and are no memory: stacks of threads mostly, of which a worker has a hundred."""
    status = dict(re.findall(r"^(VmData|RssAnon):\s+(\d+) kB$", PROCESS_STATUS.read_text("ascii"), re.MULTILINE))
    return max(0, int(status["VmData"]) - int(status["RssAnon"])) * 1024
