"""Masks against loops and NumPy, norms against unpadded runs, and the real stage on the tiny teacher."""

import math

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper
from safetensors.numpy import load_file

from pipeline.config import PruneConfig, TeacherConfig
from pipeline.models import build_scratch, load_model
from pipeline.prune import activation_norms, magnitude_mask, prunable, prune, wanda_mask
from pipeline.runtime import load_classifier
from pipeline.tokens import Tokens, load_tokens

MATRICES = st.tuples(st.integers(1, 9), st.integers(1, 12), st.floats(0.0, 0.95), st.integers(0, 2**32 - 1))


def weights_of(rows, columns, seed):
    """Coarse values, so that ties are frequent."""
    return np.round(np.random.default_rng(seed).normal(size=(rows, columns)), 1).astype(np.float32)


@given(MATRICES)
def test_magnitude_mask_drops_numpys_smallest(case):
    rows, columns, sparsity, seed = case
    weight = weights_of(rows, columns, seed)
    mask = magnitude_mask(torch.from_numpy(weight), sparsity).numpy()
    expected = np.ones(weight.size)
    expected[np.argsort(np.abs(weight).ravel(), kind="stable")[: round(sparsity * weight.size)]] = 0
    np.testing.assert_array_equal(mask, expected.reshape(weight.shape))
    assert (mask == 0).sum() == round(sparsity * weight.size)


@given(MATRICES)
def test_wanda_mask_is_a_double_loop_over_rows(case):
    rows, columns, sparsity, seed = case
    weight = weights_of(rows, columns, seed)
    norms = np.round(np.random.default_rng(seed + 1).random(columns) * 3, 1).astype(np.float32)
    mask = wanda_mask(torch.from_numpy(weight), torch.from_numpy(norms), sparsity).numpy()
    for row in range(rows):
        scores = [float(np.abs(weight[row, column]) * norms[column]) for column in range(columns)]
        dropped = sorted(range(columns), key=lambda column, scores=scores: scores[column])
        expected = [1.0] * columns
        for column in dropped[: round(sparsity * columns)]:
            expected[column] = 0.0
        assert mask[row].tolist() == expected


def test_wanda_with_equal_norms_is_magnitude_row_by_row():
    weight = torch.randn(6, 20, generator=torch.Generator().manual_seed(0))
    mask = wanda_mask(weight, torch.ones(20), 0.3)
    assert torch.equal(mask, torch.cat([magnitude_mask(row[None], 0.3) for row in weight]))


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    config = TeacherConfig(scratch_layers=2, scratch_width=16, scratch_heads=2, max_tokens=40)
    return build_scratch(config, 2, 60).eval()


@pytest.fixture(scope="module")
def ragged():
    """80 comments of 1 to 40 tokens: two batches, much padding."""
    random = np.random.default_rng(3)
    comments = [random.integers(1, 60, length) for length in random.integers(1, 41, 80)]
    return Tokens(np.concatenate(comments).astype(np.int32), np.cumsum([0, *map(len, comments)]))


def squares_seen(model, layers, batches):
    """Sum of squares of each layer's inputs over (ids, mask) batches, every position counted, in double precision."""
    seen = {name: np.zeros(layer.in_features) for name, layer in layers.items()}

    def watch(name):
        def hook(_module, inputs, _output):
            seen[name] += inputs[0].double().square().sum((0, 1)).numpy()

        return layers[name].register_forward_hook(hook)

    handles = [watch(name) for name in layers]
    with torch.inference_mode():
        for ids, mask in batches:
            model(ids, mask)
    for handle in handles:
        handle.remove()
    return seen


def test_activation_norms_are_those_of_comments_run_one_by_one_without_padding(encoder, ragged):
    layers = prunable(encoder)
    rows = np.array([i for i in range(80) if i % 7])
    norms = activation_norms(encoder, layers, ragged, rows)
    alone = [ragged.pad(np.array([row]), 0) for row in rows]
    expected = squares_seen(encoder, layers, [(torch.from_numpy(ids), torch.from_numpy(mask)) for ids, mask in alone])
    assert len(norms) == 12
    for name, total in expected.items():
        np.testing.assert_allclose(norms[name].numpy(), np.sqrt(total), rtol=1e-3, err_msg=name)
    padded = squares_seen(encoder, layers, [tuple(map(torch.from_numpy, ragged.pad(rows, 0)))])
    assert all(np.sqrt(total).sum() > 1.1 * norms[name].sum().item() for name, total in padded.items()), (
        "with padding the norms would be others, so that the comparison above tells"
    )


def test_activation_norms_leave_no_hook_behind(encoder, ragged):
    layers = prunable(encoder)
    activation_norms(encoder, layers, ragged, np.arange(5))
    assert all(not layer._forward_pre_hooks for layer in layers.values())
    with pytest.raises(IndexError):
        activation_norms(encoder, layers, ragged, np.array([999]))
    assert all(not layer._forward_pre_hooks for layer in layers.values())


def test_prunable_layers_are_the_linear_ones_inside_the_transformer_layers(encoder):
    layers = prunable(encoder)
    # Per layer: query, key, value, attention output (16 x 16 each), and the two halves of the feed-forward network.
    assert sum(layer.weight.numel() for layer in layers.values()) == 2 * (4 * 16 * 16 + 2 * 16 * 64)
    assert encoder.head not in list(layers.values())


def stored(artifact):
    return load_file(artifact.path / "model.safetensors")


def target_names(artifact):
    """Names of the prunable matrices in the file: the two-dimensional ones inside transformer layers."""
    return {name for name, array in stored(artifact).items() if array.ndim == 2 and ".layer." in name}


@pytest.fixture(scope="module")
def run_prune(tiny_store, tiny_data, tiny_teacher):
    def run(**settings):
        return tiny_store.run(prune, PruneConfig(**settings), tiny_data, tiny_teacher, tiny_teacher)

    return run


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
    zeros = sum((after[name] == 0).sum() for name in targets)
    assert pruned.notes["prunable_sparsity"] == pytest.approx(zeros / sum(after[name].size for name in targets))
    assert pruned.notes["history"] == []


def test_wanda_calibrates_on_the_train_comments(run_prune, tiny_teacher):
    everything = run_prune(method="wanda", sparsity=0.5, epochs=0, calibration_rows=100_000)
    model, tokens = load_model(tiny_teacher.path).eval(), load_tokens(tiny_teacher.path, "train")
    layers = prunable(model)
    alone = [tokens.pad(np.array([row]), 0) for row in range(len(tokens))]
    seen = squares_seen(model, layers, [(torch.from_numpy(ids), torch.from_numpy(mask)) for ids, mask in alone])
    after = stored(everything)
    for name, layer in layers.items():
        scores = np.abs(layer.weight.detach().numpy()) * np.sqrt(seen[name])
        zero = after[f"encoder.encoder.layer.{name}.weight"] == 0
        for row, dropped in zip(scores, zero, strict=True):
            assert row[dropped].max() <= row[~dropped].min() * (1 + 1e-4)


@pytest.mark.parametrize("method", ["magnitude", "wanda"])
def test_zeros_hold_through_fine_tuning(run_prune, tiny_teacher, method):
    before = stored(run_prune(method=method, sparsity=0.6, epochs=0))
    tuned = run_prune(method=method, sparsity=0.6, epochs=2, learning_rate=1e-3)
    after = stored(tuned)
    assert [entry["epoch"] for entry in tuned.notes["history"]] == [1, 2]
    for name in target_names(tiny_teacher):
        np.testing.assert_array_equal(after[name] == 0, before[name] == 0)
        assert (after[name] != before[name]).mean() > 0.35, "what is left is trained"
        assert not np.signbit(after[name][after[name] == 0]).any(), "a negative zero costs a bit when compressed"
    embeddings = "encoder.embeddings.word_embeddings.weight"
    assert (after["head.weight"] != 0).all() and (after[embeddings] == 0).sum() == (before[embeddings] == 0).sum()


def test_the_deployed_file_has_the_same_zeros(tiny_pruned):
    matrices = [
        numpy_helper.to_array(tensor)
        for tensor in onnx.load(tiny_pruned.path / "model.onnx").graph.initializer
        if tensor.name.startswith("onnx::MatMul")
    ]
    assert len(matrices) == 12
    for matrix in matrices:  # transposed: [inputs, outputs]
        assert ((matrix == 0).sum(axis=0) == matrix.shape[0] // 2).all()


def test_a_seed_draws_the_calibration_comments(run_prune):
    settings = {"method": "wanda", "sparsity": 0.5, "epochs": 0, "calibration_rows": 8}
    first, second = stored(run_prune(**settings, seed=0)), stored(run_prune(**settings, seed=1))
    assert any((first[name] != second[name]).any() for name in first)


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
