"""What teacher, distil and prune leave behind alike: a torch model and the same model ready to deploy."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from pipeline.artifact import Artifact
from pipeline.data import Data, load_data
from pipeline.models import TextClassifier, save_model
from pipeline.onnx_model import export_onnx
from pipeline.runtime import ONNX_WEIGHTS, TOKENIZER, Deployment, load_deployment
from pipeline.tokens import Tokens, load_tokenizer, tokenise
from pipeline.training import Examples

TAUGHT = ("train", "validation")
"""Splits whose tokens the teacher leaves behind for the later stages."""
TeacherLogits = Literal["in_sample", "out_of_fold"]


def save_encoder(model: TextClassifier, folder: Path, labels: Sequence[str], max_tokens: int) -> None:
    """Write the torch model, its ONNX form and `deploy.json`; `tokenizer.json` must be in the folder already."""
    if not (folder / TOKENIZER).is_file():
        raise FileNotFoundError(f"{folder / TOKENIZER}: write the tokenizer before the model")
    save_model(model, folder)
    export_onnx(model, folder / ONNX_WEIGHTS)
    Deployment(
        runtime="onnxruntime",
        labels=tuple(labels),
        weight_files=(ONNX_WEIGHTS,),
        max_tokens=max_tokens,
        pad_id=model.pad_id,
    ).save(folder)


def save_descendant(model: TextClassifier, folder: Path, parent: Artifact) -> None:
    """Write a model that answers with its parent's labels, and its parent's tokenizer if the folder has none yet."""
    if not (folder / TOKENIZER).is_file():
        shutil.copyfile(parent.path / TOKENIZER, folder / TOKENIZER)
    deployment = load_deployment(parent.path)
    save_encoder(model, folder, deployment.labels, deployment.max_tokens)


def taught_examples(
    data: Artifact, model: Artifact, teacher: Artifact, logits: TeacherLogits = "in_sample"
) -> tuple[Examples, Examples]:
    """Train and validation comments, tokenised by the model's own tokenizer, with the teacher's logits on them.

    A model that has the teacher's tokenizer shares the tokens that the teacher left, by memory map.

    Args:
        data: the comments.
        model: whose tokenizer counts.
        teacher: whose logits teach, row by row.
        logits: of the comments that it was trained on itself, or of the fold that did not see them.
    """
    if stored := _tokens_of_teacher(model, teacher):
        return _examples(load_data(data.path), teacher, stored, logits)
    tokenizer = load_tokenizer(model.path / TOKENIZER, load_deployment(model.path).max_tokens)
    return labelled(data, teacher, lambda texts: tokenise(tokenizer, texts), logits)


def _tokens_of_teacher(model: Artifact, teacher: Artifact) -> dict[str, Tokens]:
    """The tokens that the teacher left; none if the model reads comments otherwise, or the teacher left none."""
    if (model.path / TOKENIZER).read_bytes() != (teacher.path / TOKENIZER).read_bytes():
        return {}
    if load_deployment(model.path).max_tokens != load_deployment(teacher.path).max_tokens:
        return {}
    try:
        return {name: Tokens.load(teacher.path, name) for name in TAUGHT}
    except FileNotFoundError:  # of a teacher in an older store
        return {}


def labelled(
    data: Artifact, teacher: Artifact, encode: Callable[[Sequence[str]], Tokens], logits: TeacherLogits
) -> tuple[Examples, Examples]:
    """Train and validation comments as `encode` gives them, with their labels and the teacher's logits."""
    comments = load_data(data.path)
    return _examples(comments, teacher, {name: encode(comments.splits[name].texts) for name in TAUGHT}, logits)


def _examples(
    comments: Data, teacher: Artifact, tokens: dict[str, Tokens], logits: TeacherLogits
) -> tuple[Examples, Examples]:
    files = {"train": f"logits_train_{logits}.npy", "validation": "logits_validation.npy"}
    train, validation = (
        Examples(
            tokens[name],
            comments.splits[name].labels.astype(np.float32),
            np.load(teacher.path / files[name], allow_pickle=False),
        )
        for name in TAUGHT
    )
    return train, validation
