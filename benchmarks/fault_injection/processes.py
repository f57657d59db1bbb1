"""Processes of a benchmark: found by descent, stopped whole, and no others ever."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cluster.two_nodes import free_ports

PR_SET_CHILD_SUBREAPER = 36
_started: set[int] = set()
"""Processes that a `Popen` of ours reaps."""


@dataclass(frozen=True)
class Group:
    """A command that was started, with everything that descends from it or is of its session."""

    process: subprocess.Popen[bytes]
    log: Path

    def members(self) -> list[int]:
        """Process ids that are alive, the command's own first."""
        table = _table()
        root = self.process.pid
        mine = {os.getpid(), *_below(os.getpid(), table)}
        session = {pid for pid, (_, of) in table.items() if of == root and pid in mine}
        found = {pid for start in {root, *session} for pid in (start, *_below(start, table))}
        return [pid for pid in sorted(found, key=lambda pid: pid != root) if pid in table]

    def kill(self) -> None:
        """SIGKILL the command and all its descendants at once, and wait until they are gone."""
        while members := self.members():
            kill(members)
        self.process.wait()


def start(command: Sequence[str], log: Path, environment: Mapping[str, str]) -> Group:
    """Start a command in a session of its own, with these variables beside the inherited ones; output goes to `log`."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            start_new_session=True,
        )
    _started.add(process.pid)
    return Group(process, log)


def adopt_orphans() -> None:
    """From now on a descendant whose parent dies becomes a child of this process, and so stays known as ours."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def end_all(but: Iterable[Group] = ()) -> None:
    """SIGKILL all descendants of this process, but for these groups."""
    while True:
        kept = {pid for group in but for pid in group.members()}
        if not (left := [pid for pid in _below(os.getpid(), _table()) if pid not in kept]):
            return
        kill(left)


def kill(pids: Iterable[int], seconds: float = 20.0) -> None:
    """SIGKILL these processes and wait until none runs any more.

    Raises:
        TimeoutError: one is still there after so many seconds.
    """
    pids = list(pids)
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    if not wait_until(lambda: not _alive(pids), seconds, pause=0.01):
        raise TimeoutError(f"processes {_alive(pids)} are still there {seconds:g} s after SIGKILL")
    for pid in pids:
        if pid not in _started:
            with suppress(ChildProcessError):  # not a child of ours: its parent reaps it
                os.waitpid(pid, os.WNOHANG)


def lock_holder(file: Path) -> int | None:
    """The process that holds the file's `flock`, as `filelock` takes it; None when nobody does."""
    try:
        inode = file.stat().st_ino
    except OSError:
        return None
    for line in Path("/proc/locks").read_text("ascii").splitlines():
        words = line.split()  # those that wait have `->` for the kind
        if words[1] == "FLOCK" and int(words[5].rpartition(":")[2]) == inode:
            return int(words[4])
    return None


def wait_until(condition: Callable[[], object], seconds: float, pause: float = 0.05) -> bool:
    """Whether the condition came true within so many seconds."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(pause)
    return True


def free_port() -> int:
    """A TCP port of the loopback interface that nobody has."""
    return free_ports(1)[0]


def listens(port: int) -> bool:
    """Whether somebody does on this port of the loopback interface."""
    with socket.socket() as one:
        one.settimeout(1.0)
        return one.connect_ex(("127.0.0.1", port)) == 0


def is_full(error: OSError) -> bool:
    """Whether the error says that the disk is full."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def _table() -> dict[int, tuple[int, int]]:
    """Parent and session of every process that is not a zombie."""
    found = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with suppress(OSError):
                words = Path(entry.path, "stat").read_text("utf-8", errors="replace").rpartition(")")[2].split()
                if words[0] != "Z":
                    found[int(entry.name)] = (int(words[1]), int(words[3]))
    return found


def _alive(pids: Iterable[int]) -> list[int]:
    """Those that still run; looks at them alone."""
    found = []
    for pid in pids:
        with suppress(OSError):
            if Path(f"/proc/{pid}/stat").read_text("utf-8", errors="replace").rpartition(")")[2].split()[0] != "Z":
                found.append(pid)
    return found


def _below(root: int, table: Mapping[int, tuple[int, int]]) -> list[int]:
    children: dict[int, list[int]] = {}
    for pid, (parent, _) in table.items():
        children.setdefault(parent, []).append(pid)
    found, todo = [], [root]
    while todo:
        below = children.get(todo.pop(), [])
        found += below
        todo += below
    return found
