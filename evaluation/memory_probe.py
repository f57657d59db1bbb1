"""Run by `memory.peak_memory_mb`: a process with a runtime's code that forks a child for each model to be measured.

The runtime's name is its argument. A line of JSON comes in for each model (`folder`, `threads`, `texts`), and one goes
out: `mb`, or what the `error` was. The code that models share is imported once: to start Python for each would take
longer than to load and ask the model. Each runtime has a process of its own: what other imports leave free of the heap
would be no growth to a model that takes it.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipeline.runtime import load_classifier

MADV_POPULATE_READ = 22
TOLD = 500
"""Characters of an error, from its end."""


def main() -> None:
    """Answer until nobody asks: the end of the input is that of whoever started this process."""
    import_runtime(sys.argv[1])
    for line in sys.stdin:
        print(json.dumps(in_child(json.loads(line))), flush=True)


def in_child(asked: dict[str, Any]) -> dict[str, Any]:
    """What a forked child found: a copy of this process, that has loaded no model."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            answer: dict[str, Any] = {"mb": measured(Path(asked["folder"]), asked["threads"], asked["texts"])}
        except BaseException as error:
            answer = {"error": f"{type(error).__name__}: {error}"[-TOLD:]}
        os.write(writing, json.dumps(answer).encode())
        os._exit(0)  # what the parent would do at its end is not the child's
    os.close(writing)
    with os.fdopen(reading, encoding="utf-8") as pipe:
        told = pipe.read()
    _, status = os.waitpid(child, 0)
    if not told:
        return {"error": f"the process ended with status {os.waitstatus_to_exitcode(status)}"}
    found: dict[str, Any] = json.loads(told)
    return found


def measured(folder: Path, threads: int, texts: list[str]) -> float:
    """MiB at most, above what was resident before the model was loaded, while it was and answered."""
    map_libraries()
    with suppress(OSError):  # forget the peak of before, where the kernel allows it
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    idle = resident_mb("VmRSS")
    model = load_classifier(folder, threads)
    for text in texts:
        model.predict_logits([text])
    return resident_mb("VmHWM") - idle


def import_runtime(name: str) -> None:
    """Load the code that every model of a runtime needs: it is none of the model's memory."""
    if name == "onnxruntime":
        import onnxruntime

        onnxruntime.get_available_providers()
    elif name == "ngram":
        import pipeline.ngram  # noqa: F401
    else:
        import pipeline.classical  # noqa: F401


def map_libraries() -> None:
    """Make all code resident: a fork leaves pages of files out until they are touched, and the model's they are not.

    Before Linux 5.14 they stay out, and those that the model touches count as its own.
    """
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    for start, end in file_mappings():
        madvise(start, end - start, MADV_POPULATE_READ)


def file_mappings() -> Iterator[tuple[int, int]]:
    """Addresses, from and to, of what is mapped from files and can be read."""
    for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines():
        addresses, rights, *rest = line.split(maxsplit=5)
        if rights.startswith("r") and rest[-1].startswith("/"):
            start, end = (int(address, 16) for address in addresses.split("-"))
            yield start, end


def resident_mb(field: str) -> float:
    """`VmRSS` (now) or `VmHWM` (highest so far) of this process."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024.0
    raise RuntimeError(f"/proc/self/status has no {field}")


if __name__ == "__main__":
    main()
