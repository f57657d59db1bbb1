"""Files in an object store below one URL, with patience when the store does not answer."""

from __future__ import annotations

import logging
import shutil
import time
import uuid
from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pipeline.errors import InputError
from pipeline.object_store import (
    first_line,
    is_missing,
    is_relative_name,
    is_url,
    refusal,
    s3_files,
    url_fault,
    will_pass,
)

log = logging.getLogger(__name__)

PATIENCE_SECONDS = 600.0
"""How long an operation is tried again while the store does not answer."""
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.25, 8.0
"""Between two tries; each pause is twice the one before."""
SILENT_SECONDS = 10.0
"""After which a store that accepts a request and says nothing counts as one that does not answer."""
PART_BYTES = 2**23
"""Read or written at a time."""

T = TypeVar("T")


class RemoteError(Exception):
    """The store cannot be used, now or at all."""


class RemoteUnreachable(RemoteError, ConnectionError):
    """The store did not answer for as long as it was waited for."""


class RemoteRefused(RemoteError, InputError):
    """The store answered that it will not: asking again would not help."""


@dataclass(frozen=True)
class RemoteFile:
    """What the store says of a file."""

    size: int
    """In bytes."""
    mtime_ns: int
    """When it was last written, by the store's own clock, which may count whole seconds only."""


class Remote:
    """Files below `s3://bucket/prefix`, or below a plain folder.

    Endpoint, region and credentials come from the usual environment (`AWS_ENDPOINT_URL`, `AWS_REGION`, `AWS_PROFILE`,
    `AWS_ACCESS_KEY_ID`, …) or the machine's role, and are written nowhere.

    A name has `/` between folders, and no `..`. Every operation raises RemoteUnreachable when the store has not
    answered for `patience_seconds`, and RemoteRefused at once when it refuses.
    """

    def __init__(
        self, url: str, patience_seconds: float = PATIENCE_SECONDS, silent_seconds: float = SILENT_SECONDS
    ) -> None:
        """Open the store; asks it nothing.

        Args:
            url: `s3://bucket/prefix` or a folder.
            patience_seconds: how long each operation is tried again while the store does not answer; 0 tries once.
            silent_seconds: after so many seconds without a byte a try has failed.

        Raises:
            RemoteRefused: the URL cannot be used.
        """
        self.url = url.rstrip("/")
        self.patience_seconds = patience_seconds
        self._answering = True
        self._is_folder = self._is_known = not is_url(url)
        if self._is_folder:
            from pyarrow.fs import LocalFileSystem

            self._base, self._files = str(Path(url).resolve()), LocalFileSystem()
            return
        if fault := url_fault(url):
            raise RemoteRefused([f"storage: {fault}"])
        self._base = self.url.removeprefix("s3://")
        self._files = s3_files(silent_seconds)

    def patient_for(self, seconds: float) -> Remote:
        """The same store, with another patience."""
        other = copy(self)
        other.patience_seconds = seconds
        return other

    def check(self) -> None:
        """Raise RemoteRefused if there is no such bucket, or it may not be listed, read, written and deleted from."""
        probe = f".probe-{uuid.uuid4().hex}"
        self.write_bytes(probe, b"?")
        self.read_bytes(probe)
        self.list(".probe")
        self.delete(probe)

    def put(self, file: Path, name: str) -> None:
        """Store a local file under this name, in place of what was there."""
        from pyarrow import memory_map

        # In one call, which Ctrl-C cannot cut: closing a stream that was cut makes a whole file of the half. Not with
        # `copy_files`, which tells nothing of an upload that failed.
        self._write(name, memory_map(str(file)).read_buffer() if file.stat().st_size else b"")

    def get(self, name: str, file: Path) -> None:
        """Fetch a file; `file` is there afterwards only if all of it came.

        Raises:
            FileNotFoundError: there is no such file.
        """
        path = self._path(name)
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_name(f".{file.name}.{uuid.uuid4().hex}.part")

        def fetch() -> None:
            with self._files.open_input_file(path) as source, partial.open("wb") as target:
                shutil.copyfileobj(source, target, PART_BYTES)
                if target.tell() != source.size():
                    raise OSError(f"AWS Error NETWORK_CONNECTION: only {target.tell()} of {source.size()} bytes came")

        try:
            self._patiently(fetch)
            partial.replace(file)
        finally:
            partial.unlink(missing_ok=True)

    def write_bytes(self, name: str, content: bytes) -> None:
        """Store a small file."""
        self._write(name, content)

    def read_bytes(self, name: str) -> bytes:
        """The content of a small file.

        Raises:
            FileNotFoundError: there is no such file.
        """
        path = self._path(name)

        def read() -> bytes:
            with self._files.open_input_file(path) as source:
                return bytes(source.read())

        return self._patiently(read)

    def exists(self, name: str) -> bool:
        """Whether there is a file of this name."""
        return self._is_file(self._path(name))

    def list(self, prefix: str = "") -> Mapping[str, RemoteFile]:
        """Every file below a folder of the store, by name, in the names' order; empty if there is no such folder."""
        from pyarrow.fs import FileSelector, FileType

        path = self._path(prefix.rstrip("/")) if prefix else self._base
        try:
            # allow_not_found would hide a bucket that is not there.
            found = self._patiently(lambda: self._files.get_file_info(FileSelector(path, recursive=True)))
        except FileNotFoundError:
            return {}
        start = len(self._base) + 1
        files = {
            info.path[start:]: RemoteFile(info.size, info.mtime_ns) for info in found if info.type == FileType.File
        }
        return {name: files[name] for name in sorted(files) if is_relative_name(name)}

    def delete(self, name: str) -> None:
        """Delete a file, or everything below a folder; nothing happens if there is neither."""
        path = self._path(name)
        remove = self._files.delete_file if self._is_file(path) else self._files.delete_dir
        try:
            self._patiently(lambda: remove(path))
        except FileNotFoundError:
            return

    def move(self, name: str, to: str) -> None:
        """Give a file another name; nothing happens if there is no such file."""
        source, target = self._path(name), self._writable(to)
        try:
            self._patiently(lambda: self._files.move(source, target))
        except FileNotFoundError:
            return

    def _write(self, name: str, content: Any) -> None:
        path = self._writable(name)

        def write() -> None:
            with self._files.open_output_stream(path) as target:
                target.write(content)

        self._patiently(write)

    def _path(self, name: str) -> str:
        if not is_relative_name(name):
            raise ValueError(f"{name!r}: must be a name below the store, without '..'")
        return f"{self._base}/{name}"

    def _writable(self, name: str) -> str:
        path = self._path(name)
        if self._is_folder:
            self._files.create_dir(str(Path(path).parent), recursive=True)
        return path

    def _is_file(self, path: str) -> bool:
        from pyarrow.fs import FileType

        found = self._patiently(lambda: self._files.get_file_info(path)).type
        if found == FileType.NotFound:
            self._look_for_bucket()
        return bool(found == FileType.File)

    def _look_for_bucket(self) -> None:
        """Refuse if there is none: asked for a single file, the store would only say that it is not there."""
        if not self._is_known:
            self._is_known = True
            try:
                self.list(".probe")
            except RemoteError:
                self._is_known = False
                raise

    def _patiently(self, operation: Callable[[], T]) -> T:
        """What the operation returns, tried again while the store does not answer."""
        pause, give_up = FIRST_PAUSE_SECONDS, None
        while True:
            try:
                result = operation()
            except OSError as error:
                if is_missing(error):
                    self._look_for_bucket()
                    raise FileNotFoundError(f"{self.url}: {first_line(error)}") from error
                if not will_pass(error):
                    if what := refusal(error):
                        raise RemoteRefused([f"storage={self.url!r}: {what}"]) from error
                    raise
                now = time.monotonic()
                give_up = now + self.patience_seconds if give_up is None else give_up
                self._away(error)
                if now + pause > give_up:
                    waited = f"did not answer for {self.patience_seconds:g} s"
                    what = f"{self.url}: the store {waited} ({first_line(error)}); start again when it does"
                    raise RemoteUnreachable(what) from error
            else:
                self._back()
                return result
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    def _away(self, error: OSError) -> None:
        """Warn once, when waiting begins."""
        if self._answering and self.patience_seconds:
            minutes = f"{self.patience_seconds / 60:.3g} minutes"
            log.warning("%s: the store does not answer (%s); trying for up to %s", self.url, first_line(error), minutes)
        self._answering = False

    def _back(self) -> None:
        if not self._answering and self.patience_seconds:
            log.warning("%s: the store answers again", self.url)
        self._answering = True
