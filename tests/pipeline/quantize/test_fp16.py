"""The FP16 file against torch with its weights rounded to FP16."""

import copy

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from pipeline.onnx_model import export_onnx
from pipeline.quantize.fp16 import write_fp16


@pytest.fixture(scope="module")
def half(encoder, tmp_path_factory):
    file = tmp_path_factory.mktemp("half") / "model.onnx"
    write_fp16(encoder.file, file)
    return file


def test_the_half_file_stores_half_the_bytes(encoder, half):
    weights = sum(parameter.numel() for parameter in encoder.model.parameters())
    sixteen = [tensor for tensor in onnx.load(half).graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT16]
    assert sum(numpy_helper.to_array(tensor).nbytes for tensor in sixteen) == 2 * weights
    saved = encoder.file.stat().st_size - half.stat().st_size
    assert saved == pytest.approx(2 * weights, rel=0.15), "but for the names of the nodes that widen"


def test_the_half_file_answers_as_torch_with_weights_rounded_to_fp16(encoder, half):
    found = encoder.onnx(half)
    np.testing.assert_allclose(found, encoder.torch(copy.deepcopy(encoder.model).half().float()), atol=1e-5)
    assert 0 < np.abs(found - encoder.logits).max() < 0.05


def test_weights_beyond_fp16_are_cut_to_its_largest_number(encoder, tmp_path):
    extreme = copy.deepcopy(encoder.model)
    with torch.no_grad():
        extreme.head.weight[0, 0] = 1e6
        extreme.head.weight[1, 0] = -1e6
    export_onnx(extreme, tmp_path / "model.onnx")
    write_fp16(tmp_path / "model.onnx", tmp_path / "half.onnx")
    with torch.no_grad():
        extreme.head.weight.clamp_(-65504.0, 65504.0)
    expected = encoder.torch(extreme.half().float())
    np.testing.assert_allclose(encoder.onnx(tmp_path / "half.onnx"), expected, rtol=1e-4, atol=1e-2)
