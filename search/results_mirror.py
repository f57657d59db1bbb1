"""A study's results beside its store: where the storage is an object store, they outlive this machine.

`<storage>/results/<study>/` holds the files of `results/<study>/`, without Ray Tune's own. The database is a copy that
SQLite makes while others write, so that it is whole; what has not changed is not sent again.
"""

from __future__ import annotations

import hashlib
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from threading import Event, Thread
from typing import Self

from pipeline.remote import PATIENCE_SECONDS, Remote, RemoteError
from search.config import StudyConfig
from search.fence import Fence, TakenOver

DATABASE = "study.db"
TUNE = "tune"
START_SECONDS = 60.0
"""How long the storage may be silent while a study begins."""
HURRY_SECONDS = 20.0
"""How long the end of an interrupted study waits for the storage."""
LOOK_SECONDS = 5.0
"""How often the folder is looked through for what was written since the last trial ended, such as a snapshot."""

NOT_SENT = (OSError, RemoteError, sqlite3.Error)
"""What `ResultsMirror.send` raises; the next one may succeed."""


class ResultsNotKept(RuntimeError):
    """The end of a study could not be copied to its storage."""


def place(config: StudyConfig) -> str:
    """Where the copy lies."""
    return f"{(config.storage or '').rstrip('/')}/{_prefix(config.study)}"


def fetch_results(config: StudyConfig) -> bool:
    """Bring the study's results here when its storage has them and this machine has none, or fewer ended trials.

    A folder that is behind is moved aside.

    Returns:
        whether the folder is now one that was fetched.

    Raises:
        InputError: the storage refuses.
        RemoteUnreachable: the storage does not answer within `START_SECONDS`.
    """
    remote, prefix = _remote(config, START_SECONDS), _prefix(config.study)
    names = [name.removeprefix(f"{prefix}/") for name in remote.list(prefix)]
    if DATABASE not in names:
        return False
    results = Path(config.results_dir)
    results.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=results, prefix=".fetched-") as fetched:
        folder = Path(fetched) / config.study
        for name in sorted(names, key=lambda name: name != DATABASE):
            remote.get(f"{prefix}/{name}", folder / name)
            if name == DATABASE and ended_trials(config.folder / name) >= ended_trials(folder / name):
                return False
        if config.folder.exists():
            config.folder.rename(config.folder.with_name(f"{config.study}.{stamp()}"))
        folder.rename(config.folder)
    return True


def ended_trials(database: Path) -> int:
    """How many trials have ended in the database of a study; -1 when it is not there or not whole."""
    if not database.is_file():
        return -1
    try:
        with closing(sqlite3.connect(database)) as connection:
            found = connection.execute("SELECT count(*) FROM trials WHERE state IN ('COMPLETE', 'FAIL')")
            return int(found.fetchone()[0])
    except sqlite3.DatabaseError:
        return -1


def set_aside(config: StudyConfig, name: str | None = None) -> str | None:
    """Rename, in the storage, a study of this name that is there.

    Args:
        config: of the study that begins.
        name: new name of the earlier one; None makes one with the time in it.

    Returns:
        where it went, if there was one.

    Raises:
        InputError: the storage refuses.
        RemoteUnreachable: the storage does not answer within `START_SECONDS`.
    """
    remote, prefix = _remote(config, START_SECONDS), _prefix(config.study)
    there = remote.list(prefix)
    name = name or f"{config.study}.{stamp()}"
    for file in there:
        remote.move(file, f"{_prefix(name)}/{file.removeprefix(f'{prefix}/')}")
    return place(config.model_copy(update={"study": name})) if there else None


def stamp() -> str:
    """The time as part of a name."""
    return datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")


class ResultsMirror:
    """Keeps the copy up to date while the block runs, from a thread of its own; does nothing for a local storage."""

    def __init__(self, config: StudyConfig, warn: Callable[[str], None]) -> None:
        """Prepare; `warn` is told, on the thread, when a file cannot be sent."""
        self._config, self._warn = config, warn
        self._remote = _remote(config) if config.storage_is_remote else None
        self._fence = Fence(config.study)
        self._sent: dict[str, object] = {}
        self._wake, self._over = Event(), Event()
        self._thread = Thread(target=self._work, name="results mirror", daemon=True)

    def __enter__(self) -> Self:
        """Send what is there: at least `study.yaml`; raises as `send` does."""
        if self._remote is not None:
            self._fence.claim(self._remote)
            self.send(self._remote)
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Send everything that has changed; with less patience when the study was interrupted.

        Raises:
            ResultsNotKept: it cannot be sent, and nothing else has been raised.
        """
        if self._remote is None:
            return
        self._over.set()
        self._wake.set()
        self._thread.join(None if kind is None else HURRY_SECONDS)
        try:
            self.send(self._remote if kind is None else self._remote.patient_for(HURRY_SECONDS))
        except (TakenOver, *NOT_SENT) as error:
            told = f"{place(self._config)} lacks the last results, which are in {self._config.folder} ({error})"
            if kind is None:
                raise ResultsNotKept(told) from error
            self._warn(told)

    def trial_ended(self) -> None:
        """Have the database sent; returns at once."""
        self._wake.set()

    def send(self, remote: Remote) -> None:
        """Send the files that have changed since they were last sent.

        Raises:
            InputError: the storage refuses.
            OSError: it does not answer (RemoteUnreachable), or a file cannot be read.
            sqlite3.Error: the database cannot be copied: it is locked, or the disk for temporary files is full.
            TakenOver: the copy belongs to a later run.
        """
        self._fence.check(remote)
        self._send_database(remote)
        for file in self._files():
            try:
                now = file.stat()
                name = file.relative_to(self._config.folder).as_posix()
                self._send(remote, file, name, (now.st_mtime_ns, now.st_size, now.st_ino))
            except FileNotFoundError:
                if file.exists():  # it is the storage that lacks something
                    raise

    def _send_database(self, remote: Remote) -> None:
        from search.study_database import copy_database

        database = self._config.folder / DATABASE
        if not database.is_file():
            return
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / DATABASE
            copy_database(database, copy)
            self._send(remote, copy, DATABASE, hashlib.sha256(copy.read_bytes()).digest())

    def _send(self, remote: Remote, file: Path, name: str, content: object) -> None:
        """Send the file unless `content`, which stands for what is in it, was sent before."""
        if self._sent.get(name) != content:
            remote.put(file, f"{_prefix(self._config.study)}/{name}")
            self._sent[name] = content

    def _files(self) -> Iterator[Path]:
        """Files of the results, without the database, Tune's and those that are not finished."""
        for path in sorted(self._config.folder.iterdir()):
            if path.name == TUNE or path.name.startswith((".", DATABASE)):
                continue
            for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
                hidden = any(part.startswith(".") for part in file.relative_to(self._config.folder).parts)
                if file.is_file() and not hidden:
                    yield file

    def _work(self) -> None:
        behind = False
        while True:
            self._wake.wait(LOOK_SECONDS)
            self._wake.clear()
            if self._over.is_set() or self._remote is None:
                return
            try:
                self.send(self._remote)
                behind = False
            except TakenOver as error:
                alone = f"from now on the results are in {self._config.folder} alone"
                self._warn(f"{place(self._config)}: {error}; {alone}")
                return
            except NOT_SENT as error:
                if not behind:
                    self._warn(f"{place(self._config)} is behind ({error}); the search goes on, and it is tried again")
                behind = True


def _remote(config: StudyConfig, patience_seconds: float = PATIENCE_SECONDS) -> Remote:
    return Remote(config.storage or "", patience_seconds)


def _prefix(study: str) -> str:
    return f"results/{study}"
