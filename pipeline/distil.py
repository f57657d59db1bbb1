"""Distil the teacher into a smaller student."""

from __future__ import annotations

from pathlib import Path

from pipeline.artifact import Artifact, Notes, stage
from pipeline.config import DistilConfig
from pipeline.encoder_artifact import save_descendant, teacher_examples
from pipeline.models import keep_layers, load_model
from pipeline.training import seeded, student_recipe, train


@stage("distil", version=1)
def distil(config: DistilConfig, folder: Path, data: Artifact, teacher: Artifact) -> Notes:
    """Train a student that starts as some of the teacher's layers on the teacher's logits and the labels.

    Hinton et al. 2015 (arXiv:1503.02531) for the loss; initialisation from the teacher's layers as in DistilBERT
    (Sanh et al. 2019, arXiv:1910.01108).
    """
    _, examples, validation = teacher_examples(data, teacher)
    with seeded(config.seed):
        student = keep_layers(load_model(teacher.path), config.layers)
        history = train(student, examples, validation, student_recipe(config))
    save_descendant(student, folder, teacher)
    return {"history": history}
