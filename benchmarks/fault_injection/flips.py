"""A flipped byte in every kind of file that a store has: in mid-search, and between two runs that share the store."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

from .evidence import row_differences
from .kinds import random_moment
from .outcomes import Outcome, end_of
from .runs import Reference, Run
from .storage import MANIFEST, flip_byte

FLIPPED = "flipped byte"
FILE_KINDS = ("npz", "safetensors", "onnx", "npy", "json", "manifest", "parquet")
"""Those that few artifacts have come first: no artifact is hit twice."""
ASKED_FOR = ("data", "teacher", "classical", "distil", "prune", "quantize", "predictions")
"""Stages whose artifacts every run of the study asks for."""


@dataclass(frozen=True)
class Flip:
    """One byte that was changed."""

    kind: str
    artifact: str
    """`stage/key`, empty for a file that is none's."""
    told: str


def flip_each(run: Run, reference: Reference, rng: Random) -> list[Flip]:
    """Change one byte of one file of each kind; no artifact is hit twice. A store without Parquet: that of the results.

    Only artifacts that were finished in the undisturbed run too are hit.
    """
    flips: list[Flip] = []
    there = [name for name in reference.evidence.artifacts if name.split("/")[0] in ASKED_FOR]
    for kind in FILE_KINDS:
        hit = {flip.artifact for flip in flips}
        files = [
            (name, file)
            for name in sorted(set(there) - hit)
            for file in sorted((run.store / name).rglob("*"))
            if file.is_file() and _kind(file) == kind and file.stat().st_size
        ]
        if not files and kind == "parquet":
            files = [("", file) for file in sorted(run.results.glob("*/trials.parquet"))]
        if files:
            name, file = rng.choice(files)
            flip_byte(file, rng.randrange(file.stat().st_size), rng.randrange(1, 256))
            where = f"{name[:16]}/{file.name}" if name else f"results: {file.name}"
            flips.append(Flip(kind, name, where))
    return flips


def _kind(file: Path) -> str:
    return "manifest" if file.name == MANIFEST else file.suffix.removeprefix(".")


def unmended(run: Run, flip: Flip) -> str | None:
    """In words, why a flip is not reported and mended; None when it is."""
    if not flip.artifact:
        return None  # written anew with every trial
    stage, _, key = flip.artifact.partition("/")
    if not any((run.store / ".damaged").glob(f"{stage}-{key}*")):
        return f"{flip.told}: not reported"
    return None if whole(run.store / stage / key) else f"{flip.told}: not built again"


def whole(artifact: Path) -> bool:
    """Whether an artifact's files have the digests of its manifest."""
    try:
        files = json.loads((artifact / MANIFEST).read_text("utf-8"))["files"]
        return all(
            hashlib.sha256((artifact / name).read_bytes()).hexdigest() == facts["sha256"]
            for name, facts in files.items()
        )
    except (OSError, ValueError, KeyError):
        return False


def flipped(run: Run, reference: Reference, rng: Random, repeat: int) -> list[Outcome]:
    """Run the study with flips in mid-search, resume it if it ended, flip others, and run it anew with the same store.

    Returns:
        an outcome for each kind of file.
    """
    run.start()
    moment = random_moment(run, reference, rng)
    before = run.evidence()
    flips = flip_each(run, reference, rng)
    status = run.wait(reference.patience)
    if status not in (reference.status, None):
        moment += f", resumed after it ended with status {status}"
        run.start(resume=True)
        status = run.wait(reference.patience)
    seconds = run.seconds
    first = end_of(run, reference, before, status, but=[flip.artifact for flip in flips])
    flips += flip_each(run, reference, rng)
    run.start()  # an earlier study of this name is moved aside: its rows come from the store
    status = run.wait(reference.patience)
    problems = [*first.problems]
    if status != reference.status:
        problems.append(f"the second run ended with status {status}: {run.told()}")
    differences = [*first.differences, *row_differences(reference.rows, run.rows())]
    made = []
    for kind in FILE_KINDS:
        of_kind = [flip for flip in flips if flip.kind == kind]
        told = "; ".join(flip.told for flip in of_kind) or "no such file"
        own = [line for flip in of_kind if (line := unmended(run, flip))]
        end = replace(first, problems=[*problems, *own], differences=differences)
        extra = seconds - reference.seconds
        hit = bool(of_kind)
        made.append(Outcome(f"{FLIPPED}: {kind}", repeat, hit, f"{moment}: {told}", extra_seconds=extra, **vars(end)))
    return made
