"""The real stage on the tiny teacher: zeros, chains, what the notes tell, and what is refused."""

import json
import math

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from pipeline.artifact import Artifact
from pipeline.config import PruneConfig
from pipeline.models import encoder_layers, load_model
from pipeline.runtime import EagerClassifier, load_classifier
from pipeline.stages import prune

EMBEDDING = "encoder.embeddings.word_embeddings.weight"


def stored(artifact):
    return load_file(artifact.path / "model.safetensors")


def zeros_in_rows(matrix):
    """Zeros in each row that is not zero altogether: the padding's vector is, from the beginning."""
    zeros = (matrix == 0).sum(axis=1)
    assert (zeros == matrix.shape[1]).sum() <= 1
    return zeros[zeros < matrix.shape[1]]


def target_names(artifact):
    """Names of the matrices inside transformer layers."""
    return {name for name, array in stored(artifact).items() if array.ndim == 2 and ".layer." in name}


@pytest.mark.parametrize("method", ["magnitude", "wanda"])
@pytest.mark.parametrize("sparsity", [0.3, 0.77])
def test_without_fine_tuning_the_stage_only_sets_zeros(run_prune, tiny_teacher, method, sparsity):
    pruned = run_prune(method=method, sparsity=sparsity, epochs=0)
    before, after, targets = stored(tiny_teacher), stored(pruned), target_names(tiny_teacher)
    assert len(targets) == 12 and before.keys() == after.keys()
    for name, array in before.items():
        if name not in targets:
            np.testing.assert_array_equal(after[name], array)
            continue
        kept = after[name] != 0
        np.testing.assert_array_equal(after[name][kept], array[kept])
        if method == "wanda":
            assert ((~kept).sum(axis=1) == round(sparsity * array.shape[1])).all()
        else:
            assert (~kept).sum() == round(sparsity * array.size)
            assert np.abs(array[~kept]).max() <= np.abs(array[kept]).min()
    zeros = sum((after[name] == 0).sum() for name in targets) / sum(after[name].size for name in targets)
    assert pruned.notes == {"history": [], "prunable_sparsity": zeros, "scope_sparsity": zeros}


@pytest.mark.parametrize("scope", ["attention", "ffn", "all"])
@pytest.mark.parametrize("granularity", ["global", "row"])
def test_scope_and_granularity_say_where_the_share_holds(run_prune, tiny_teacher, scope, granularity):
    pruned = run_prune(method="magnitude", sparsity=0.4, epochs=0, scope=scope, granularity=granularity)
    before, after = stored(tiny_teacher), stored(pruned)
    matrices = {name for name, array in before.items() if array.ndim == 2 and not name.startswith("head")}
    inside = {
        "attention": {name for name in matrices if ".attention." in name},
        "ffn": {name for name in matrices if ".layer." in name and ".attention." not in name},
        "all": matrices,
    }[scope]
    changed = {name for name in before if (before[name] != after[name]).any()}
    assert changed == inside or granularity == "global" and changed < inside
    if granularity == "row":
        assert all((zeros_in_rows(after[n]) == round(0.4 * after[n].shape[1])).all() for n in inside)
    else:
        size = sum(before[name].size for name in inside)
        assert sum(int((after[name] == 0).sum()) for name in inside) == round(0.4 * size)
        gone = [np.abs(before[name][after[name] == 0]) for name in inside]
        left = [np.abs(after[name][after[name] != 0]) for name in inside]
        assert np.concatenate(gone).max() <= np.concatenate(left).min()
    assert pruned.notes["scope_sparsity"] == pytest.approx(0.4, abs=0.02)


@pytest.mark.parametrize("method", ["magnitude", "wanda"])
def test_zeros_hold_through_fine_tuning(run_prune, tiny_teacher, method):
    before = stored(run_prune(method=method, sparsity=0.6, epochs=0))
    tuned = run_prune(method=method, sparsity=0.6, epochs=2, learning_rate=1e-3)
    after = stored(tuned)
    assert [entry["epoch"] for entry in tuned.notes["history"]] == [1, 2]
    assert tuned.notes["history"][0]["soft_loss"] > 0.0
    for name in target_names(tiny_teacher):
        np.testing.assert_array_equal(after[name] == 0, before[name] == 0)
        assert (after[name] != before[name]).mean() > 0.35, "what is left is trained"
        assert not np.signbit(after[name][after[name] == 0]).any(), "a negative zero costs a bit when compressed"
    assert (after["head.weight"] != 0).all() and (after[EMBEDDING] == 0).sum() == (before[EMBEDDING] == 0).sum()


def test_the_deployed_file_has_the_same_zeros(tiny_pruned):
    matrices = [
        numpy_helper.to_array(tensor)
        for tensor in onnx.load(tiny_pruned.path / "model.onnx").graph.initializer
        if len(tensor.dims) == 2 and (numpy_helper.to_array(tensor) == 0).mean() > 0.2
    ]
    assert sum((matrix == 0).sum() for matrix in matrices) == sum(
        (array == 0).sum() for name, array in stored(tiny_pruned).items() if name in target_names(tiny_pruned)
    )


def test_a_seed_draws_the_calibration_comments(run_prune):
    settings = {"method": "wanda", "sparsity": 0.5, "epochs": 0, "calibration_rows": 8}
    first, second = stored(run_prune(**settings, seed=0)), stored(run_prune(**settings, seed=1))
    assert any((first[name] != second[name]).any() for name in first)


@pytest.mark.parametrize("importance", ["taylor", "activation"])
@pytest.mark.parametrize("structures", ["both", "heads", "ffn"])
def test_structures_are_really_gone(run_prune, tiny_teacher, tiny_comments, importance, structures):
    settings = {"heads_left": 1, "ratio": 0.4, "importance": importance, "structures": structures}
    pruned = run_prune(method="structured", epochs=0, **settings)
    before, after, notes = stored(tiny_teacher), stored(pruned), pruned.notes
    layers = [f"encoder.encoder.layer.{i}" for i in range(2)]
    heads = [after[f"{layer}.attention.self.query.weight"].shape[0] // 16 for layer in layers]
    neurons = [after[f"{layer}.intermediate.dense.weight"].shape[0] for layer in layers]
    assert notes["heads_left"] == (heads if structures != "ffn" else [])
    assert notes["neurons_left"] == (neurons if structures != "heads" else [])
    assert (heads == [2, 2]) == (structures == "ffn") and (neurons == [128, 128]) == (structures == "heads")
    head, neuron = 3 * 16 * 33 + 32 * 16, 33 + 32
    gone = sum(array.size for array in before.values()) - sum(array.size for array in after.values())
    assert gone == (4 - sum(heads)) * head + (256 - sum(neurons)) * neuron
    total = (4 * head if structures != "ffn" else 0) + (256 * neuron if structures != "heads" else 0)
    assert notes["structures_removed"] == pytest.approx(gone / total)
    assert 0.4 <= gone / total < 0.4 + (head if structures != "ffn" else neuron) / total
    texts = tiny_comments.validation.texts
    deployed, eager = load_classifier(pruned.path), EagerClassifier(pruned.path)
    np.testing.assert_allclose(deployed.predict_logits(texts, 7), eager.predict_logits(texts), atol=1e-4)
    assert (pruned.path / "model.onnx").stat().st_size < (tiny_teacher.path / "model.onnx").stat().st_size


@pytest.mark.parametrize("minimum", [1, 5])
def test_rare_tokens_are_gone_from_embedding_and_tokenizer(run_prune, tiny_teacher, tiny_comments, minimum):
    pruned = run_prune(method="vocabulary", epochs=0, minimum_count=minimum)
    full, small = (Tokenizer.from_file(str(a.path / "tokenizer.json")) for a in (tiny_teacher, pruned))
    full.enable_truncation(48)
    counts = np.zeros(full.get_vocab_size(), dtype=int)
    for text in tiny_comments.train.texts:
        np.add.at(counts, full.encode(text).ids, 1)
    names = full.get_vocab()
    expected = {t for t, i in names.items() if counts[i] >= minimum or len(t.removeprefix("##")) == 1 or t[0] == "["}
    assert set(small.get_vocab()) == expected and len(expected) < len(names)
    assert pruned.notes["tokens_left"] == len(expected)
    assert json.loads((pruned.path / "config.json").read_text())["vocab_size"] == len(expected)
    assert pruned.notes["tokens_removed"] == len(names) - len(expected)
    before, after = stored(tiny_teacher)[EMBEDDING], stored(pruned)[EMBEDDING]
    assert len(after) == len(expected)
    for token, row in small.get_vocab().items():
        np.testing.assert_array_equal(after[row], before[names[token]])

    deployed, teacher = load_classifier(pruned.path), load_classifier(tiny_teacher.path)
    unaffected = [t for t in tiny_comments.test.texts if set(full.encode(t).tokens) <= expected]
    assert len(unaffected) > 5
    np.testing.assert_allclose(deployed.predict_logits(unaffected), teacher.predict_logits(unaffected), atol=1e-5)
    assert np.isfinite(deployed.predict_logits(["漢字 qwerty", "", *tiny_comments.test.texts])).all()


@pytest.mark.parametrize("chain", ["vocabulary+structured+wanda", "wanda+structured+vocabulary", "structured+gradual"])
def test_a_chain_does_all_of_its_methods_and_holds_the_zeros(run_prune, tiny_teacher, tiny_comments, chain):
    settings = {"method": chain, "minimum_count": 5, "ratio": 0.3, "sparsity": 0.5, "frequency": 2, "scope": "all"}
    tuned = run_prune(**settings, epochs=2, learning_rate=2e-3)
    notes, after = tuned.notes, stored(tuned)
    matrices = [array for name, array in after.items() if array.ndim == 2 and not name.startswith("head")]
    assert len(notes["history"]) == 2 and len(notes["heads_left"]) == 2
    if "gradual" in chain:
        assert all((matrix == 0).sum() == round(0.5 * matrix.size) for matrix in matrices)
    elif chain.endswith("wanda"):
        assert all((zeros_in_rows(matrix) == round(0.5 * matrix.shape[1])).all() for matrix in matrices)
    else:  # what was cut out of a matrix with zeros may have had more of them, or fewer
        raw = stored(run_prune(**settings, epochs=0))
        assert raw.keys() == after.keys() and notes["scope_sparsity"] == pytest.approx(0.5, abs=0.1)
        for name, array in after.items():
            np.testing.assert_array_equal(array == 0, raw[name] == 0)
    assert not any(np.signbit(matrix[matrix == 0]).any() for matrix in matrices)
    if "vocabulary" in chain:
        assert len(after[EMBEDDING]) == notes["tokens_left"] < len(stored(tiny_teacher)[EMBEDDING])
    texts = tiny_comments.test.texts
    np.testing.assert_allclose(
        load_classifier(tuned.path).predict_logits(texts), EagerClassifier(tuned.path).predict_logits(texts), atol=1e-4
    )


def test_the_order_of_the_chain_counts(run_prune):
    settings = {"sparsity": 0.6, "ratio": 0.3, "epochs": 0}
    before, after = (stored(run_prune(method=m, **settings)) for m in ("wanda+structured", "structured+wanda"))
    assert any(before[n].shape != after[n].shape or (before[n] != after[n]).any() for n in before)


def test_the_same_seed_gives_the_same_bytes(tmp_path, tiny_data, tiny_teacher):
    config = PruneConfig(method="vocabulary+structured+gradual", frequency=2, learning_rate=1e-3)
    folders = [tmp_path / name for name in ("first", "second")]
    for folder in folders:
        folder.mkdir()
        prune(config, folder, tiny_data, tiny_teacher, tiny_teacher)
    names = {file.name for file in folders[0].iterdir()}
    assert {"model.safetensors", "tokenizer.json", "deploy.json"} < names
    assert all((folders[0] / name).read_bytes() == (folders[1] / name).read_bytes() for name in names)


def test_the_pruned_model_answers_with_the_students_tokenizer_and_labels(tiny_pruned, tiny_teacher, tiny_comments):
    assert (tiny_pruned.path / "tokenizer.json").read_bytes() == (tiny_teacher.path / "tokenizer.json").read_bytes()
    classifier = load_classifier(tiny_pruned.path)
    assert classifier.deployment == load_classifier(tiny_teacher.path).deployment
    logits = classifier.predict_logits(tiny_comments.test.texts)
    assert logits.shape == (len(tiny_comments.test.texts), 3) and np.isfinite(logits).all()


def test_gentle_pruning_disturbs_less_than_harsh_pruning(run_prune, tiny_teacher, tiny_comments):
    texts = tiny_comments.validation.texts
    own = load_classifier(tiny_teacher.path).predict_logits(texts)
    moved = [
        np.abs(load_classifier(run_prune(method="wanda", sparsity=s, epochs=0).path).predict_logits(texts) - own).mean()
        for s in (0.05, 0.5, 0.95)
    ]
    assert moved[0] < moved[1] < moved[2] and not math.isclose(moved[0], 0.0)


def test_important_structures_are_worth_more_than_the_least_important(run_prune, tiny_teacher, tiny_comments):
    """Taylor's choice moves the logits less than the removal of as many structures drawn at random."""
    pruned = run_prune(method="structured", structures="ffn", ratio=0.5, epochs=0)
    texts, model = tiny_comments.validation.texts, load_model(tiny_teacher.path).eval()
    own = load_classifier(tiny_teacher.path).predict_logits(texts)
    chosen = np.abs(load_classifier(pruned.path).predict_logits(texts) - own).mean()
    random, eager = torch.Generator().manual_seed(0), EagerClassifier(tiny_teacher.path)
    drawn = []
    for _ in range(5):
        eager.model = load_model(tiny_teacher.path).eval()
        for layer, count in zip(encoder_layers(eager.model), pruned.notes["neurons_left"], strict=True):
            gone = torch.randperm(128, generator=random)[count:]
            layer.output.dense.weight.data[:, gone] = 0.0
        drawn.append(np.abs(eager.predict_logits(texts) - own).mean())
    assert chosen < np.mean(drawn) and model is not eager.model


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "gradual", "epochs": 0}, r"prune\.epochs=0: gradual .* set it to 1 or more"),
        ({"method": "gradual", "initial_sparsity": 0.6, "sparsity": 0.5}, r"prune\.initial_sparsity=0\.6: .*lower it"),
        ({"method": "gradual", "begin_fraction": 0.8}, r"prune\.end_fraction=0\.7: .*begin_fraction=0\.8; raise it"),
        ({"method": "structured", "heads_left": 3}, r"prune\.heads_left=3: .* has 2 heads; ask for fewer"),
        (
            {"method": "structured", "heads_left": 2, "structures": "heads"},
            r"prune\.ratio=0\.3: at most 0 .*lower it",
        ),
    ],
)
def test_impossible_settings_are_value_errors(tmp_path, tiny_data, tiny_teacher, settings, message):
    with pytest.raises(ValueError, match=message):
        prune(PruneConfig(**settings), tmp_path, tiny_data, tiny_teacher, tiny_teacher)
    assert not (tmp_path / "model.onnx").exists()


def test_a_student_without_layers_is_a_value_error(tmp_path, tiny_data, tiny_teacher):
    student = Artifact("0" * 64, "distil", tmp_path, {})
    with pytest.raises(ValueError, match=r"prune\.method=wanda: the student has no encoder layers"):
        prune(PruneConfig(method="wanda"), tmp_path, tiny_data, student, tiny_teacher)
