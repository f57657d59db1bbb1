"""Train the teacher: the accurate, slow model that everything else is compressed from and compared with."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from pipeline.artifact import Artifact, Notes, stage
from pipeline.config import TeacherConfig
from pipeline.data import load_data
from pipeline.encoder_artifact import save_encoder
from pipeline.errors import InputError
from pipeline.models import TextClassifier, build_pretrained, build_scratch, train_tokenizer
from pipeline.runtime import TOKENIZER
from pipeline.splitting import folds
from pipeline.tokens import load_tokenizer, tokenise
from pipeline.training import Examples, Recipe, predict_logits, seeded, train


@stage("teacher", version=2)
def train_teacher(config: TeacherConfig, folder: Path, data: Artifact) -> Notes:
    """Fine-tune an encoder on the train split.

    Leaves the model (torch and ONNX), its tokenizer, and the logits that teach every later stage, computed once.
    """
    comments = load_data(data.path)
    if config.model == "scratch":
        train_tokenizer(comments.train.texts, config.scratch_vocabulary).save(str(folder / TOKENIZER))
    else:
        shutil.copyfile(Path(pretrained_folder(config.model)) / TOKENIZER, folder / TOKENIZER)
    tokenizer = load_tokenizer(folder / TOKENIZER, config.max_tokens)
    examples = {}
    for name in ("train", "validation"):
        split = getattr(comments, name)
        examples[name] = Examples(tokenise(tokenizer, split.texts), split.labels.astype(np.float32))

    with seeded(config.seed):
        model = build(config, len(comments.label_columns), tokenizer)
        history = train(model, examples["train"], examples["validation"], recipe(config))
    np.save(folder / "logits_train_in_sample.npy", predict_logits(model, examples["train"].tokens))
    np.save(folder / "logits_validation.npy", predict_logits(model, examples["validation"].tokens))
    save_encoder(model, folder, comments.label_columns, config.max_tokens)
    return {"history": history, "folds": cross_validate(config, examples["train"], tokenizer)}


def cross_validate(config: TeacherConfig, train_split: Examples, tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """History of a fresh model on each stratified fold of the train split; empty without folds."""
    if config.folds < 2:
        return []
    labels: NDArray[np.int8] = train_split.labels.astype(np.int8)
    entries = []
    for fold, (inside, outside) in enumerate(folds(labels, config.folds, config.seed), start=1):
        with seeded(config.seed):
            model = build(config, labels.shape[1], tokenizer)
            history = train(model, train_split.select(inside), train_split.select(outside), recipe(config))
        entries += [{"fold": fold, **entry} for entry in history]
    return entries


def build(config: TeacherConfig, labels: int, tokenizer: Tokenizer) -> TextClassifier:
    """The encoder that the config names, with a new head."""
    if config.model == "scratch":
        return build_scratch(config, labels, tokenizer.get_vocab_size())
    folder = pretrained_folder(config.model)
    return build_pretrained(folder, labels, config.pooling, config.dropout, config.encoder_dropout)


def pretrained_folder(model: str) -> str:
    """The folder itself, or the local copy of a hub id (fetched when the hub can be reached).

    Raises:
        InputError: it is no folder, and the hub does not give it.
    """
    if Path(model).is_dir():
        return model
    from huggingface_hub import snapshot_download

    try:
        return snapshot_download(model, allow_patterns=["*.json", "*.safetensors"])
    except (OSError, ValueError) as error:  # the hub's own errors are kinds of these
        problem = f"teacher.model={model!r}: no such folder, and not to be had from the hub"
        raise InputError([f"{problem}; give a folder, the id of a model that the hub has, or scratch"]) from error


def recipe(config: TeacherConfig) -> Recipe:
    """The teacher's training recipe."""
    return Recipe(
        epochs=config.epochs,
        learning_rate=config.learning_rate,
        batch_size=config.batch_size,
        seed=config.seed,
        head_learning_rate=config.head_learning_rate,
        schedule=config.schedule,
        warmup_fraction=config.warmup_fraction,
        weight_decay=config.weight_decay,
        clip_norm=config.clip_norm,
    )
