"""A folder as the store, and what is done to it: a disk that fills up, a byte that flips."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .processes import is_full

MANIFEST = "manifest.json"
BLOCK = 1 << 20


class NotPossible(Exception):
    """This machine does not allow the fault."""


def folder_artifacts(root: Path) -> dict[str, str]:
    """By `stage/key`, when each finished artifact of a folder was built, and in how many seconds."""
    found = {}
    for file in root.glob("[!.]*/*/" + MANIFEST):
        with suppress(OSError, ValueError, KeyError):  # set aside at this moment, or damaged on purpose
            manifest = json.loads(file.read_text("utf-8"))
            found[f"{file.parent.parent.name}/{file.parent.name}"] = f"{manifest['created_at']} {manifest['seconds']}"
    return found


@contextmanager
def small_disk(folder: Path, megabytes: int = 512) -> Iterator[None]:
    """A file system in memory, mounted on the folder while the block runs.

    Raises:
        NotPossible: mounting is refused.
    """
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        told = getattr(error, "stderr", "") or str(error)
        raise NotPossible(f"mounting a file system in memory is refused ({told.strip()})") from error
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=False, capture_output=True)


@contextmanager
def full(disk: Path) -> Iterator[None]:
    """Not one block of the disk is free while the block runs, whatever is deleted there."""
    ended = threading.Event()

    def fill() -> None:
        with (disk / ".ballast").open("wb", buffering=0) as file:
            while not ended.wait(0.005):
                size = BLOCK
                while size and not ended.is_set():
                    try:
                        size = size if file.write(bytes(size)) == size else size // 2
                    except OSError as error:
                        if not is_full(error):
                            raise
                        size //= 2

    thread = threading.Thread(target=fill, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        (disk / ".ballast").unlink()


def copied(store: Path, to: Path) -> None:
    """A copy of a folder store, without what is only of its processes."""
    shutil.copytree(store, to, ignore=shutil.ignore_patterns(".building", ".locks"))


def flip_byte(file: Path, position: int, mask: int) -> None:
    """Change one byte of a file in place; the file keeps its size.

    Args:
        file: of at least one byte.
        position: from 0, taken modulo the size.
        mask: of the bits to turn over, 1 to 255.
    """
    with file.open("r+b") as opened:
        position %= os.fstat(opened.fileno()).st_size
        opened.seek(position)
        [byte] = opened.read(1)
        opened.seek(position)
        opened.write(bytes([byte ^ mask]))
