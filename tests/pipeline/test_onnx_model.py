"""ONNX files against torch: the same answers, and every weight counted."""

import copy

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper

from pipeline.config import TeacherConfig
from pipeline.models import build_scratch, load_model
from pipeline.onnx_model import export_onnx, store_half, stored_weights

VOCABULARY, LABELS, LONGEST = 3000, 3, 24


def randomised(pooling):
    """Every weight random, so that the exporter finds no two tensors equal."""
    torch.manual_seed(0)
    config = TeacherConfig(scratch_layers=2, scratch_width=32, scratch_heads=2, max_tokens=LONGEST, pooling=pooling)
    model = build_scratch(config, LABELS, VOCABULARY)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    return model.eval()


@pytest.fixture(scope="module")
def model():
    return randomised("mean")


@pytest.fixture(scope="module")
def full(model, tmp_path_factory):
    file = tmp_path_factory.mktemp("onnx") / "model.onnx"
    export_onnx(model, file)
    return file


@pytest.fixture(scope="module")
def half(full):
    file = full.with_name("half.onnx")
    store_half(full, file)
    return file


def batches():
    """Batches of 1 to 9 comments, 1 to 24 tokens, random padding on the right."""
    random = np.random.default_rng(1)
    for rows, longest in [(1, 1), (1, LONGEST), (2, 8), (9, 17), (5, LONGEST), (3, 2)]:
        lengths = random.integers(1, longest + 1, rows)
        lengths[0] = longest
        mask = (np.arange(longest) < lengths[:, None]).astype(np.int64)
        yield random.integers(1, VOCABULARY, (rows, longest)) * mask, mask


def answers(file):
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"input_ids": ids, "attention_mask": mask})[0] for ids, mask in batches()])


def torch_answers(model):
    with torch.inference_mode():
        return np.concatenate([model(torch.from_numpy(ids), torch.from_numpy(mask)).numpy() for ids, mask in batches()])


@pytest.mark.parametrize("pooling", ["mean", "cls", "max"])
def test_the_exported_model_answers_as_torch_for_any_batch_and_length(tmp_path, pooling):
    model = randomised(pooling)
    export_onnx(model, tmp_path / "model.onnx")
    expected = torch_answers(model)
    np.testing.assert_allclose(answers(tmp_path / "model.onnx"), expected, atol=1e-4)
    assert expected.std() > 0.1


def test_export_leaves_the_model_as_it_was(model, full):
    assert not model.training
    again = randomised("mean")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def parameter_count(model):
    return sum(parameter.numel() for parameter in model.parameters())


def test_the_half_file_stores_half_the_bytes(model, full, half):
    ratio = half.stat().st_size / full.stat().st_size
    assert 0.5 < ratio < 0.56
    sixteen = [tensor for tensor in onnx.load(half).graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT16]
    assert sum(numpy_helper.to_array(tensor).nbytes for tensor in sixteen) == 2 * parameter_count(model)
    saved = full.stat().st_size - half.stat().st_size
    assert saved == pytest.approx(2 * parameter_count(model), rel=0.05)


def test_the_half_file_answers_as_torch_with_weights_rounded_to_fp16(model, full, half):
    rounded = copy.deepcopy(model).half().float()
    found = answers(half)
    np.testing.assert_allclose(found, torch_answers(rounded), atol=1e-5)
    assert 0 < np.abs(found - answers(full)).max() < 0.05


def test_weights_beyond_fp16_are_cut_to_its_largest_number(model, tmp_path):
    extreme = copy.deepcopy(model)
    with torch.no_grad():
        extreme.head.weight[0, 0] = 1e6
        extreme.head.weight[1, 0] = -1e6
    export_onnx(extreme, tmp_path / "model.onnx")
    store_half(tmp_path / "model.onnx", tmp_path / "half.onnx")
    with torch.no_grad():
        extreme.head.weight.clamp_(-65504.0, 65504.0)
    expected = torch_answers(extreme.half().float())
    np.testing.assert_allclose(answers(tmp_path / "half.onnx"), expected, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("form", ["full", "half"])
def test_every_weight_is_counted_once(model, request, form):
    weights = list(stored_weights(request.getfixturevalue(form)))
    assert sum(weight.values.size for weight in weights) == parameter_count(model)
    linear = sum(weight.values.size for weight in weights if weight.in_linear_layer)
    assert linear == 2 * (4 * 32 * 32 + 2 * 32 * 128), "the encoder's matrices without embeddings and head"
    assert {weight.zero for weight in weights} == {0}


def test_the_stored_values_are_torchs(model, full):
    found = sorted(np.sort(weight.values.ravel()).tobytes() for weight in stored_weights(full))
    expected = sorted(np.sort(parameter.detach().numpy().ravel()).tobytes() for parameter in model.parameters())
    assert found == expected


def test_a_trained_model_is_counted_whole(tiny_teacher, tiny_half, tiny_int8):
    expected = parameter_count(load_model(tiny_teacher.path))
    for artifact in (tiny_teacher, tiny_half, tiny_int8):
        assert sum(weight.values.size for weight in stored_weights(artifact.path / "model.onnx")) == expected
