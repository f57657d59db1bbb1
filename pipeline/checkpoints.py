"""Training that outlives its process: the state after an epoch goes to a file, from which the next process goes on.

Whoever runs a stage opens `checkpointing` around it, and the stage knows nothing of it: `pipeline.training.train` asks
for its place. A stage is pure, so that its n-th training is the same one in every run, and has the n-th place.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

INTERVAL_SECONDS = 30.0
"""Work that is worth a checkpoint: with a death at most this much is lost, and an epoch."""
AFFORDABLE_SECONDS = 3.0
"""Time to write a checkpoint that the interval is made for; when one takes longer, the interval grows with it."""
FINISHED_SHARE = 1 / 3
"""Share of the interval after which the end of a training is kept: it is smaller, and comes only once."""
FACTS, DIGEST = "facts", "sha256"
SUFFIX = ".safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """How far a training has come."""

    facts: dict[str, Any]
    """JSON types."""
    tensors: dict[str, Tensor]
    """On the CPU, in memory of their own, when they were loaded."""


@dataclass
class _Work:
    """The trainings of one run of a stage."""

    folder: Path
    saved: Callable[[Path], None] | None
    interval: float
    trainings: int = 0
    safe_at: float = 0.0
    """When everything done was last in a file, by the monotonic clock."""
    patience: float = 0.0
    """Seconds of work before the next checkpoint."""


_work: ContextVar[_Work | None] = ContextVar("work", default=None)


@contextmanager
def checkpointing(
    folder: Path, saved: Callable[[Path], None] | None = None, interval: float | None = None
) -> Iterator[None]:
    """Let every training inside keep its state below `folder`, and go on from what is found there.

    Whoever opens this removes the folder when the stage's work is stored elsewhere. Only files that end in
    `.safetensors` are complete; there is one for each training, `000.safetensors` for the first.

    Args:
        folder: of one stage with one config on one set of inputs; made when there is something to write.
        saved: called with the folder after each checkpoint; the time it takes counts as writing.
        interval: seconds of work between two checkpoints, at least; None is `INTERVAL_SECONDS`, 0 writes after every
            epoch.
    """
    seconds = INTERVAL_SECONDS if interval is None else interval
    token = _work.set(_Work(folder, saved, seconds, safe_at=time.monotonic(), patience=seconds))
    try:
        yield
    finally:
        _work.reset(token)


def next_place() -> Place | None:
    """Where the training that begins now keeps its checkpoint; None outside of `checkpointing`."""
    work = _work.get()
    if work is None:
        return None
    work.trainings += 1
    return Place(work, work.trainings - 1)


class Place:
    """The file of one training, which holds its newest checkpoint."""

    def __init__(self, work: _Work, number: int) -> None:
        self._work, self.number = work, number
        self.file = work.folder / f"{number:03d}{SUFFIX}"

    def load(self, identity: str) -> Checkpoint | None:
        """The checkpoint, if there is a whole one of the training that is called so; else the log says why not."""
        if not self.file.is_file():
            return None
        from safetensors import SafetensorError

        try:
            found = _read(self.file)
            if found.facts["identity"] == identity:
                return found
            problem = "it is of another training"
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            problem = str(error)
        log.warning("%s: %s; the checkpoint is ignored and training starts anew", self.file, problem)
        return None

    def is_due(self, finished: bool) -> bool:
        """Whether enough has been done since the last checkpoint for another; the end of a training needs less."""
        needed = self._work.patience * (FINISHED_SHARE if finished else 1.0)
        return time.monotonic() - self._work.safe_at >= needed

    def save(self, checkpoint: Checkpoint, identity: str) -> None:
        """Replace the training's checkpoint by this one; where it cannot be written, training goes on without."""
        from safetensors import SafetensorError

        started = time.monotonic()
        try:
            _write(self.file, Checkpoint({"identity": identity, **checkpoint.facts}, checkpoint.tensors))
            if self._work.saved:
                self._work.saved(self._work.folder)
        except (OSError, SafetensorError) as error:
            log.warning("%s: %s; training goes on without this checkpoint", self.file, error)
        self._work.safe_at = time.monotonic()
        writing = self._work.safe_at - started
        self._work.patience = self._work.interval * max(1.0, writing / AFFORDABLE_SECONDS)


def _write(file: Path, checkpoint: Checkpoint) -> None:
    """Under another name first, so that the name always stands for a whole checkpoint."""
    from safetensors.torch import save_file

    file.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.tensors.items()}
    facts = json.dumps(checkpoint.facts, allow_nan=False)
    partial = file.with_suffix(".partial")
    try:
        save_file(tensors, partial, {FACTS: facts, DIGEST: _digest(facts, tensors)})
        os.replace(partial, file)
    finally:
        partial.unlink(missing_ok=True)


def _read(file: Path) -> Checkpoint:
    """The checkpoint in a file.

    Raises:
        ValueError: its content is not what was written.
    """
    from safetensors import safe_open

    with safe_open(file, framework="pt") as opened:
        notes: dict[str, str] = opened.metadata() or {}
        # Copied out of the mapped file: there the tensors would not lie as they do in an undisturbed training.
        tensors: dict[str, Tensor] = {name: opened.get_tensor(name).clone() for name in opened.keys()}  # noqa: SIM118
    if notes[DIGEST] != _digest(notes[FACTS], tensors):
        raise ValueError("its content is not what was written")
    return Checkpoint(json.loads(notes[FACTS]), tensors)


def _digest(facts: str, tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over all that a checkpoint says, 64 hex digits; safetensors itself would not notice a flipped bit."""
    import torch

    digest = hashlib.sha256(facts.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
