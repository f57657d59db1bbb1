"""Born-again teachers: the same encoder, trained once more on what its ensemble says."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from pipeline.artifact import Artifact, Notes
from pipeline.config import TeacherConfig
from pipeline.data import load_data
from pipeline.encoder_artifact import save_descendant
from pipeline.ensemble import Member, ensemble
from pipeline.models import load_model
from pipeline.runtime import TOKENIZER
from pipeline.teacher import examples_of_all, freeze, recipe, teaching_notes
from pipeline.tokens import load_tokenizer
from pipeline.training import predict_logits, seeded, train

ALPHA = 0.9
"""Weight of the ensemble's word against the labels'."""


def train_born_again(config: TeacherConfig, folder: Path, data: Artifact, teacher: Artifact) -> Notes:
    """The teacher's next generation (Furlanello et al. 2018, arXiv:1805.04770), which joins those that teach.

    It begins with the teacher's weights and is trained as the teacher was, but on the labels and the ensemble's logits
    at once. From then on it is the teacher, and the mean of its logits and those that taught it, each calibrated, is
    what teaches. Leaves what the teacher leaves; out of fold, where it has nothing to say, the earlier logits stay.
    """
    comments, taught_by = load_data(data.path), Member.load(teacher.path)
    shutil.copyfile(teacher.path / TOKENIZER, folder / TOKENIZER)
    examples = examples_of_all(comments, load_tokenizer(folder / TOKENIZER, config.max_tokens), folder)
    taught = {name: replace(one, teacher_logits=taught_by.in_sample[name]) for name, one in examples.items()}
    with seeded(config.seed):
        model = load_model(teacher.path)
        freeze(model, config.frozen_layers)
        method = replace(recipe(config), alpha=ALPHA, head_learning_rate=None)
        history = train(model, taught["train"], taught["validation"], method)
    save_descendant(model, folder, teacher)
    own = Member({name: predict_logits(model, one.tokens) for name, one in examples.items()})
    teaching = ensemble([taught_by, own], comments.validation.labels)
    teaching.save(folder)
    return {"history": history, "folds": teacher.notes["folds"], **teaching_notes(comments, teaching)}
