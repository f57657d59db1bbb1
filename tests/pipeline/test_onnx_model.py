"""ONNX files against torch: the same answers, and every weight counted."""

import copy
from collections import defaultdict

import numpy as np
import onnxruntime
import pytest
import torch

from pipeline.config import TeacherConfig
from pipeline.models import build_scratch, load_model
from pipeline.onnx_model import export_onnx, stored_weights, unpack_int4
from pipeline.quantize.fp16 import write_fp16
from pipeline.quantize.int4 import write_int4
from pipeline.quantize.int8 import write_int8

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
def written(full):
    """The same model in a format: `written("int4")`."""

    def write(form):
        file = full.with_name(f"{form}.onnx")
        if form == "full":
            return full
        if form == "half":
            write_fp16(full, file)
        elif form == "int4":
            write_int4(full, file, 32)
        else:
            ranges = defaultdict(lambda: (-5.0, 5.0)) if "static" in form else None
            write_int8(full, file, "columns" in form, ranges)
        return file

    return write


FORMS = ["full", "half", "int8", "int8_columns", "int8_static", "int8_static_columns", "int4"]


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


@pytest.mark.parametrize("form", FORMS)
def test_every_weight_is_counted_once(model, written, form):
    weights = list(stored_weights(written(form)))
    assert sum(weight.values.size for weight in weights) == parameter_count(model)
    linear = sum(weight.values.size for weight in weights if weight.in_linear_layer)
    assert linear == 2 * (4 * 32 * 32 + 2 * 32 * 128), "the encoder's matrices without embeddings and head"


@pytest.mark.parametrize("form", FORMS)
def test_a_stored_zero_means_zero(tmp_path, model, form):
    """Every second input of every layer is pruned: these weights, and next to no others, are stored as zero."""
    pruned = copy.deepcopy(model)
    layers = [module for module in pruned.encoder.modules() if isinstance(module, torch.nn.Linear)]
    with torch.no_grad():
        for layer in layers:
            layer.weight[:, ::2] = 0.0
    export_onnx(pruned, tmp_path / "model.onnx")
    source, target = tmp_path / "model.onnx", tmp_path / f"{form}.onnx"
    if form == "half":
        write_fp16(source, target)
    elif form == "int4":
        write_int4(source, target, 32)
    elif form != "full":
        write_int8(source, target, "columns" in form, defaultdict(lambda: (-5.0, 5.0)) if "static" in form else None)
    inside = [w.values for w in stored_weights(source if form == "full" else target) if w.in_linear_layer]
    assert len(inside) == len(layers) == 12
    for values in inside:
        inputs = values.T if form == "int4" else values  # int4 is stored by outputs
        assert (inputs[::2] == 0).all() and (inputs[1::2] != 0).mean() > (0.6 if form == "int4" else 0.9)


def test_four_bit_numbers_are_unpacked_block_by_block():
    packed = np.array([[0x21, 0x43, 0x65], [0xF0, 0x0F, 0x88]], dtype=np.uint8)
    zeros = np.array([[0x21, 0xF3], [0x80, 0x08]], dtype=np.uint8)  # the fourth is there to fill the byte
    expected = [[1 - 1, 2 - 1, 3 - 2, 4 - 2, 5 - 3, 6 - 3], [0, 15, 15 - 8, 0 - 8, 8 - 8, 8 - 8]]
    assert unpack_int4(packed, zeros, 3).tolist() == expected
    assert unpack_int4(packed.reshape(2, 3, 1), zeros, 3).tolist() == expected


def test_the_stored_values_are_torchs(model, full):
    found = sorted(np.sort(weight.values.ravel()).tobytes() for weight in stored_weights(full))
    expected = sorted(np.sort(parameter.detach().numpy().ravel()).tobytes() for parameter in model.parameters())
    assert found == expected


def test_a_trained_model_is_counted_whole(tiny_teacher, tiny_half, tiny_int8):
    expected = parameter_count(load_model(tiny_teacher.path))
    for artifact in (tiny_teacher, tiny_half, tiny_int8):
        assert sum(weight.values.size for weight in stored_weights(artifact.path / "model.onnx")) == expected
