"""Who may look for an artifact and build it: one process at a time, on this node and on all others."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from filelock import FileLock, Timeout

from pipeline.whole_file import replaced

if TYPE_CHECKING:
    from pipeline.remote_store import RemoteStore


class BeingBuilt(Exception):
    """Another process builds the artifact, and the caller does not want to wait for it."""

    def __init__(self, stage: str, key: str) -> None:
        super().__init__(f"{stage} {key[:12]} is being built by another process")
        self.stage, self.key = stage, key


class Turns:
    """Locks of a store's keys; the operating system frees a lock when its process ends."""

    def __init__(self, folder: Path, waiting: Callable[[str], None] | None, remote: RemoteStore | None) -> None:
        """Keep the locks of this node in `folder`.

        Args:
            folder: made when the first lock is taken.
            waiting: `waiting(stage)` is called when another process has the turn.
            remote: where the nodes of a cluster agree on whose turn it is.
        """
        self._folder, self._waiting, self._remote = folder, waiting, remote

    @contextmanager
    def on_this_node(self, stage: str, key: str, wait: bool = True) -> Iterator[None]:
        """Keep the other processes of this node from moving or making the artifact.

        Raises:
            BeingBuilt: another has the turn, and `wait` is false.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self._folder / f"{key}.lock")
        try:
            lock.acquire(blocking=False)
        except Timeout:
            if not wait:
                raise BeingBuilt(stage, key) from None
            if self._waiting:
                self._waiting(stage)
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    @contextmanager
    def everywhere(self, stage: str, key: str, wait: bool = True) -> Iterator[None]:
        """Keep all others, on this node and on the others, from building what is looked for and built in the block.

        Raises:
            BeingBuilt: another has the turn, and `wait` is false.
        """

        def leave() -> NoReturn:
            raise BeingBuilt(stage, key)

        with self.on_this_node(stage, key, wait):
            if self._remote is None:
                yield
                return
            waiting: Callable[[], None] | None = partial(self._waiting, stage) if self._waiting else None
            if not wait:
                waiting = leave
            with self._remote.alone(stage, key, self._owner(), waiting):
                yield

    def _owner(self) -> str:
        """A name of this folder, the same for all processes that use it; a lock of its holds for them all."""
        file = self._folder / "owner"
        with FileLock(file.with_suffix(".lock")):
            if not file.is_file():
                with replaced(file) as new:
                    new.write_text(uuid.uuid4().hex, encoding="utf-8")
            return file.read_text(encoding="utf-8")
