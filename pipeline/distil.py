"""Distil the teacher into a smaller student."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from pipeline.artifact import Artifact, Notes
from pipeline.config import DistilConfig
from pipeline.encoder_artifact import labelled, save_descendant, taught_examples
from pipeline.matching import TeacherMatching
from pipeline.models import ENCODER_DROPOUTS, TextClassifier, build_pretrained, load_model
from pipeline.ngram_student import train_ngram
from pipeline.pretrained import tokens_at_once
from pipeline.runtime import TOKENIZER, load_deployment
from pipeline.students import chosen_layers, important_dimensions, keep_layers, narrow
from pipeline.teacher import pretrained_folder
from pipeline.tokens import load_tokenizer, tokenise
from pipeline.training import Matching, Recipe, seeded, train


def distil(config: DistilConfig, folder: Path, data: Artifact, teacher: Artifact) -> Notes:
    """Train a student on the teacher's logits and the labels (Hinton et al. 2015, arXiv:1503.02531).

    A student made of the teacher starts with the teacher's weights, as DistilBERT (Sanh et al. 2019, arXiv:1910.01108),
    and may match its inside too.

    Raises:
        ValueError: a combination that cannot be, with the reason.
    """
    _check(config, teacher)
    if config.student == "ngram":
        return train_ngram(config, folder, data, teacher, recipe(config))
    if config.student == "encoder":
        return _distil_into_encoder(config, folder, data, teacher)
    examples, validation = taught_examples(data, teacher, teacher, config.teacher_logits)
    with seeded(config.seed):
        student, matching = student_of(load_model(teacher.path), config)
        history = train(student, examples, validation, recipe(config), matching=matching)
    save_descendant(student, folder, teacher)
    return {"history": history}


def student_of(teacher: TextClassifier, config: DistilConfig) -> tuple[TextClassifier, Matching | None]:
    """The student that the config asks for, made of the teacher, and what matches it with the teacher.

    Raises:
        ValueError: more layers or width than the teacher has, or a width that does not fit it.
    """
    layers = chosen_layers(teacher.config.num_hidden_layers, config.layers, config.layer_choice)
    student = keep_layers(teacher, layers)
    dimensions = torch.arange(teacher.config.hidden_size)
    if config.width not in (0, len(dimensions)):
        dimensions = important_dimensions(student, config.width)
        student = narrow(student, dimensions)
    hidden = config.hidden_weight if config.method in ("hidden", "multi_level") else 0.0
    attention = config.attention_weight if config.method in ("attention", "multi_level") else 0.0
    if not hidden and not attention:
        return student, None
    return student, TeacherMatching(teacher, layers, dimensions, hidden, attention)


def _distil_into_encoder(config: DistilConfig, folder: Path, data: Artifact, teacher: Artifact) -> Notes:
    """Train a pretrained encoder, which has a tokenizer of its own."""
    source = Path(pretrained_folder(config.model, "distil.model"))
    if not (source / TOKENIZER).is_file():
        problem = f"distil.model={config.model!r}: {source} has no {TOKENIZER}"
        raise ValueError(f"{problem}; save the tokenizer there in its fast form")
    shutil.copyfile(source / TOKENIZER, folder / TOKENIZER)
    max_tokens = load_deployment(teacher.path).max_tokens
    tokenizer = load_tokenizer(folder / TOKENIZER, max_tokens)
    examples, validation = labelled(data, teacher, lambda texts: tokenise(tokenizer, texts), config.teacher_logits)
    like = load_model(teacher.path)
    inside = next((getattr(like.config, name) for name in ENCODER_DROPOUTS if hasattr(like.config, name)), 0.0)
    with seeded(config.seed):
        student = build_pretrained(str(source), like.head.out_features, like.pooling, like.dropout.p, inside)
        if (positions := tokens_at_once(student)) < max_tokens:
            problem = f"distil.model={config.model!r}: reads {positions} tokens where the teacher reads {max_tokens}"
            raise ValueError(f"{problem}; lower teacher.max_tokens, or take another encoder")
        history = train(student, examples, validation, recipe(config))
    save_descendant(student, folder, teacher)
    return {"history": history}


def _check(config: DistilConfig, teacher: Artifact) -> None:
    """Refuse what cannot be, with the reason and the remedy."""
    if config.student != "layers" and config.method != "logit":
        problem = f"distil.method={config.method!r} compares student and teacher layer by layer and token by token"
        raise ValueError(f"{problem}; with {config.student!r} they share neither: take logit, or student=layers")
    if config.student == "encoder" and not config.model:
        raise ValueError("distil.model='': name the folder or hub id of the student's encoder")
    if config.teacher_logits == "out_of_fold" and not (teacher.path / "logits_train_out_of_fold.npy").is_file():
        problem = "distil.teacher_logits='out_of_fold': the teacher has no logits of folds"
        raise ValueError(f"{problem}; set teacher.folds to 2 or more, or take in_sample")


def recipe(config: DistilConfig) -> Recipe:
    """How a student learns from the teacher; settings that it does not use, as its key has it, are as by default."""
    config = DistilConfig.model_validate(config.used())
    ngram = config.student == "ngram"
    return Recipe(
        epochs=config.ngram_epochs if ngram else config.epochs,
        learning_rate=config.ngram_learning_rate if ngram else config.learning_rate,
        batch_size=config.batch_size,
        seed=config.seed,
        schedule=config.schedule,
        warmup_fraction=config.warmup_fraction,
        alpha=config.alpha,
        temperature=config.temperature,
        loss=config.loss,
        focal_gamma=config.focal_gamma,
        class_weights=config.class_weights,
    )
