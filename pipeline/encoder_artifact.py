"""What teacher, distil and prune leave behind alike: a torch model and the same model ready to deploy."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.artifact import Artifact
from pipeline.data import Data, load_data
from pipeline.models import TextClassifier, save_model
from pipeline.onnx_model import export_onnx
from pipeline.runtime import ONNX_WEIGHTS, TOKENIZER, Deployment, load_deployment
from pipeline.tokens import load_tokens
from pipeline.training import Examples, pad_token_id


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
        pad_id=pad_token_id(model),
    ).save(folder)


def save_descendant(model: TextClassifier, folder: Path, parent: Artifact) -> None:
    """Write a model that answers with its parent's tokenizer and labels."""
    shutil.copyfile(parent.path / TOKENIZER, folder / TOKENIZER)
    deployment = load_deployment(parent.path)
    save_encoder(model, folder, deployment.labels, deployment.max_tokens)


def teacher_examples(data: Artifact, teacher: Artifact) -> tuple[Data, Examples, Examples]:
    """The data, and its train and validation comments as the teacher tokenised them, with its logits."""
    comments = load_data(data.path)
    examples = {
        name: Examples(
            load_tokens(teacher.path, name),
            getattr(comments, name).labels.astype(np.float32),
            np.load(teacher.path / f"logits_{name}.npy", allow_pickle=False),
        )
        for name in ("train", "validation")
    }
    return comments, examples["train"], examples["validation"]
