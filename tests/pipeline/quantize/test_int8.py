"""The int8 file against torch, its weights dequantized by hand and its activations rounded by torch's own."""

import copy

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from pipeline.onnx_model import stored_weights
from pipeline.quantize.calibration import quantizable
from pipeline.quantize.int8 import write_int8


def constants(file):
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(file).graph.initializer}


def dequantized(encoder, file):
    """A copy of the torch model with the weights that the file stores."""
    stored = constants(file)
    model = copy.deepcopy(encoder.model)
    original = constants(encoder.file)
    matrices = [module for module in model.modules() if isinstance(module, nn.Linear | nn.Embedding)]
    for module in matrices:
        weight = module.weight.detach().numpy()
        oriented = weight if isinstance(module, nn.Embedding) else weight.T
        (name,) = [n for n, array in original.items() if np.array_equal(array, oriented)] or ["head"]
        if name != "head":
            values = stored[f"{name}_int8"].astype(np.float32) * stored[f"{name}_scale"]
            module.weight.data = torch.from_numpy(values if isinstance(module, nn.Embedding) else values.T.copy())
    return model


def rounding_inputs(model, bounds):
    """Let each linear layer of the encoder round its input to uint8, `bounds(name, input)` being the range."""
    for name, layer in quantizable(model).items():

        def hook(_, inputs, name=name):
            low, high = bounds(name, inputs[0])
            scale = float(np.float32((max(high, 0.0) - min(low, 0.0)) / 255))
            zero = round(-min(low, 0.0) / scale)
            return torch.fake_quantize_per_tensor_affine(inputs[0], scale, zero, 0, 255)

        layer.register_forward_pre_hook(hook)
    return model


@pytest.fixture(scope="module")
def ranges(encoder):
    """A wide range for every layer, each its own."""
    return {name: (-4.0 - 0.01 * i, 4.5 + 0.02 * i) for i, name in enumerate(quantizable(encoder.model))}


@pytest.mark.parametrize("per_channel", [False, True])
def test_every_matrix_but_the_heads_is_stored_within_half_a_scale(encoder, tmp_path, per_channel):
    write_int8(encoder.file, tmp_path / "model.onnx", per_channel)
    original, stored = constants(encoder.file), constants(tmp_path / "model.onnx")
    names = {name for name, array in original.items() if array.ndim == 2 and not name.startswith("head.")}
    assert {name.removesuffix("_int8") for name in stored if name.endswith("_int8")} == names and len(names) == 15
    for name in names:
        values, scale = stored[f"{name}_int8"], stored[f"{name}_scale"]
        assert values.dtype == np.int8 and scale.size == (values.shape[1] if per_channel else 1)
        error = np.abs(values.astype(np.float64) * scale - original[name])
        assert (error <= 0.5 * scale * (1 + 1e-5)).all(), name
    assert not names & set(stored), "nothing is kept in FP32 beside it"


@pytest.mark.parametrize("per_channel", [False, True])
def test_static_computes_with_the_stored_weights_and_the_given_ranges(encoder, tmp_path, ranges, per_channel):
    write_int8(encoder.file, tmp_path / "model.onnx", per_channel, ranges)
    expected = encoder.torch(rounding_inputs(dequantized(encoder, tmp_path / "model.onnx"), lambda n, _: ranges[n]))
    difference = np.abs(encoder.onnx(tmp_path / "model.onnx") - expected)
    # Both round the same numbers; where one lies on the edge of two steps, they may choose differently.
    assert np.median(difference) < 1e-6 and difference.max() < 0.01
    assert np.abs(expected - encoder.logits).max() > 10 * difference.max(), "the rounding itself is seen"


@pytest.mark.parametrize("per_channel", [False, True])
def test_dynamic_scales_each_batch_by_its_own_extremes(encoder, tmp_path, per_channel):
    write_int8(encoder.file, tmp_path / "model.onnx", per_channel)
    model = dequantized(encoder, tmp_path / "model.onnx")
    rounding_inputs(model, lambda _, inputs: (float(inputs.min()), float(inputs.max())))
    difference = np.abs(encoder.onnx(tmp_path / "model.onnx") - encoder.torch(model))
    assert np.median(difference) < 1e-6 and difference.max() < 0.01


def test_a_scale_for_each_column_is_the_more_exact(encoder, tmp_path):
    errors = []
    for per_channel in (False, True):
        file = tmp_path / f"{per_channel}.onnx"
        write_int8(encoder.file, file, per_channel)
        errors.append(np.abs(encoder.torch(dequantized(encoder, file)) - encoder.logits).mean())
    assert errors[1] < 0.9 * errors[0]


def test_static_rounds_the_input_of_query_key_and_value_once(encoder, tmp_path):
    alike = dict.fromkeys(quantizable(encoder.model), (-4.0, 4.0))
    write_int8(encoder.file, tmp_path / "model.onnx", False, alike)
    kinds = [node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node]
    assert kinds.count("MatMulIntegerToFloat") == 2 * 6 and kinds.count("QuantizeLinear") == 2 * 4
    assert kinds.count("MatMul") == 0


def test_a_layer_without_a_range_is_an_error(encoder, tmp_path, ranges):
    missing = dict(list(ranges.items())[1:])
    with pytest.raises(KeyError, match="query"):
        write_int8(encoder.file, tmp_path / "model.onnx", False, missing)


def test_pruned_weights_stay_zero(encoder, tmp_path):
    from pipeline.onnx_model import export_onnx

    model = copy.deepcopy(encoder.model)
    with torch.no_grad():
        for layer in quantizable(model).values():
            layer.weight[:, ::2] = 0.0
    export_onnx(model, tmp_path / "full.onnx")
    write_int8(tmp_path / "full.onnx", tmp_path / "model.onnx", True)
    inside = [weight.values for weight in stored_weights(tmp_path / "model.onnx") if weight.in_linear_layer]
    assert len(inside) == 12
    assert all((values[::2] == 0).all() and (values[1::2] != 0).mean() > 0.9 for values in inside)
