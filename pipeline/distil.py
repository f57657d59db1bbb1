"""Distil the teacher into a smaller student."""

from __future__ import annotations

from pathlib import Path

from pipeline.artifact import Artifact, Notes, stage
from pipeline.config import DistilConfig
from pipeline.encoder_artifact import save_descendant, taught_examples
from pipeline.models import keep_layers, load_model
from pipeline.training import Recipe, seeded, train


@stage("distil", version=1)
def distil(config: DistilConfig, folder: Path, data: Artifact, teacher: Artifact) -> Notes:
    """Train a student that starts as some of the teacher's layers on the teacher's logits and the labels.

    Hinton et al. 2015 (arXiv:1503.02531) for the loss; initialisation from the teacher's layers as in DistilBERT
    (Sanh et al. 2019, arXiv:1910.01108).
    """
    examples, validation = taught_examples(data, teacher, teacher, config.teacher_logits)
    with seeded(config.seed):
        student = keep_layers(load_model(teacher.path), config.layers)
        history = train(student, examples, validation, recipe(config))
    save_descendant(student, folder, teacher)
    return {"history": history}


def recipe(config: DistilConfig) -> Recipe:
    """How a student learns from the teacher."""
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
