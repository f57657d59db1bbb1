"""The teacher end to end: trained on the embedded sample, and fine-tuned from a folder of Hugging Face's format."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from sklearn.metrics import f1_score
from transformers import BertConfig, BertModel

from pipeline.config import DataConfig, TeacherConfig
from pipeline.data import prepare
from pipeline.errors import InputError
from pipeline.models import load_model
from pipeline.runtime import EagerClassifier, load_classifier, load_deployment, sigmoid
from pipeline.splitting import folds
from pipeline.stages import train_teacher
from pipeline.teacher import build, pretrained_folder, recipe
from pipeline.tokens import load_tokenizer, tokenise
from pipeline.training import Examples, predict_logits, seeded, train

FILES = {
    "tokenizer.json",
    "logits_train_in_sample.npy",
    "logits_validation.npy",
    "logits_test.npy",
    "train_token_ids.npy",
    "train_token_offsets.npy",
    "validation_token_ids.npy",
    "validation_token_offsets.npy",
    "model.safetensors",
    "config.json",
    "classifier.json",
    "model.onnx",
    "deploy.json",
    "manifest.json",
}
SHARED = Path(os.environ.get("PARETO_SHARED", "/nowhere")) / "models" / "e5-small-bn"


def check_folder(artifact, comments):
    """The stored logits and both forms of the model agree, comment by comment."""
    assert {path.name for path in artifact.path.iterdir()} == FILES
    deployment = load_deployment(artifact.path)
    assert deployment.labels == comments.label_columns
    tokenizer = load_tokenizer(artifact.path / "tokenizer.json", deployment.max_tokens)
    model = load_model(artifact.path)
    for name, file in (("train", "train_in_sample"), ("test", "test"), ("validation", "validation")):
        split = comments.splits[name]
        logits = np.load(artifact.path / f"logits_{file}.npy", allow_pickle=False)
        assert logits.shape == split.labels.shape and logits.dtype == np.float32
        tokens = tokenise(tokenizer, split.texts)
        assert tokens.lengths.max() <= deployment.max_tokens
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
    for name in ("tokenizer.json", "logits_train_in_sample.npy", "model.safetensors", "deploy.json"):
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


def test_out_of_fold_logits_are_those_of_a_teacher_that_did_not_see_the_comment(
    tiny_store, tiny_data, tiny_comments, tiny_teacher, tiny_teacher_config, tmp_path
):
    crossed = tiny_store.run(train_teacher, tiny_teacher_config.model_copy(update={"folds": 3}), tiny_data)
    outside, inside = (
        np.load(crossed.path / f"logits_train_{name}.npy", allow_pickle=False) for name in ("out_of_fold", "in_sample")
    )
    np.testing.assert_array_equal(inside, np.load(tiny_teacher.path / "logits_train_in_sample.npy", allow_pickle=False))
    # The first fold by hand: the same teacher, given only the comments inside, answers those outside.
    rows_inside, rows_outside = folds(tiny_comments.train.labels, 3, tiny_teacher_config.seed)[0]
    tokenizer = load_tokenizer(tiny_teacher.path / "tokenizer.json", tiny_teacher_config.max_tokens)
    part = {
        name: Examples(
            tokenise(tokenizer, [tiny_comments.train.texts[row] for row in rows]),
            tiny_comments.train.labels[rows].astype(np.float32),
        )
        for name, rows in (("inside", rows_inside), ("outside", rows_outside))
    }
    with seeded(tiny_teacher_config.seed):
        model = build(tiny_teacher_config, 3, tokenizer)
        train(model, part["inside"], part["outside"], recipe(tiny_teacher_config))
    np.testing.assert_allclose(outside[rows_outside], predict_logits(model, part["outside"].tokens), atol=1e-4)


def test_an_ensemble_teaches_and_the_deployed_teacher_stays_the_same(
    tiny_store, tiny_data, tiny_comments, tiny_teacher, tiny_teacher_config
):
    config = tiny_teacher_config.model_copy(update={"folds": 3, "ensemble": ("folds", "classical")})
    together = tiny_store.run(train_teacher, config, tiny_data)
    assert (together.path / "model.onnx").read_bytes() == (tiny_teacher.path / "model.onnx").read_bytes()
    labels = tiny_comments.validation.labels
    alone, taught = (
        np.load(one.path / "logits_validation.npy", allow_pickle=False) for one in (tiny_teacher, together)
    )
    assert log_loss_of(taught, labels) < log_loss_of(alone, labels)
    outside = np.load(together.path / "logits_train_out_of_fold.npy", allow_pickle=False)
    crossed = tiny_store.run(train_teacher, tiny_teacher_config.model_copy(update={"folds": 3}), tiny_data)
    encoders_alone = np.load(crossed.path / "logits_train_out_of_fold.npy", allow_pickle=False)
    train_labels = tiny_comments.train.labels
    assert log_loss_of(outside, train_labels) < log_loss_of(encoders_alone, train_labels)


def log_loss_of(logits, labels):
    return float((np.logaddexp(0, logits) - labels * logits).mean())


def test_frozen_layers_keep_their_weights(tiny_data, tiny_teacher_config, tmp_path):
    frozen = tiny_teacher_config.model_copy(update={"frozen_layers": 1, "epochs": 1})
    train_teacher(frozen, tmp_path, tiny_data)
    after = load_file(tmp_path / "model.safetensors")
    tokenizer = load_tokenizer(tmp_path / "tokenizer.json", 48)
    with seeded(frozen.seed):
        before = {name: tensor.numpy() for name, tensor in build(frozen, 3, tokenizer).state_dict().items()}
    moved = {name for name in before if not np.array_equal(before[name], after[name])}
    assert moved and all("layer.1." in name or name.startswith("head.") for name in moved)


def test_an_encoder_that_cannot_read_so_many_tokens_is_refused(tiny_teacher, tmp_path):
    tokenizer = load_tokenizer(tiny_teacher.path / "tokenizer.json", 60)
    sizes = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 20}
    BertModel(BertConfig(vocab_size=400, max_position_embeddings=60, **sizes)).save_pretrained(tmp_path)
    config = TeacherConfig(model=str(tmp_path), max_tokens=60)
    assert build(config, 3, tokenizer).config.max_position_embeddings == 60
    with pytest.raises(InputError, match=r"teacher\.max_tokens=61: .* reads 60 tokens at once; lower it"):
        build(config.model_copy(update={"max_tokens": 61}), 3, tokenizer)


def test_a_hub_id_that_is_not_there_is_an_error_that_names_it():
    with pytest.raises(InputError, match=r"teacher\.model='nobody/no-such-model'.*scratch"):
        pretrained_folder("nobody/no-such-model")
    with pytest.raises(InputError, match=r"teacher\.model='no such/folder at all/here'"):
        pretrained_folder("no such/folder at all/here")


def test_a_hub_models_cached_snapshot_is_used_though_the_hub_has_a_newer_one(tiny_teacher, tmp_path, monkeypatch):
    cache, asked = tmp_path / "models--org--tiny", []

    def fetch(model, **settings):
        """As the hub's own function: the newest revision, which is what main means from then on."""
        revision = "ab"[len(asked)] * 40
        asked.append(model)
        snapshot = cache / "snapshots" / revision
        torch.manual_seed(len(asked))
        sizes = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 20}
        BertModel(BertConfig(vocab_size=400, **sizes)).save_pretrained(snapshot)
        shutil.copyfile(tiny_teacher.path / "tokenizer.json", snapshot / "tokenizer.json")
        (cache / "refs").mkdir(exist_ok=True)
        (cache / "refs" / "main").write_text(revision)
        return str(snapshot)

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    config = TeacherConfig(model="org/tiny", max_tokens=48)
    first = pretrained_folder("org/tiny")
    built = build(config, 3, load_tokenizer(tiny_teacher.path / "tokenizer.json", 48)).state_dict()
    assert pretrained_folder("org/tiny") == first == str(cache / "snapshots" / ("a" * 40)) and asked == ["org/tiny"]
    words = load_file(f"{first}/model.safetensors")["embeddings.word_embeddings.weight"]
    np.testing.assert_array_equal(built["encoder.embeddings.word_embeddings.weight"].numpy(), words)
    Path(first, "model.safetensors").unlink()
    assert pretrained_folder("org/tiny") == str(cache / "snapshots" / ("b" * 40)), "a download that broke off is mended"


@pytest.mark.skipif(not (SHARED / "model.safetensors").is_file(), reason="needs PARETO_SHARED/models/e5-small-bn")
def test_a_pretrained_folder_is_fine_tuned(tiny_store):
    comments = prepare(DataConfig(sample_rows=200, label_columns=("bully",)))
    data = comments.add_to(tiny_store)
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
