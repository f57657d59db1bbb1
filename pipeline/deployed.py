"""An exported folder, opened: the model with its labels and thresholds, every file checked against its sum."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.cache import file_sha256
from pipeline.errors import InputError
from pipeline.runtime import DEPLOY, Classifier, load_classifier, load_deployment, sigmoid

DECISIONS, SUMS = "decisions.json", "SHA256SUMS"
BATCH = 32


@dataclass(frozen=True)
class Decisions:
    """What turns probabilities into labels; stored as `decisions.json`."""

    labels: tuple[str, ...]
    thresholds: tuple[float, ...]
    """A comment has the label if its probability is at least this; one for each label, 0 to 1."""
    critical_label: str

    def save(self, folder: Path) -> None:
        """Write `decisions.json`."""
        (folder / DECISIONS).write_text(json.dumps(asdict(self), ensure_ascii=False, indent=1), encoding="utf-8")


@dataclass(frozen=True)
class Deployed:
    """A model as it answers in production."""

    folder: Path
    classifier: Classifier
    decisions: Decisions
    batch: int
    """Comments that are answered together: 1 if a comment's answer depends on the others of its batch."""

    def probabilities(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """[comments, labels], between 0 and 1, in the comments' order."""
        if not texts:
            return np.empty((0, len(self.decisions.labels)))
        return sigmoid(self.classifier.predict_logits(texts, self.batch))

    def decide(self, probabilities: NDArray[np.float64]) -> NDArray[np.int8]:
        """Which labels these probabilities give, 0 or 1, [comments, labels]."""
        return (probabilities >= np.array(self.decisions.thresholds)).astype(np.int8)


def load_deployed(folder: Path, threads: int = 1) -> Deployed:
    """Open an exported folder.

    Args:
        folder: as `python -m pipeline.export` wrote it, or a copy.
        threads: of the runtime.

    Raises:
        InputError: the folder is not an exported one, or a file of it is missing or altered; each one is named.
    """
    if problems := altered_files(folder):
        raise InputError(problems)
    decisions = _decisions(folder / DECISIONS)
    deployment = load_deployment(folder)
    if decisions.labels != deployment.labels:
        raise InputError([f"{folder}: {DECISIONS} and {DEPLOY} name different labels; export the model again"])
    batch = BATCH if deployment.batch_invariant else 1
    return Deployed(folder, load_classifier(folder, threads), decisions, batch)


def write_sums(folder: Path) -> None:
    """Write `SHA256SUMS` over every file of the folder and below, as `sha256sum --check` reads it."""
    names = sorted(_files(folder))
    lines = (f"{file_sha256(folder / name)}  {name}\n" for name in names)
    (folder / SUMS).write_text("".join(lines), encoding="utf-8")


def listed_files(folder: Path) -> dict[str, str]:
    """What `SHA256SUMS` lists: the digest of each file; raises OSError or UnicodeDecodeError where there is none."""
    lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
    return {name: digest for digest, _, name in (line.partition("  ") for line in lines if line)}


def altered_files(folder: Path) -> list[str]:
    """What differs from `SHA256SUMS`, a line for each file that is missing or not as exported."""
    try:
        listed = listed_files(folder)
    except (OSError, UnicodeDecodeError):
        return [
            f"{folder}: no exported model ({SUMS} is missing); name a folder that `python -m pipeline.export` wrote"
        ]
    problems = [
        f"{folder / name}: missing; export the model again, or copy the whole folder"
        for name in listed
        if not (folder / name).is_file()
    ]
    problems += [
        f"{folder / name}: not as it was exported (its SHA-256 differs); export the model again"
        for name, digest in listed.items()
        if (folder / name).is_file() and file_sha256(folder / name) != digest
    ]
    unlisted = [name for name in (DEPLOY, DECISIONS) if name not in listed]
    return problems + [f"{folder / SUMS}: does not list {name}; export the model again" for name in unlisted]


def _files(folder: Path) -> Iterable[str]:
    return (
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and path.name != SUMS and "__pycache__" not in path.parts
    )


def _decisions(file: Path) -> Decisions:
    """Read `decisions.json`; its sum has been checked, so that only the exporter can have got it wrong."""
    found = json.loads(file.read_text(encoding="utf-8"))
    decisions = Decisions(tuple(found["labels"]), tuple(found["thresholds"]), found["critical_label"])
    whole = len(decisions.labels) == len(decisions.thresholds) and decisions.critical_label in decisions.labels
    if not whole or not all(math.isfinite(value) and 0 <= value <= 1 for value in decisions.thresholds):
        raise InputError([f"{file}: labels, thresholds and critical label do not fit together; export the model again"])
    return decisions
