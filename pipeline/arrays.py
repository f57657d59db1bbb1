"""Arrays in files that processes of one node read from the same memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def map_array(file: Path) -> NDArray[Any]:
    """What `np.save` wrote, read-only and memory-mapped: a page is read when it is touched, once for all processes.

    Raises:
        OSError: the file is missing, or is not a whole array.
    """
    try:
        # As a plain array: what is computed from it is no memory map, and must not be taken for one.
        return np.asarray(np.load(file, mmap_mode="r", allow_pickle=False))
    except (ValueError, EOFError) as error:
        raise OSError(f"{file}: not a whole array ({error}); write or copy it again") from error
