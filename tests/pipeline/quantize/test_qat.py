"""Fake quantization against torch's own, and against the file that is deployed in the end."""

import copy

import numpy as np
import pytest
import torch

from pipeline.objective import Examples, Recipe
from pipeline.onnx_model import export_onnx, stored_weights
from pipeline.quantize.calibration import activation_ranges, quantizable
from pipeline.quantize.int8 import write_int8
from pipeline.quantize.qat import (
    MOMENTUM,
    FakeInt8Weight,
    FakeUint8Input,
    fake_quantization,
    fake_quantize,
    holding_zeros,
)
from pipeline.quantize.weights import int8_weights, uint8_range
from pipeline.runtime import load_classifier
from pipeline.tokens import Tokens
from pipeline.training import seeded, train, validate


@pytest.fixture(scope="module")
def examples():
    """200 comments whose labels depend on which tokens they have."""
    random = np.random.default_rng(5)
    lengths = random.integers(1, 25, 200)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    ids = random.integers(1, 300, offsets[-1]).astype(np.int32)
    share = np.array([[(ids[a:b] % 3 == k).mean() for k in range(3)] for a, b in zip(offsets[:-1], offsets[1:])])  # noqa: B905
    return Examples(Tokens(ids, offsets), (share > 0.4).astype(np.float32))


@pytest.mark.parametrize(("smallest", "largest", "zero"), [(-127, 127, 0), (0, 255, 77)])
def test_fake_quantization_is_torchs_values_and_gradients(smallest, largest, zero):
    torch.manual_seed(0)
    values = (3 * torch.randn(2000)).requires_grad_()
    reference = values.detach().clone().requires_grad_()
    weights = torch.randn(2000)
    ours = fake_quantize(values, torch.tensor(0.025), torch.tensor(float(zero)), smallest, largest)
    theirs = torch.fake_quantize_per_tensor_affine(reference, 0.025, zero, smallest, largest)
    assert torch.allclose(ours, theirs, atol=1e-6)
    (ours * weights).sum().backward()
    (theirs * weights).sum().backward()
    assert torch.allclose(values.grad, reference.grad, atol=1e-6)
    cut = values.grad == 0
    assert 0.05 < cut.float().mean() < 0.9, "some are cut off, most are not"


@pytest.mark.parametrize("per_channel", [False, True])
def test_fake_weights_are_those_that_the_file_will_store(per_channel):
    weight = torch.randn(16, 32, generator=torch.Generator().manual_seed(1))
    found = FakeInt8Weight(1 if per_channel else None)(weight).numpy().T
    stored, scale = int8_weights(weight.numpy().T, per_channel)
    assert (found == stored * scale).all()


@pytest.mark.parametrize("start", [(-1.3, 2.7), (0.2, 0.9), (-3.0, -1.0), (0.0, 0.0)])
def test_fake_inputs_have_the_files_scale_and_zero_point(start):
    layer = FakeUint8Input(start, lambda inputs: inputs).eval()
    scale, zero = uint8_range(*start)
    values = torch.linspace(-4, 4, 1001)
    expected = (np.rint(values.numpy() / scale) + int(zero)).clip(0, 255) - int(zero)
    assert (layer(values).numpy() == expected.astype(np.float32) * scale).all()
    assert (layer.low.item(), layer.high.item()) == start, "nothing moves outside training"


def test_ranges_follow_the_real_tokens_with_momentum():
    mask = torch.tensor([[True, True, False]])
    layer = FakeUint8Input((-1.0, 1.0), lambda inputs: inputs[mask])
    layer(torch.tensor([[[-2.0, 0.5], [0.0, 3.0], [-100.0, 100.0]]]))
    assert layer.low.item() == pytest.approx((1 - MOMENTUM) * -1.0 + MOMENTUM * -2.0)
    assert layer.high.item() == pytest.approx((1 - MOMENTUM) * 1.0 + MOMENTUM * 3.0)


@pytest.mark.parametrize("per_channel", [False, True])
def test_the_deployed_model_answers_as_the_trained_one(encoder, examples, tmp_path, per_channel):
    model = copy.deepcopy(encoder.model)
    ranges = activation_ranges(model, examples.tokens)
    recipe = Recipe(epochs=2, learning_rate=2e-3, batch_size=16, seed=0)
    with seeded(0), fake_quantization(model, ranges, per_channel) as trained_ranges:
        history = train(model, examples, examples, recipe)
        expected, ranges = encoder.torch(model), trained_ranges()
    export_onnx(model, tmp_path / "full.onnx")
    write_int8(tmp_path / "full.onnx", tmp_path / "model.onnx", per_channel, ranges)
    assert history[-1]["total_loss"] < history[0]["total_loss"]
    difference = np.abs(encoder.onnx(tmp_path / "model.onnx") - expected)
    # The integers are the same, unless a number lies on the edge of two steps to the last bits of a float.
    assert np.median(difference) < 2e-6 and difference.max() < 0.01
    rounding = np.abs(encoder.torch(model) - expected)
    assert rounding.mean() > 20 * difference.mean(), "without the rounding the model answers otherwise"


def test_the_ranges_of_the_best_epoch_come_back_with_its_weights(encoder, examples):
    model = copy.deepcopy(encoder.model)
    ranges = activation_ranges(model, examples.tokens)
    with seeded(0), fake_quantization(model, ranges, False) as trained_ranges:
        history = train(model, examples, examples, Recipe(epochs=5, learning_rate=3e-2, batch_size=16, seed=0))
        best = max(history, key=lambda entry: entry["val_macro_f1"])
        assert best is not history[-1], "with this rate training goes wrong in the end"
        assert validate(model, examples)["val_loss"] == pytest.approx(best["val_loss"], rel=1e-6)
        assert trained_ranges() != ranges


def test_the_context_leaves_plain_modules_behind(encoder, examples):
    model = copy.deepcopy(encoder.model)
    ranges = activation_ranges(model, examples.tokens)
    with fake_quantization(model, ranges, True):
        assert np.abs(encoder.torch(model) - encoder.logits).max() > 1e-4
    assert (encoder.torch(model) == encoder.logits).all()
    assert set(model.state_dict()) == set(encoder.model.state_dict())
    assert [type(module) for module in model.modules()] == [type(module) for module in encoder.model.modules()]
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_pruned_weights_stay_zero_in_training(encoder, examples):
    model = copy.deepcopy(encoder.model)
    pruned = [module for module in model.encoder.modules() if isinstance(module, torch.nn.Linear | torch.nn.Embedding)]
    assert len(pruned) == len(quantizable(model)) + 3, "words, positions and token types are trained too"
    with torch.no_grad():
        for module in pruned:
            module.weight[:, ::2] = 0.0
    before = [module.weight.detach().clone() for module in pruned]
    with fake_quantization(model, activation_ranges(model, examples.tokens), False):
        recipe = Recipe(epochs=1, learning_rate=2e-3, batch_size=16, seed=0)
        train(model, examples, examples, recipe, after_step=holding_zeros(model))
    for module, old in zip(pruned, before, strict=True):
        assert (module.weight[:, ::2] == 0).all()
        if isinstance(module, torch.nn.Linear):
            assert (module.weight[:, 1::2] != old[:, 1::2]).float().mean() > 0.9


def test_zeros_are_held_where_training_has_moved_the_weights_to(encoder, examples):
    """As to a GPU, which gives each parameter new storage; here another precision does."""
    model = copy.deepcopy(encoder.model)
    layer = next(iter(quantizable(model).values()))
    with torch.no_grad():
        layer.weight[:, ::2] = 0.0
    with fake_quantization(model, activation_ranges(model, examples.tokens), False):
        hold = holding_zeros(model)
        model.to(torch.float64)
        with torch.no_grad():
            layer.parametrizations.weight.original.fill_(1.0)
        hold(1, 1)
    assert (layer.weight[:, ::2] == 0).all() and (layer.weight[:, 1::2] == 1).all()


def test_the_stage_keeps_sparsity_and_learns(quantized, tiny_pruned, tiny_comments):
    artifact = quantized(method="int8_qat", learning_rate=1e-3, epochs=2, per_channel=True)
    losses = [entry["total_loss"] for entry in artifact.notes["history"]]
    assert len(losses) == 2 and losses[1] < losses[0]
    assert artifact.notes["history"][0]["soft_loss"] > 0, "the teacher teaches"

    def zeros(folder):
        inside = [weight.values for weight in stored_weights(folder / "model.onnx") if weight.in_linear_layer]
        return np.mean(np.concatenate([values.ravel() for values in inside]) == 0)

    assert zeros(artifact.path) >= zeros(tiny_pruned.path) == 0.5
    texts = tiny_comments.validation.texts
    before, after = (load_classifier(folder).predict_logits(texts) for folder in (tiny_pruned.path, artifact.path))
    assert np.corrcoef(before.ravel(), after.ravel())[0, 1] > 0.9, "trained on, but the same task"
    assert np.abs(before - after).mean() > 0.01
