"""Born-again teachers: trained on the ensemble's word, heard beside it, and a teacher like any other."""

import numpy as np
import pytest
import torch

from pipeline.config import DistilConfig
from pipeline.ensemble import Member, best_temperature
from pipeline.models import load_model
from pipeline.runtime import load_classifier
from pipeline.stages import distil, train_born_again, train_teacher
from pipeline.tokens import Tokens


@pytest.fixture(scope="module")
def crossed_config(tiny_teacher_config):
    return tiny_teacher_config.model_copy(update={"folds": 2, "ensemble": ("folds", "classical")})


@pytest.fixture(scope="module")
def first(tiny_store, tiny_data, crossed_config):
    """A teacher that teaches together with its folds and the floor."""
    return tiny_store.run(train_teacher, crossed_config, tiny_data)


@pytest.fixture(scope="module")
def second(tiny_store, tiny_data, crossed_config, first):
    return tiny_store.run(train_born_again, crossed_config, tiny_data, first)


def own_logits(artifact, texts):
    return load_classifier(artifact.path).predict_logits(texts)


def test_it_teaches_together_with_those_that_taught_it(first, second, tiny_comments):
    labels = tiny_comments.validation.labels
    earlier, teaching = Member.load(first.path), Member.load(second.path)
    own = {name: own_logits(second, split.texts) for name, split in tiny_comments.splits.items()}
    of_earlier = best_temperature(earlier.in_sample["validation"], labels)
    of_own = best_temperature(own["validation"], labels)
    for name, logits in teaching.in_sample.items():
        np.testing.assert_allclose(logits, (earlier.in_sample[name] / of_earlier + own[name] / of_own) / 2, atol=1e-3)
    assert earlier.out_of_fold is not None and teaching.out_of_fold is not None
    np.testing.assert_allclose(teaching.out_of_fold, earlier.out_of_fold / of_earlier, atol=1e-5)


def test_its_first_step_is_down_the_loss_against_labels_and_ensemble(first, second, tiny_comments):
    """The first epoch's losses are near those of the first teacher's weights, in closed form, and fall from there."""
    split, tokens = tiny_comments.train, Tokens.load(first.path, "train")
    assert len(tokens.lengths) == len(split.texts)
    student = own_logits(first, split.texts).astype(np.float64)
    teacher = Member.load(first.path).in_sample["train"].astype(np.float64)

    def cross_entropy(target):
        return float((np.logaddexp(0, student) - target * student).mean())

    at_start = 0.9 * cross_entropy(1 / (1 + np.exp(-teacher))) + 0.1 * cross_entropy(split.labels)
    history = second.notes["history"]
    assert history[0]["total_loss"] == pytest.approx(at_start, rel=0.1)
    assert history[-1]["total_loss"] < at_start


def test_it_leaves_what_a_teacher_leaves(first, second, tiny_store, tiny_data, tiny_comments):
    assert {path.name for path in second.path.iterdir()} == {path.name for path in first.path.iterdir()}
    assert second.stage == first.stage and second.key != first.key
    assert second.notes["folds"] == first.notes["folds"] != []
    assert second.notes["teaching_f1_macro"] != first.notes["teaching_f1_macro"]
    student = tiny_store.run(distil, DistilConfig(method="logit", layers=1, epochs=1), tiny_data, second)
    assert own_logits(student, tiny_comments.test.texts[:8]).shape == (8, 3)


def test_frozen_layers_stay_as_they_were(tiny_store, tiny_data, crossed_config, first):
    config = crossed_config.model_copy(update={"frozen_layers": 1, "epochs": 1})
    frozen = tiny_store.run(train_born_again, config, tiny_data, first)
    before, after = (load_model(one.path).state_dict() for one in (first, frozen))
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved and all("layer.1." in name or name.startswith("head.") for name in moved)


def test_how_many_generations_are_asked_for_does_not_change_the_first(crossed_config):
    assert crossed_config.model_copy(update={"generations": 2}).key_fields() == crossed_config.key_fields()
