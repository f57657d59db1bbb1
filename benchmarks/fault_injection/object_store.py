"""An S3 server on the loopback interface that falls silent or refuses connections when told to."""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .processes import Group, free_port, listens, start, wait_until
from .storage import MANIFEST

BUCKET = "studies"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "benchmark", "AWS_SECRET_ACCESS_KEY": "benchmark", "AWS_REGION": "us-east-1"}
"""What the server is asked with; it takes any."""


@dataclass
class ObjectStore:
    """An S3 server of its own, with a relay before it that can be closed."""

    server: Group
    port: int
    relay: Relay = field(init=False)

    def __post_init__(self) -> None:
        self.relay = Relay(self.port)

    @classmethod
    def start(cls, folder: Path) -> ObjectStore:
        """Start the server, and make the bucket."""
        port = free_port()
        command = [str(Path(sys.executable).with_name("moto_server")), "-H", "127.0.0.1", "-p", str(port)]
        store = cls(start(command, folder / "object_store.log", {}), port)
        if not wait_until(lambda: listens(port), 60.0):
            raise RuntimeError(f"no S3 server after 60 s: {(folder / 'object_store.log').read_text('utf-8')}")
        store._files().create_dir(BUCKET)
        return store

    @property
    def environment(self) -> dict[str, str]:
        """How a process finds the server, by way of the relay."""
        return {**CREDENTIALS, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.relay.port}"}

    def artifacts(self, prefix: str) -> dict[str, str]:
        """As `folder_artifacts`: by `stage/key`, when the manifest was uploaded."""
        from pyarrow import fs

        files = self._files().get_file_info(fs.FileSelector(f"{BUCKET}/{prefix}", allow_not_found=True, recursive=True))
        found = {}
        for file in files:
            *_, stage, key, name = file.path.split("/")
            if name == MANIFEST and not stage.startswith("."):
                found[f"{stage}/{key}"] = str(file.mtime_ns)
        return found

    @contextmanager
    def silent(self) -> Iterator[None]:
        """The server takes connections and never answers while the block runs."""
        self.server.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.server.process.send_signal(signal.SIGCONT)

    @contextmanager
    def refusing(self) -> Iterator[None]:
        """Connections break, and new ones are refused, while the block runs."""
        self.relay.close()
        try:
            yield
        finally:
            self.relay.open()

    def stop(self) -> None:
        """End relay and server; what is stored is gone."""
        self.relay.end()
        self.server.kill()

    def _files(self) -> Any:
        from pyarrow import fs

        return fs.S3FileSystem(
            access_key=CREDENTIALS["AWS_ACCESS_KEY_ID"],
            secret_key=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
            region=CREDENTIALS["AWS_REGION"],
            endpoint_override=f"http://127.0.0.1:{self.port}",
            allow_bucket_creation=True,
        )


class Relay:
    """Passes TCP connections of a port of its own on to another one, in a thread, unless it is closed."""

    def __init__(self, target: int) -> None:
        """Open at once."""
        self.port = free_port()
        self._target = target
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.open()

    def open(self) -> None:
        """Take connections."""
        asyncio.run_coroutine_threadsafe(self._open(), self._loop).result(10.0)

    def close(self) -> None:
        """Break all connections, and refuse new ones."""
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10.0)

    def end(self) -> None:
        """Close for good."""
        self.close()
        asyncio.run_coroutine_threadsafe(self._finish(), self._loop).result(10.0)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10.0)
        self._loop.close()

    async def _open(self) -> None:
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", self.port)

    async def _close(self) -> None:
        if self._server:
            self._server.close()
            self._server = None
        for writer in self._writers:
            writer.transport.abort()

    async def _finish(self) -> None:
        if left := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(left, timeout=5.0)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends = [writer]
        self._writers.add(writer)
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._target)
            ends.append(back)
            self._writers.add(back)
            if self._server:  # not closed meanwhile
                await asyncio.gather(_pump(reader, back), _pump(there, writer))
        except OSError:
            pass  # a broken connection is what this is for
        finally:
            for end in ends:
                self._writers.discard(end)
                end.close()
            await asyncio.gather(*(end.wait_closed() for end in ends), return_exceptions=True)


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while block := await source.read(1 << 16):
            sink.write(block)
            await sink.drain()
    if not sink.transport.is_closing():
        with suppress(OSError):
            sink.write_eof()
