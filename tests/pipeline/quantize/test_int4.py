"""The int4 file against a float model with its weights, unpacked and dequantized here byte by byte."""

import copy

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from pipeline.quantize.calibration import quantizable
from pipeline.quantize.int4 import check_block_size, write_int4
from pipeline.quantize.int8 import write_int8


def unpacked(file):
    """Every 4-bit matrix of a file as floats [rows, columns], by the name of its FP32 original."""
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(file).graph.initializer}
    matrices = {}
    for name in [name for name in stored if name.endswith("_int4")]:
        base = name.removesuffix("_int4")
        packed, scale, zeros = stored[name], stored[f"{base}_scale"], stored[f"{base}_zero_point"]
        packed = packed.reshape(len(packed), -1)
        size = 2 * packed.shape[1] // scale.shape[1]
        values = np.empty((len(packed), 2 * packed.shape[1]), dtype=np.float32)
        for row, column in np.ndindex(*values.shape):
            block, byte = column // size, int(packed[row, column // 2])
            number, zero = (byte >> 4 if column % 2 else byte & 15), int(zeros[row, block // 2])
            zero = zero >> 4 if block % 2 else zero & 15
            values[row, column] = (number - zero) * scale[row, block]
        matrices[base] = values
    return matrices


def in_fp32(source, target):
    """The same file, its kernels told not to round activations."""
    model = onnx.load(source)
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "accuracy_level":
                attribute.i = 1
    onnx.save(model, target)
    return target


@pytest.mark.parametrize("block_size", [16, 32])
def test_it_computes_with_its_dequantized_weights(encoder, tmp_path, block_size):
    file = tmp_path / "model.onnx"
    write_int4(encoder.file, file, block_size)
    matrices = unpacked(file)
    original = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(encoder.file).graph.initializer}
    assert set(matrices) == {n for n, array in original.items() if array.ndim == 2 and not n.startswith("head.")}
    model = copy.deepcopy(encoder.model)
    by_bytes = {parameter.detach().numpy().tobytes(): parameter for parameter in model.parameters()}
    for name, values in matrices.items():
        weight = original[name] if name.startswith("encoder.embeddings") else original[name].T
        blocks = (values - weight).reshape(len(values), -1, block_size)
        whole = weight.reshape(blocks.shape)
        step = (whole.max(2).clip(min=0) - whole.min(2).clip(max=0)) / 15
        assert (np.abs(blocks) <= 0.5 * step[:, :, None] + 1e-6).all(), name
        by_bytes[np.ascontiguousarray(weight).tobytes()].data = torch.from_numpy(values)
    expected = encoder.torch(model)
    np.testing.assert_allclose(encoder.onnx(in_fp32(file, tmp_path / "exact.onnx")), expected, atol=1e-5)
    # As deployed, the kernel may round activations to int8: a small part of what 4 bits cost anyway.
    rounding = np.abs(encoder.onnx(file) - expected)
    assert rounding.max() < 0.25 * np.abs(expected - encoder.logits).max()


def test_a_comments_answer_does_not_depend_on_its_batch(encoder, tmp_path):
    import onnxruntime

    write_int4(encoder.file, tmp_path / "model.onnx", 32)
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    for ids, mask in encoder.batches():
        together = session.run(None, {"input_ids": ids, "attention_mask": mask})[0]
        for row, length in enumerate(mask.sum(1)):
            part = slice(row, row + 1), slice(None, length)
            alone = session.run(None, {"input_ids": ids[part], "attention_mask": mask[part]})[0]
            np.testing.assert_allclose(alone[0], together[row], atol=1e-4)


def test_it_is_really_smaller_than_int8(tmp_path):
    from pipeline.config import TeacherConfig
    from pipeline.models import build_scratch
    from pipeline.onnx_model import export_onnx

    config = TeacherConfig(scratch_layers=2, scratch_width=128, scratch_heads=2, max_tokens=24)
    export_onnx(build_scratch(config, 3, 2000), tmp_path / "full.onnx")
    sizes = []
    for block_size in (16, 32, 128):
        write_int4(tmp_path / "full.onnx", tmp_path / "int4.onnx", block_size)
        sizes.append((tmp_path / "int4.onnx").stat().st_size)
    write_int8(tmp_path / "full.onnx", tmp_path / "int8.onnx", False)
    assert sizes[0] > sizes[1] > sizes[2]
    assert sizes[1] < 0.70 * (tmp_path / "int8.onnx").stat().st_size
    assert sizes[2] < 0.60 * (tmp_path / "int8.onnx").stat().st_size


@pytest.mark.parametrize("block_size", [4, 64, 24, 512])
def test_a_block_size_that_does_not_fit_is_refused_with_the_remedy(encoder, tmp_path, block_size):
    with pytest.raises(ValueError, match=rf"quantize.block_size={block_size}: .*32, 128.*use 16 or 32"):
        write_int4(encoder.file, tmp_path / "model.onnx", block_size)
    assert not (tmp_path / "model.onnx").exists()


def test_a_model_that_no_block_fits_is_told_so():
    check_block_size(64, [128, 192])
    with pytest.raises(ValueError, match="use int8_dynamic"):
        check_block_size(16, [24, 96])


def test_the_names_of_the_layers_are_torchs(encoder):
    from pipeline.onnx_graph import OnnxGraph
    from pipeline.quantize.layers import linear_layers

    layers = {layer.name: layer for layer in linear_layers(OnnxGraph.load(encoder.file))}
    graph = OnnxGraph.load(encoder.file)
    assert set(layers) == set(quantizable(encoder.model))
    for name, module in quantizable(encoder.model).items():
        assert (graph.array(layers[name].weight) == module.weight.detach().numpy().T).all()
        assert (graph.array(layers[name].bias) == module.bias.detach().numpy()).all()
