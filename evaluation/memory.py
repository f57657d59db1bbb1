"""Peak memory of inference: what a process needs above the idle runtime, and what the model allocates on a GPU."""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipeline.runtime import load_deployment

MEBIBYTE = 2**20
PROCESS_STATUS = Path("/proc/self/status")
"""Where Linux tells what a process has resident; other systems have no such file."""
_asking = threading.Lock()
_probes = dict[tuple[str, int], subprocess.Popen[str]]()
"""By runtime and by the process that asks."""


def peak_memory_mb(folder: Path, texts: Sequence[str], threads: int) -> float | None:
    """Peak resident set of a process of its own that loads the model and answers `texts`, above that before it, MiB.

    All code of the runtime is resident before. The process is forked from one that is kept for this until the caller
    ends: it has imported the runtime (50 MB and more) and loaded no model.

    Args:
        folder: a deployable model.
        texts: comments, answered one by one.
        threads: of the runtime.

    Returns:
        MiB; None where the system does not tell it, as macOS does not.

    Raises:
        RuntimeError: the process could not load the model or answer.
        FileNotFoundError: there is no model in the folder.
    """
    runtime = load_deployment(folder).runtime
    if not PROCESS_STATUS.is_file():
        return None
    asked = {"folder": str(folder), "threads": threads, "texts": list(texts)}
    with _asking:
        answer = _ask(runtime, asked) or _ask(runtime, asked)  # its process may have been killed since the last time
    if "mb" not in answer:
        problem = answer.get("error", "its process ends before it answers; what it says is in the log")
        raise RuntimeError(f"peak memory of {folder} could not be measured: {problem}")
    return float(answer["mb"])


def _ask(runtime: str, asked: dict[str, Any]) -> dict[str, Any]:
    """The answer of this process's probe for a runtime; nothing where it has ended, and then the next is a new one."""
    mine = runtime, os.getpid()  # a fork of this process has another: none is asked by two
    probe = _probes.get(mine) or _probes.setdefault(mine, _started(runtime))
    assert probe.stdin and probe.stdout
    with suppress(BrokenPipeError):
        probe.stdin.write(json.dumps(asked) + "\n")
        probe.stdin.flush()
    answer: dict[str, Any] = json.loads(probe.stdout.readline() or "{}")
    if not answer:
        del _probes[mine]
    return answer


def _started(runtime: str) -> subprocess.Popen[str]:
    """`memory_probe.py` for a runtime."""
    root = Path(__file__).resolve().parent.parent
    probe = subprocess.Popen(
        [sys.executable, "-W", "ignore", str(Path(__file__).with_name("memory_probe.py")), runtime],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])},
    )
    atexit.register(probe.communicate)  # the end of its input is its end
    return probe


def peak_cuda_memory_mb(work: Callable[[], object]) -> float:
    """Most that PyTorch's allocator held for tensors at once during `work`, above what it held before, MiB.

    Args:
        work: loads a model onto the GPU and answers with it; no other thread may use the GPU meanwhile.

    Raises:
        RuntimeError: there is no CUDA device.
    """
    import torch

    if not torch.cuda.is_available():
        raise RuntimeError("peak CUDA memory: no CUDA device here: measure where there is one, or use peak_memory_mb")
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    work()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / MEBIBYTE
