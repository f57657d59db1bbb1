"""Peak memory of inference: what a process needs above the idle runtime, and what the model allocates on a GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

MEBIBYTE = 2**20


def peak_memory_mb(folder: Path, texts: Sequence[str], threads: int) -> float:
    """Peak resident set of a fresh process that loads the model and answers `texts`, above the size before it, MiB.

    Args:
        folder: a deployable model.
        texts: comments without NUL, answered one by one.
        threads: of the runtime.

    Raises:
        RuntimeError: the process could not load the model or answer.
    """
    program = Path(__file__).with_name("memory_probe.py")
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(program), str(folder), str(threads)],
        input="\0".join(texts),
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])},
    )
    if done.returncode:
        raise RuntimeError(f"peak memory of {folder} could not be measured: {done.stderr.strip()[-500:]}")
    return float(done.stdout.split()[-1])


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
