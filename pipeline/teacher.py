"""Train the teacher: the accurate, slow model that everything else is compressed from and compared with."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from pipeline.artifact import Artifact, Notes
from pipeline.classical import floor_member
from pipeline.config import ClassicalConfig, TeacherConfig
from pipeline.data import Data, load_data
from pipeline.encoder_artifact import TAUGHT, save_encoder
from pipeline.ensemble import Logits, Member, Rows, ensemble, mean_member, over_folds
from pipeline.errors import InputError
from pipeline.models import TextClassifier, build_pretrained, build_scratch, encoder_layers, train_tokenizer
from pipeline.pretrained import model_folder, tokens_at_once
from pipeline.runtime import TOKENIZER, sigmoid
from pipeline.splitting import folds
from pipeline.thresholds import best_label_thresholds, f1_macro
from pipeline.tokens import load_tokenizer, tokenise
from pipeline.training import Examples, History, Recipe, predict_logits, seeded, train


def train_teacher(config: TeacherConfig, folder: Path, data: Artifact) -> Notes:
    """Fine-tune an encoder on the train split.

    Leaves the model (torch and ONNX), its tokenizer, the tokens of the comments that later stages train on, and the
    logits that teach them, computed once: the model's own, or an ensemble's.
    """
    comments = load_data(data.path)
    if config.model == "scratch":
        train_tokenizer(comments.train.texts, config.scratch_vocabulary).save(str(folder / TOKENIZER))
    else:
        shutil.copyfile(Path(pretrained_folder(config.model)) / TOKENIZER, folder / TOKENIZER)
    tokenizer = load_tokenizer(folder / TOKENIZER, config.max_tokens)
    examples = examples_of_all(comments, tokenizer, folder)
    histories: list[History] = []

    def fit(inside: Rows | None = None, outside: Rows | None = None) -> tuple[TextClassifier, dict[str, Logits]]:
        """Train on these rows of train, or all, choosing the epoch on those, or validation; with its logits."""
        train_split = examples["train"] if inside is None else examples["train"].select(inside)
        choosing = examples["validation"] if outside is None else examples["train"].select(outside)
        with seeded(config.seed):
            model = build(config, len(comments.label_columns), tokenizer)
            histories.append(train(model, train_split, choosing, recipe(config)))
        return model, {name: predict_logits(model, one.tokens) for name, one in examples.items()}

    model, logits = fit()
    save_encoder(model, folder, comments.label_columns, config.max_tokens)
    parts = folds(comments.train.labels, config.folds, config.seed) if config.folds >= 2 else []
    teaching = teaching_logits(config, comments, Member(logits), parts, lambda *rows: fit(*rows)[1])
    teaching.save(folder)
    of_folds = [{"fold": fold, **entry} for fold, one in enumerate(histories[1:], start=1) for entry in one]
    return {"history": histories[0], "folds": of_folds, **teaching_notes(comments, teaching)}


def examples_of_all(comments: Data, tokenizer: Tokenizer, folder: Path) -> dict[str, Examples]:
    """The comments of each split, tokenised; leaves the tokens of those that later stages train on in the folder."""
    examples = {
        name: Examples(tokenise(tokenizer, split.texts), split.labels.astype(np.float32))
        for name, split in comments.splits.items()
    }
    for name in TAUGHT:
        examples[name].tokens.save(folder, name)
    return examples


def teaching_notes(comments: Data, teaching: Member) -> Notes:
    """How good those are that teach: macro F1 on validation, with a threshold tuned for each label there."""
    truth, probabilities = comments.validation.labels, sigmoid(teaching.in_sample["validation"])
    predicted = (probabilities >= best_label_thresholds(truth, probabilities)).astype(np.int8)
    return {"teaching_f1_macro": f1_macro(truth, predicted)}


def teaching_logits(
    config: TeacherConfig,
    comments: Data,
    own: Member,
    parts: list[tuple[Rows, Rows]],
    answer: Callable[[Rows, Rows], dict[str, Logits]],
) -> Member:
    """The logits that teach: the teacher's own, or its ensemble's.

    Args:
        config: names the ensemble's members.
        comments: all splits.
        own: the teacher's answers.
        parts: rows inside and outside of each fold; may be empty.
        answer: trains on the rows inside, and answers all splits.
    """
    encoders = own
    if parts:
        folded = over_folds(answer, parts)
        encoders = replace(own, out_of_fold=folded.out_of_fold)
        if "folds" in config.ensemble:
            encoders = replace(mean_member([own] + [folded] * len(parts)), out_of_fold=folded.out_of_fold)
    members = [encoders]
    if "classical" in config.ensemble:
        members.append(floor_member(ClassicalConfig(seed=config.seed), comments, parts))
    return ensemble(members, comments.validation.labels)


def build(config: TeacherConfig, labels: int, tokenizer: Tokenizer) -> TextClassifier:
    """The encoder that the config names, with a new head, its lowest layers frozen as the config says.

    Raises:
        InputError: it cannot read as many tokens as it shall.
    """
    if config.model == "scratch":
        model = build_scratch(config, labels, tokenizer.get_vocab_size())
    else:
        folder = pretrained_folder(config.model)
        model = build_pretrained(folder, labels, config.pooling, config.dropout, config.encoder_dropout)
        if (positions := tokens_at_once(model)) < config.max_tokens:
            problem = f"teacher.max_tokens={config.max_tokens}: {config.model} reads {positions} tokens at once"
            raise InputError([f"{problem}; lower it to that, or take another encoder"])
    freeze(model, config.frozen_layers)
    return model


def freeze(model: TextClassifier, layers: int) -> None:
    """Keep the embeddings and the lowest `layers` layers as they are; 0 trains all."""
    if not layers:
        return
    blocks = encoder_layers(model)
    trained = {id(parameter) for block in blocks[layers:] for parameter in block.parameters()}
    for parameter in model.encoder.parameters():
        parameter.requires_grad_(id(parameter) in trained)


def pretrained_folder(model: str, key: str = "teacher.model") -> str:
    """The folder itself, or the local copy of a hub id, fetched only if there is none.

    A newer one on the hub is left there: the search has checked the local one, and its digest stands in the key.

    Raises:
        InputError: it is no folder, and the hub does not give it.
    """
    if Path(model).is_dir():
        return model
    cached = model_folder(model)
    if cached is not None and (cached / TOKENIZER).is_file() and any(cached.glob("*.safetensors")):
        return str(cached)
    from huggingface_hub import snapshot_download

    try:
        return snapshot_download(model, allow_patterns=["*.json", "*.safetensors"])
    except (OSError, ValueError) as error:  # the hub's own errors are kinds of these
        problem = f"{key}={model!r}: no such folder, and not to be had from the hub"
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
        loss=config.loss,
        focal_gamma=config.focal_gamma,
        class_weights=config.class_weights,
        patience=config.patience,
    )
