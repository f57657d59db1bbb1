"""The student end to end: where it starts, what it learns from, what it leaves behind."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from transformers import BertConfig, BertModel, RobertaConfig, RobertaModel

from pipeline.artifact import Artifact
from pipeline.config import DistilConfig
from pipeline.distil import recipe, student_of
from pipeline.models import load_model, train_tokenizer
from pipeline.runtime import EagerClassifier, load_classifier, load_deployment
from pipeline.stages import distil
from pipeline.students import keep_layers
from pipeline.training import Recipe


@pytest.fixture(scope="module")
def run_distil(tiny_store, tiny_data, tiny_teacher):
    def run(**settings):
        config = DistilConfig(**{"method": "logit"} | settings)
        return tiny_store.run(distil, config, tiny_data, tiny_teacher)

    return run


def distance(student, teacher, comments, name="train"):
    """Mean squared difference of the deployed student from the teacher's stored logits."""
    file = "logits_validation.npy" if name == "validation" else "logits_train_in_sample.npy"
    taught = np.load(teacher.path / file, allow_pickle=False)
    return float(np.square(load_classifier(student.path).predict_logits(comments.splits[name].texts) - taught).mean())


def weights(student):
    return load_file(student.path / "model.safetensors")


def test_the_student_starts_as_the_teachers_layers(run_distil, tiny_teacher):
    untouched = run_distil(layers=1, epochs=1, learning_rate=1e-30)
    student, part = load_model(untouched.path), keep_layers(load_model(tiny_teacher.path), [0])
    assert student.config.num_hidden_layers == 1
    for (name, ours), (_, theirs) in zip(student.named_parameters(), part.named_parameters(), strict=True):
        np.testing.assert_allclose(ours.detach().numpy(), theirs.detach().numpy(), atol=1e-12, err_msg=name)


def test_the_soft_loss_brings_the_student_to_the_teacher(run_distil, tiny_teacher, tiny_comments):
    untouched = run_distil(layers=1, epochs=1, learning_rate=1e-30)
    taught = run_distil(layers=1, epochs=4, learning_rate=2e-3, alpha=1.0)
    for name, share in (("train", 0.5), ("validation", 1.0)):
        far = distance(untouched, tiny_teacher, tiny_comments, name)
        assert distance(taught, tiny_teacher, tiny_comments, name) < share * far


def test_the_history_tells_the_weighted_losses(run_distil):
    history = run_distil(layers=1, epochs=2, alpha=0.7, temperature=3.0).notes["history"]
    assert [entry["epoch"] for entry in history] == [1, 2]
    for entry in history:
        assert entry["total_loss"] == pytest.approx(0.7 * entry["soft_loss"] + 0.3 * entry["hard_loss"], rel=1e-5)


def test_the_student_is_deployed_with_its_parents_tokenizer(run_distil, tiny_teacher, tiny_comments):
    student = run_distil(layers=1, epochs=1)
    names = {path.name for path in student.path.iterdir()}
    assert names == {
        "tokenizer.json",
        "model.safetensors",
        "config.json",
        "classifier.json",
        "model.onnx",
        "deploy.json",
        "manifest.json",
    }
    assert (student.path / "tokenizer.json").read_bytes() == (tiny_teacher.path / "tokenizer.json").read_bytes()
    assert student.parent_key == tiny_teacher.key
    assert (student.path / "model.onnx").stat().st_size < (tiny_teacher.path / "model.onnx").stat().st_size
    texts = tiny_comments.test.texts
    deployed, eager = load_classifier(student.path), EagerClassifier(student.path)
    np.testing.assert_allclose(deployed.predict_logits(texts), eager.predict_logits(texts), atol=1e-4)


def test_the_same_settings_give_the_same_student(run_distil, tiny_data, tiny_teacher, tmp_path):
    settings = {"layers": 1, "epochs": 1, "batch_size": 48}
    student = run_distil(**settings)
    distil(DistilConfig(method="logit", **settings), tmp_path, tiny_data, tiny_teacher)
    ours, again = load_file(student.path / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    assert all(np.array_equal(ours[name], again[name]) for name in ours)


def test_more_layers_than_the_teacher_has_is_an_error_that_is_not_stored(run_distil, tiny_store):
    before = set(tiny_store.root.rglob("manifest.json"))
    with pytest.raises(ValueError, match=r"distil\.layers=3: the teacher has 2 layers"):
        run_distil(layers=3)
    assert set(tiny_store.root.rglob("manifest.json")) == before


@pytest.mark.parametrize("width", [0, 16])
@pytest.mark.parametrize("method", ["hidden", "attention", "multi_level"])
def test_matching_brings_the_student_closer_inside(run_distil, method, width):
    settings = {"layers": 1, "layer_choice": "last", "width": width, "learning_rate": 3e-3}
    history = run_distil(method=method, epochs=3, alpha=0.7, **settings).notes["history"]
    losses = [entry["matching_loss"] for entry in history]
    assert len(losses) == 3 and losses[0] > losses[1] > losses[2] > 0.0
    for entry in history:
        parts = 0.7 * entry["soft_loss"] + 0.3 * entry["hard_loss"] + entry["matching_loss"]
        assert entry["total_loss"] == pytest.approx(parts, rel=1e-5)


def test_the_weights_scale_what_they_are_of(run_distil):
    def first(**settings):
        still = {"layers": 1, "epochs": 1, "layer_choice": "last", "learning_rate": 1e-30}
        return run_distil(**still, **settings).notes["history"][0]["matching_loss"]

    hidden, attention = first(method="hidden"), first(method="attention")
    both = first(method="multi_level", hidden_weight=3.0, attention_weight=0.5)
    assert both == pytest.approx(3.0 * hidden + 0.5 * attention, rel=1e-4)
    assert hidden > 0.0 and attention > 0.0


@pytest.mark.parametrize("method", ["hidden", "attention", "multi_level"])
def test_matching_of_no_weight_is_logit(run_distil, tiny_comments, method):
    settings = {"layers": 1, "layer_choice": "last", "epochs": 2, "learning_rate": 1e-3}

    def taught(method, weight):
        return run_distil(method=method, hidden_weight=weight, attention_weight=weight, **settings)

    plain, none, hardly, matched = taught("logit", 1.0), taught(method, 0.0), taught(method, 1e-12), taught(method, 9.0)
    ours, theirs = weights(none), weights(plain)
    assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)
    # With hardly any weight all is computed, and nothing comes of it but rounding.
    assert hardly.notes["history"][0]["matching_loss"] > 0.0
    texts = tiny_comments.validation.texts
    logits = [load_classifier(student.path).predict_logits(texts) for student in (plain, hardly, matched)]
    assert np.abs(logits[1] - logits[0]).max() < 0.1 * np.abs(logits[2] - logits[0]).max()


def test_matching_with_the_same_seed_is_the_same_twice(run_distil, tiny_data, tiny_teacher, tmp_path):
    settings = {"method": "multi_level", "layers": 1, "width": 16, "epochs": 1}
    student = run_distil(**settings)
    distil(DistilConfig(**settings), tmp_path, tiny_data, tiny_teacher)
    again = load_file(tmp_path / "model.safetensors")
    assert all(np.array_equal(array, again[name]) for name, array in weights(student).items())
    assert not any("projection" in name for name in again)


@pytest.mark.parametrize(("choice", "layer"), [("even", 0), ("first", 0), ("last", 1)])
def test_the_choice_of_layers(tiny_teacher, choice, layer):
    teacher = load_model(tiny_teacher.path)
    student, matching = student_of(teacher, DistilConfig(method="hidden", layers=1, layer_choice=choice))
    ours, theirs = student.state_dict(), teacher.state_dict()
    name = "encoder.encoder.layer.{}.attention.self.query.weight"
    assert torch.equal(ours[name.format(0)], theirs[name.format(layer)])
    assert matching.layers == [layer]


def test_a_narrow_student_is_deployed(run_distil, tiny_teacher, tiny_comments):
    student = run_distil(layers=2, width=16, epochs=1)
    config = json.loads((student.path / "config.json").read_text())
    assert (config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]) == (16, 64, 2)
    assert weights(student)["encoder.embeddings.word_embeddings.weight"].shape[1] == 16
    texts = tiny_comments.test.texts
    deployed = load_classifier(student.path).predict_logits(texts)
    np.testing.assert_allclose(deployed, EagerClassifier(student.path).predict_logits(texts), atol=1e-4)
    sizes = [sum(array.size for array in weights(artifact).values()) for artifact in (student, tiny_teacher)]
    assert sizes[0] < 0.5 * sizes[1]


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory, tiny_comments):
    """A RoBERTa encoder in a folder, with a tokenizer that is not the teacher's."""
    folder = tmp_path_factory.mktemp("pretrained")
    train_tokenizer(tiny_comments.train.texts[:100], 250).save(str(folder / "tokenizer.json"))
    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=250,
        hidden_size=12,
        num_hidden_layers=1,
        num_attention_heads=3,
        intermediate_size=20,
        max_position_embeddings=49,
        pad_token_id=0,
    )
    RobertaModel(config).save_pretrained(folder)
    return folder


def test_another_encoder_learns_with_its_own_tokenizer(run_distil, pretrained, tiny_teacher, tiny_comments):
    settings = {"student": "encoder", "model": str(pretrained)}
    untouched = run_distil(epochs=1, learning_rate=1e-30, **settings)
    taught = run_distil(epochs=6, learning_rate=1e-2, alpha=1.0, **settings)
    assert distance(taught, tiny_teacher, tiny_comments) < 0.7 * distance(untouched, tiny_teacher, tiny_comments)
    assert (taught.path / "tokenizer.json").read_bytes() == (pretrained / "tokenizer.json").read_bytes()
    assert (taught.path / "tokenizer.json").read_bytes() != (tiny_teacher.path / "tokenizer.json").read_bytes()
    ours, theirs = load_deployment(taught.path), load_deployment(tiny_teacher.path)
    assert (ours.labels, ours.max_tokens) == (theirs.labels, theirs.max_tokens)
    student, teacher = load_model(taught.path), load_model(tiny_teacher.path)
    assert (student.pooling, student.dropout.p) == (teacher.pooling, teacher.dropout.p)
    assert student.config.hidden_dropout_prob == teacher.config.hidden_dropout_prob
    before = load_file(pretrained / "model.safetensors")["encoder.layer.0.output.dense.weight"]
    np.testing.assert_allclose(weights(untouched)["encoder.encoder.layer.0.output.dense.weight"], before, atol=1e-12)
    texts = tiny_comments.test.texts
    deployed, eager = load_classifier(taught.path), EagerClassifier(taught.path)
    np.testing.assert_allclose(deployed.predict_logits(texts), eager.predict_logits(texts), atol=1e-4)


def test_another_encoder_is_the_same_twice(run_distil, pretrained, tiny_data, tiny_teacher, tmp_path):
    settings = {"student": "encoder", "model": str(pretrained), "epochs": 1}
    student = run_distil(**settings)
    distil(DistilConfig(method="logit", **settings), tmp_path, tiny_data, tiny_teacher)
    again = load_file(tmp_path / "model.safetensors")
    assert all(np.array_equal(array, again[name]) for name, array in weights(student).items())


def copied(teacher, folder):
    """The teacher's artifact in a folder where it can be changed."""
    shutil.copytree(teacher.path, folder)
    return Artifact(teacher.key, teacher.stage, folder, teacher.manifest)


def test_out_of_fold_logits_teach_where_asked_for(tiny_data, tiny_teacher, tmp_path):
    teacher = copied(tiny_teacher, tmp_path / "teacher")
    inside = np.load(teacher.path / "logits_train_in_sample.npy", allow_pickle=False)
    np.save(teacher.path / "logits_train_out_of_fold.npy", 5.0 - inside)
    settings = {"method": "logit", "layers": 1, "epochs": 1, "learning_rate": 1e-30, "alpha": 1.0, "temperature": 1.0}
    losses = {}
    for logits in ("in_sample", "out_of_fold"):
        (folder := tmp_path / logits).mkdir()
        notes = distil(DistilConfig(teacher_logits=logits, **settings), folder, tiny_data, teacher)
        losses[logits] = notes["history"][0]["soft_loss"]
    assert losses["out_of_fold"] > losses["in_sample"] + 0.5


def test_out_of_fold_logits_that_are_not_there_are_refused(tiny_data, tiny_teacher, tmp_path):
    teacher = copied(tiny_teacher, tmp_path / "teacher")
    (teacher.path / "logits_train_out_of_fold.npy").unlink(missing_ok=True)
    with pytest.raises(ValueError, match=r"teacher_logits='out_of_fold'.*set teacher\.folds to 2 or more"):
        distil(DistilConfig(method="logit", teacher_logits="out_of_fold"), tmp_path, tiny_data, teacher)


def test_combinations_that_cannot_be_are_refused(tiny_data, tiny_teacher, pretrained, tmp_path):
    def run(**settings):
        distil(DistilConfig(**{"method": "logit", "epochs": 1} | settings), tmp_path, tiny_data, tiny_teacher)

    for method in ("hidden", "attention", "multi_level"):
        for student in ("encoder", "ngram"):
            with pytest.raises(ValueError, match=rf"distil\.method='{method}'.*'{student}'.*take logit"):
                run(method=method, student=student, model=str(pretrained))
    with pytest.raises(ValueError, match=r"distil\.model='': name the folder"):
        run(student="encoder")
    with pytest.raises(ValueError, match=r"distil\.width=64: the teacher is 32 wide"):
        run(layers=1, width=64)
    with pytest.raises(ValueError, match=r"distil\.width=15: no multiple of the teacher's 2 heads"):
        run(layers=1, width=15)
    shutil.copytree(pretrained, tmp_path / "speechless")
    (tmp_path / "speechless" / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match=r"speechless has no tokenizer\.json"):
        run(student="encoder", model=str(tmp_path / "speechless"))


@pytest.mark.parametrize(("family", "positions"), [((BertConfig, BertModel), 47), ((RobertaConfig, RobertaModel), 48)])
def test_an_encoder_that_reads_less_than_the_teacher_is_refused(
    family, positions, pretrained, tiny_data, tiny_teacher, tmp_path
):
    """The teacher reads 48 tokens; RoBERTa's first position is the one after padding's."""
    config_class, model_class = family
    short = tmp_path / "short"
    sizes = {"vocab_size": 250, "hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 3}
    config = config_class(**sizes, intermediate_size=20, max_position_embeddings=positions, pad_token_id=0)
    model_class(config).save_pretrained(short)
    shutil.copyfile(pretrained / "tokenizer.json", short / "tokenizer.json")
    with pytest.raises(ValueError, match=r"reads 47 tokens where the teacher reads 48"):
        distil(DistilConfig(method="logit", student="encoder", model=str(short)), tmp_path, tiny_data, tiny_teacher)


def test_the_recipe_has_what_the_config_says():
    shared = {
        "alpha": 0.3,
        "temperature": 5.0,
        "loss": "focal",
        "focal_gamma": 1.5,
        "class_weights": True,
        "schedule": "cosine",
        "warmup_fraction": 0.25,
        "batch_size": 7,
        "seed": 11,
    }
    paces = {"epochs": 4, "learning_rate": 3e-4, "ngram_epochs": 9, "ngram_learning_rate": 0.1}
    config = DistilConfig(method="logit", **paces, **shared)
    assert recipe(config) == Recipe(epochs=4, learning_rate=3e-4, **shared)
    ngram = config.model_copy(update={"student": "ngram"})
    unused = {name: DistilConfig.model_fields[name].default for name in ("schedule", "warmup_fraction", "batch_size")}
    assert recipe(ngram) == Recipe(epochs=9, learning_rate=0.1, **shared | unused)


@pytest.mark.parametrize("student", ["layers", "encoder", "ngram"])
def test_configs_of_one_key_have_one_recipe(student):
    plain = DistilConfig(method="logit", student=student)
    others = {
        "epochs": 4,
        "learning_rate": 3e-4,
        "schedule": "cosine",
        "warmup_fraction": 0.25,
        "batch_size": 7,
        "ngram_epochs": 9,
        "ngram_learning_rate": 0.1,
        "focal_gamma": 1.5,
        "alpha": 0.3,
    }
    for name, value in others.items():
        changed = plain.model_copy(update={name: value})
        same_key = changed.key_fields() == plain.key_fields()
        assert (recipe(changed) == recipe(plain)) == same_key, name
