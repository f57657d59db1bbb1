"""A file that is whole at any time, whenever the process that writes it may be killed or the disk be full."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """A name beside `path` for the block to write to: what stands there becomes `path`, once the block has ended well.

    It begins with a dot: what a killed process leaves there is no file of anyone's.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
