"""How long a baseline usually takes on this machine, remembered from one measurement to the next.

On a rented machine other guests of the same host slow everything for seconds, and models unequally: a pair whose ratio
is 2.9 showed 2.2. A measurement that lies within such a time as a whole cannot see that by itself; it can beside what
the baseline is known to take. What is remembered is a node's, like its measuring slot, and only touched by its holder.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def name_of(baseline: Path, machine: str, comments: Sequence[str]) -> str:
    """Of this very model in this very setting: a folder that was written anew is another.

    Args:
        baseline: the model's folder.
        machine: one line that says what its times hold for: processor, threads, versions.
        comments: what it is asked.
    """
    setting = [str(baseline.resolve()), baseline.stat().st_mtime_ns, machine, *comments]
    return hashlib.sha256(json.dumps(setting).encode()).hexdigest()


def usual_times(name: str) -> NDArray[np.float64] | None:
    """Milliseconds of the baseline's requests, [comments]; None if it was never measured here."""
    times = _remembered().get(name)
    return None if times is None else np.array(times, dtype=np.float64)


def remember(name: str, times_ms: NDArray[np.float64], *, changed: bool) -> None:
    """Keep the shorter of known and new times, [comments]; the new ones where the machine has `changed` for good."""
    known = usual_times(name)
    if known is not None and not changed:
        times_ms = np.minimum(known, times_ms)
    new = _file().with_suffix(f".{os.getpid()}")
    new.write_text(json.dumps(_remembered() | {name: times_ms.tolist()}), encoding="utf-8")
    new.replace(_file())


def _file() -> Path:
    return Path(tempfile.gettempdir()) / f"pareto-usual-times-{os.getuid()}.json"


def _remembered() -> dict[str, Any]:
    """All that is known; nothing if the file is missing or damaged: it can be measured again."""
    try:
        everything = json.loads(_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return everything if isinstance(everything, dict) else {}
