"""An S3 server on the loopback interface that falls silent or refuses connections when told to."""

from __future__ import annotations

import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
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
    """Passes TCP connections of a port of its own on to another one, in threads, unless it is closed."""

    def __init__(self, target: int) -> None:
        """Open at once."""
        self.port = free_port()
        self._target = target
        self._sockets: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._listener: socket.socket | None = None
        self.open()

    def open(self) -> None:
        """Take connections."""
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._start(self._accept, self._listener)

    def close(self) -> None:
        """Break all connections, and refuse new ones."""
        listener, self._listener = self._listener, None
        if listener is not None:
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
            listener.close()
        for one in list(self._sockets):
            _break(one)

    def end(self) -> None:
        """Close for good."""
        self.close()
        for thread in self._threads:
            thread.join(10.0)

    def _start(self, work: Callable[..., None], *arguments: socket.socket) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                self._start(self._relay, listener.accept()[0])

    def _relay(self, here: socket.socket) -> None:
        with here, suppress(OSError), socket.create_connection(("127.0.0.1", self._target)) as there:
            self._sockets |= {here, there}
            back = threading.Thread(target=_pump, args=(there, here), daemon=True)
            back.start()
            if self._listener is not None:  # not closed meanwhile
                _pump(here, there)
            _break(here)
            _break(there)
            back.join()
            self._sockets -= {here, there}


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while block := source.recv(1 << 16):
            sink.sendall(block)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


def _break(one: socket.socket) -> None:
    with suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
