"""One builder at a time among the nodes of a cluster, over a store that can only read, write, list and delete files.

Who wants to build writes a claim `.leases/<name>~<owner>` and draws a number behind those it sees (Lamport's bakery
algorithm, doi:10.1145/361082.361093); the lowest number builds. A claim is empty until its number is drawn, and is
written again as long as its owner lives: one that was not for `dead_after_seconds`, by the store's clock, counts as
dead. Should an owner only have seemed dead, two build the same: that costs time and harms nothing, as the content is
the same.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from pipeline.remote import Remote, RemoteError, RemoteFile

FOLDER = ".leases"
HEARTBEAT_SECONDS = 15.0
DEAD_AFTER_SECONDS = 60.0
LOOK_SECONDS = 2.0
"""Between two looks of one who waits."""


class Lease:
    """The right to build one thing, which one owner at a time has."""

    def __init__(
        self,
        remote: Remote,
        name: str,
        owner: str,
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
        dead_after_seconds: float = DEAD_AFTER_SECONDS,
    ) -> None:
        """Prepare; asks the store nothing.

        Args:
            remote: where the claims lie.
            name: of what is built; without `/` and `~`.
            owner: of this claim, without `/` and `~`. Among the processes of one owner only one at a time may ask, so
                that a claim left by one that died is taken over at once.
            heartbeat_seconds: between two writings of the claim.
            dead_after_seconds: a claim not written for so long is nobody's; several heartbeats.
        """
        self._remote, self._name, self._owner = remote, name, owner
        self._beats = remote.patient_for(0)  # a beat that fails is followed by the next one
        self._heartbeat, self._dead_after = heartbeat_seconds, dead_after_seconds
        self._claim = f"{FOLDER}/{name}~{owner}"
        self._content = b""
        self._writing = threading.Lock()
        self._steady_since = -math.inf
        """Monotonic time of the first beat after those that failed."""

    @contextmanager
    def held(self, done: Callable[[], bool], waiting: Callable[[], None] | None = None) -> Iterator[None]:
        """Wait for the turn, and keep it while the block runs.

        Args:
            done: asked while another one builds; when it is true, the block runs without the lease.
            waiting: called once if another one has the lease.
        """
        over = threading.Event()
        self._write(b"")
        heart = threading.Thread(target=self._beat, args=(over,), name=f"lease {self._name[:40]}", daemon=True)
        heart.start()
        try:
            numbers = [self._number(claim) for claim in self._others()]
            self._write(str(1 + max(numbers, default=0)).encode())
            self._wait(done, waiting)
            yield
        finally:
            over.set()
            heart.join()
            with suppress(RemoteError):  # it is dead to the others soon; what the block raised matters more
                self._remote.patient_for(self._heartbeat).delete(self._claim)

    def _wait(self, done: Callable[[], bool], waiting: Callable[[], None] | None) -> None:
        while self._is_anyone_ahead():
            if done():
                return
            if waiting:
                waiting()
                waiting = None
            time.sleep(min(LOOK_SECONDS, self._heartbeat))

    def _is_anyone_ahead(self) -> bool:
        """Whether a live claim has a lower number, or may yet draw one: it has not seen ours."""
        mine = (int(self._content), self._claim)
        return any((self._number(claim), claim) < mine for claim in self._others())

    def _others(self) -> list[str]:
        """The live claims on the same thing but ours; dead ones of any thing are removed."""
        claims = self._remote.list(FOLDER)
        ours = claims.get(self._claim)
        if ours is None:  # taken for dead
            self._write(self._content)
            return self._others()
        live = []
        for claim, file in claims.items():
            if claim == self._claim:
                continue
            if self._is_dead(file, ours):
                self._remote.delete(claim)
            elif claim.startswith(f"{FOLDER}/{self._name}~"):
                live.append(claim)
        return live

    def _is_dead(self, file: RemoteFile, ours: RemoteFile) -> bool:
        # After the store was away every claim is old, until its owner has had time to write it.
        if time.monotonic() - self._steady_since < 2 * self._heartbeat:
            return False
        return ours.mtime_ns - file.mtime_ns > self._dead_after * 1e9

    def _number(self, claim: str) -> int:
        """The claim's number in line; 0 before it is drawn, or when the claim is gone."""
        with suppress(FileNotFoundError, ValueError):
            return int(self._remote.read_bytes(claim))
        return 0

    def _write(self, content: bytes) -> None:
        with self._writing:
            self._remote.write_bytes(self._claim, content)
            self._content = content

    def _beat(self, over: threading.Event) -> None:
        while not over.wait(self._heartbeat):
            try:
                with self._writing:
                    self._beats.write_bytes(self._claim, self._content)
                if self._steady_since == math.inf:
                    self._steady_since = time.monotonic()
            except (RemoteError, OSError):
                self._steady_since = math.inf
