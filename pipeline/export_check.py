"""Does an exported folder answer as the study measured? Asked of its `predict.py` and of `load_deployed`, on test."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.artifact import Artifact
from pipeline.cache import Store
from pipeline.data import Data
from pipeline.deployed import BATCH, load_deployed
from pipeline.runtime import load_classifier, load_deployment, sigmoid

MAX_DIFFERENCE = 1e-4
"""Of two probabilities of the same comment and label."""
Probabilities = NDArray[np.float64]


class ExportedDiffers(Exception):
    """What was written does not answer as the study's model does."""


@dataclass(frozen=True)
class Comparison:
    """The exported model's answers beside the study's, over all comments and labels."""

    comments: int
    largest_difference: float
    """Of the probabilities."""
    labels_differ: int
    """Decisions that differ, of comments times labels."""

    @property
    def equal(self) -> bool:
        """Whether the export may be used."""
        return self.largest_difference <= MAX_DIFFERENCE and not self.labels_differ

    def __str__(self) -> str:
        difference = f"largest difference {self.largest_difference:.1e} (limit {MAX_DIFFERENCE:g})"
        return f"{difference}, {self.labels_differ:,} labels differ"


def answers_of_study(store: Store, data: Artifact, comments: Data, model: Artifact) -> dict[str, Probabilities]:
    """The model's probabilities on validation and test: as the study stored them, else as it answers in the store."""
    answers: dict[str, Probabilities] = {}
    for split, part in (("validation", comments.validation), ("test", comments.test)):
        stored = stored_logits(store, data.key, model.key, split)
        if stored is None or stored.shape != part.labels.shape:
            batch = BATCH if load_deployment(model.path).batch_invariant else 1
            stored = load_classifier(model.path).predict_logits(part.texts, batch)
        answers[split] = sigmoid(stored)
    return answers


def stored_logits(store: Store, data_key: str, model_key: str, split: str) -> NDArray[np.float32] | None:
    """What the study's evaluation noted of the model on a split, [comments, labels]; None if it never answered that."""
    found: list[tuple[str, str, Path]] = []
    for artifact in store.made_from("predictions", model_key):
        manifest = artifact.manifest
        if manifest.get("data") == data_key and manifest.get("config", {}).get("split") == split:
            found.append((str(manifest.get("created_at")), artifact.key, artifact.path))
    if not found:
        return None
    logits: NDArray[np.float32] = np.load(max(found)[2] / "logits.npy", allow_pickle=False)
    return logits


def compare(folder: Path, texts: Sequence[str], expected: Probabilities) -> Comparison:
    """The written folder opened again, and its own `predict.py` run, on the same comments.

    Args:
        folder: with everything in it, sums included.
        texts: comments.
        expected: the study's probabilities of them, [comments, labels].

    Returns:
        The worse of both ways, figure by figure.

    Raises:
        ExportedDiffers: `predict.py` ended with an error.
        InputError: the folder is not whole.
    """
    deployed = load_deployed(folder)
    wanted = deployed.decide(expected)
    loaded = deployed.probabilities(texts)
    printed, decided = run_predict(folder, texts, deployed.decisions.labels)
    ways = ((loaded, deployed.decide(loaded)), (printed, decided))
    return Comparison(
        comments=len(texts),
        largest_difference=max(float(np.abs(answer - expected).max(initial=0.0)) for answer, _ in ways),
        labels_differ=max(int((labels != wanted).sum()) for _, labels in ways),
    )


def run_predict(folder: Path, texts: Sequence[str], labels: Sequence[str]) -> tuple[Probabilities, NDArray[np.int8]]:
    """Probabilities and 0/1 decisions [comments, labels] that the folder's `predict.py` prints.

    Raises:
        ExportedDiffers: it failed, or did not answer every comment.
    """
    with tempfile.TemporaryDirectory() as place:
        comments = Path(place, "comments.jsonl")
        with comments.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(text) + "\n" for text in texts)
        # -B: no byte code among the exported files. Without PYTHONPATH, nothing of this project is in its reach.
        command = [sys.executable, "-B", "predict.py", str(comments)]
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=False)
    if done.returncode:
        reason = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise ExportedDiffers(f"predict.py of the exported folder failed: {reason[-1] if reason else done.returncode}")
    answers: list[Mapping[str, Mapping[str, float]]] = [json.loads(line) for line in done.stdout.split(b"\n") if line]
    if len(answers) != len(texts):
        raise ExportedDiffers(f"predict.py answered {len(answers):,} of {len(texts):,} comments")
    probabilities = [[answer["probabilities"][label] for label in labels] for answer in answers]
    decisions = [[int(label in answer["labels"]) for label in labels] for answer in answers]
    shape = (len(texts), len(labels))
    return np.array(probabilities, dtype=np.float64).reshape(shape), np.array(decisions, dtype=np.int8).reshape(shape)
