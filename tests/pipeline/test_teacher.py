"""The teacher end to end: trained on the embedded sample, and fine-tuned from a folder of Hugging Face's format."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from sklearn.metrics import f1_score

from pipeline.config import DataConfig, TeacherConfig
from pipeline.data import prepare
from pipeline.errors import InputError
from pipeline.models import load_model
from pipeline.runtime import EagerClassifier, load_classifier, load_deployment, sigmoid
from pipeline.teacher import pretrained_folder, train_teacher
from pipeline.tokens import load_tokenizer, load_tokens
from pipeline.training import predict_logits

FILES = {
    "tokenizer.json",
    "train_ids.npy",
    "train_offsets.npy",
    "validation_ids.npy",
    "validation_offsets.npy",
    "logits_train.npy",
    "logits_validation.npy",
    "model.safetensors",
    "config.json",
    "classifier.json",
    "model.onnx",
    "deploy.json",
    "manifest.json",
}
SHARED = Path(os.environ.get("PARETO_SHARED", "/nowhere")) / "models" / "e5-small-bn"


def check_folder(artifact, comments):
    """The stored tokens, logits and both forms of the model agree, comment by comment."""
    assert {path.name for path in artifact.path.iterdir()} == FILES
    deployment = load_deployment(artifact.path)
    assert deployment.labels == comments.label_columns
    tokenizer = load_tokenizer(artifact.path / "tokenizer.json", deployment.max_tokens)
    model = load_model(artifact.path)
    for name, split in (("train", comments.train), ("validation", comments.validation)):
        tokens = load_tokens(artifact.path, name)
        logits = np.load(artifact.path / f"logits_{name}.npy", allow_pickle=False)
        assert logits.shape == split.labels.shape and logits.dtype == np.float32
        for i in range(0, len(split), 17):
            stored = tokens.ids[tokens.offsets[i] : tokens.offsets[i + 1]].tolist()
            assert stored == tokenizer.encode(split.texts[i]).ids
            assert len(stored) <= deployment.max_tokens
        np.testing.assert_allclose(predict_logits(model, tokens), logits, atol=1e-4)
    texts = comments.validation.texts[:40]
    for classifier in (EagerClassifier(artifact.path), load_classifier(artifact.path)):
        np.testing.assert_allclose(classifier.predict_logits(texts), logits[:40], atol=2e-4)


def test_a_scratch_teacher_leaves_files_that_agree(tiny_teacher, tiny_comments):
    check_folder(tiny_teacher, tiny_comments)
    assert load_model(tiny_teacher.path).config.num_hidden_layers == 2
    assert load_tokenizer(tiny_teacher.path / "tokenizer.json", 48).get_vocab_size() == 400


def test_the_history_describes_the_model_that_was_kept(tiny_teacher, tiny_comments):
    history = tiny_teacher.notes["history"]
    assert [entry["epoch"] for entry in history] == [1, 2, 3, 4]
    kept = max(history, key=lambda entry: entry["val_macro_f1"])
    probabilities = sigmoid(np.load(tiny_teacher.path / "logits_validation.npy", allow_pickle=False))
    predicted = probabilities >= kept["val_best_threshold"]
    expected = f1_score(tiny_comments.validation.labels, predicted, average="macro", zero_division=0)
    assert kept["val_macro_f1"] == pytest.approx(expected, abs=1e-6)
    assert tiny_teacher.notes["folds"] == []


def test_the_same_config_gives_the_same_teacher(tiny_data, tiny_teacher, tiny_teacher_config, tmp_path):
    train_teacher(tiny_teacher_config, tmp_path, tiny_data)
    for name in ("tokenizer.json", "logits_train.npy", "model.safetensors", "deploy.json", "train_ids.npy"):
        assert (tmp_path / name).read_bytes() == (tiny_teacher.path / name).read_bytes(), name


def test_folds_are_reported_beside_an_unchanged_teacher(tiny_store, tiny_data, tiny_teacher, tiny_teacher_config):
    crossed = tiny_store.run(train_teacher, tiny_teacher_config.model_copy(update={"folds": 3}), tiny_data)
    folds = crossed.notes["folds"]
    assert [(entry["fold"], entry["epoch"]) for entry in folds] == [(f, e) for f in (1, 2, 3) for e in (1, 2, 3, 4)]
    plain, beside = (load_file(one.path / "model.safetensors") for one in (tiny_teacher, crossed))
    assert all(np.array_equal(plain[name], beside[name]) for name in plain)
    first_epochs = [entry for entry in folds if entry["epoch"] == 1]
    assert len({entry["val_loss"] for entry in first_epochs}) == 3, "each fold has its own comments"
    # A fresh model is at the loss of guessing; one that had seen the comments before would not be.
    start = tiny_teacher.notes["history"][0]["total_loss"]
    assert all(entry["total_loss"] == pytest.approx(start, rel=0.25) for entry in first_epochs)


def test_a_hub_id_that_is_not_there_is_an_error_that_names_it():
    with pytest.raises(InputError, match=r"teacher\.model='nobody/no-such-model'.*scratch"):
        pretrained_folder("nobody/no-such-model")
    with pytest.raises(InputError, match=r"teacher\.model='no such/folder at all/here'"):
        pretrained_folder("no such/folder at all/here")


@pytest.mark.skipif(not (SHARED / "model.safetensors").is_file(), reason="needs PARETO_SHARED/models/e5-small-bn")
def test_a_pretrained_folder_is_fine_tuned(tiny_store):
    comments = prepare(DataConfig(sample_rows=200, label_columns=("bully",)))

    def build(folder):
        comments.save(folder)
        return {}

    data = tiny_store.add("data", comments.fingerprint, build)
    config = TeacherConfig(
        model=str(SHARED), model_digest="e" * 64, epochs=1, batch_size=16, max_tokens=24, learning_rate=2e-5
    )
    teacher = tiny_store.run(train_teacher, config, data)
    check_folder(teacher, comments)
    assert "model" not in teacher.manifest["config"] and teacher.manifest["config"]["model_digest"] == "e" * 64
    assert (teacher.path / "tokenizer.json").read_bytes() == (SHARED / "tokenizer.json").read_bytes()
    assert load_deployment(teacher.path).pad_id == 1, "the folder's own padding token"
    before, after = load_file(SHARED / "model.safetensors"), load_file(teacher.path / "model.safetensors")
    name = "embeddings.position_embeddings.weight"
    start, end = before[name].astype(np.float32), after[f"encoder.{name}"]
    assert end.dtype == np.float32
    assert 0 < np.abs(end - start).max() < 0.01, "fine-tuned from the folder's weights, not from nothing"
    words = load_model(teacher.path).encoder.get_input_embeddings().weight
    assert torch.isfinite(words).all() and words.shape[0] == 4454
