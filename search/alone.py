"""One run of a study at a time: a second one under its name would write into the first one's results."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from pipeline.errors import InputError
from pipeline.lease import DEAD_AFTER_SECONDS, HEARTBEAT_SECONDS, Lease
from pipeline.remote import Remote
from search.config import StudyConfig
from search.results_mirror import START_SECONDS, place

GRACE_SECONDS = 3.0
"""For a store that is slow, and tells times in whole seconds."""


@contextmanager
def alone(
    config: StudyConfig,
    say: Callable[[str], None],
    heartbeat_seconds: float = HEARTBEAT_SECONDS,
    dead_after_seconds: float = DEAD_AFTER_SECONDS,
) -> Iterator[None]:
    """Hold the study's name while the block runs: in the results folder, and in the storage where that is a bucket.

    A run that was killed lets go of the folder at once, of the bucket when it has been silent for
    `dead_after_seconds`; so long a second one waits there, and says so.

    Args:
        config: of the study that is to run.
        say: told what is waited for.
        heartbeat_seconds: see `pipeline.lease.Lease`.
        dead_after_seconds: likewise.

    Raises:
        InputError: another run has the name.
        RemoteUnreachable: the storage does not answer.
    """
    results = Path(config.results_dir)
    results.mkdir(parents=True, exist_ok=True)
    lock = FileLock(results / f".{config.study}.lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise taken(config, str(results)) from None
    try:
        if not config.storage_is_remote:
            yield
            return
        deadline = time.monotonic() + dead_after_seconds + 2 * heartbeat_seconds + GRACE_SECONDS
        late = False

        def too_late() -> bool:
            nonlocal late
            late = time.monotonic() > deadline
            return late

        def waiting() -> None:
            say(f"{place(config)} belongs to another run; should that be dead, this one begins within a minute or two")

        remote = Remote(config.storage or "", START_SECONDS)
        name = f"study-{config.study}"
        lease = Lease(remote, name, uuid.uuid4().hex, heartbeat_seconds, dead_after_seconds)
        with lease.held(too_late, waiting):
            if late:
                raise taken(config, place(config))
            yield
    finally:
        lock.release()


def taken(config: StudyConfig, where: str) -> InputError:
    """What is said to the second one."""
    return InputError(
        [
            f"study={config.study!r}: another run of a study of this name writes to {where} now; "
            "wait for its end, or name this one otherwise (--set study=NAME)"
        ]
    )
