"""Sizes against the file system, zstandard's own compressor, and counting by hand."""

import io
import json

import numpy as np
import onnx
import pytest
import zstandard
from onnx import numpy_helper
from safetensors.numpy import load_file, save_file

from evaluation.size import compressed_bytes, measure_size
from pipeline.ngram import quantize_ngram
from pipeline.runtime import Deployment

FORMS = ["tiny_teacher", "tiny_pruned", "tiny_half", "tiny_int8", "tiny_classical"]


def torch_weights(artifact):
    return load_file(artifact.path / "model.safetensors")


@pytest.mark.parametrize("fixture", FORMS)
def test_bytes_are_those_of_the_deployed_weight_files(request, fixture):
    folder = request.getfixturevalue(fixture).path
    names = ["coefficients.npz", "vocabulary.json"] if fixture == "tiny_classical" else ["model.onnx"]
    size = measure_size(folder)
    assert size["model_size_mb"] == pytest.approx(sum((folder / name).stat().st_size for name in names) / 2**20)
    whole = sum(len(zstandard.ZstdCompressor(level=3).compress((folder / name).read_bytes())) for name in names)
    assert size["download_size_mb"] == pytest.approx(whole / 2**20, rel=0.01)


@pytest.mark.parametrize("kind", ["zeros", "random", "text", "empty"])
def test_compressed_bytes_are_those_of_a_stream_that_comes_back_whole(tmp_path, kind):
    random = np.random.default_rng(0)
    content = {
        "zeros": bytes(3_000_000),
        "random": random.bytes(2_500_000),  # more than two of the blocks that are read at once
        "text": "নদী পাখি আকাশ ".encode() * 20_000,
        "empty": b"",
    }[kind]
    file = tmp_path / "file"
    file.write_bytes(content)
    stream = io.BytesIO()
    with zstandard.ZstdCompressor(level=3).stream_writer(stream, size=len(content), closefd=False) as writer:
        writer.write(content)
    assert zstandard.ZstdDecompressor().decompress(stream.getvalue()) == content
    assert compressed_bytes(file) == pytest.approx(len(stream.getvalue()), rel=0.001, abs=16)
    if kind == "random":
        assert compressed_bytes(file) >= len(content)


@pytest.mark.parametrize("fixture", ["tiny_teacher", "tiny_pruned"])
def test_counts_and_sparsity_by_hand(request, fixture):
    artifact = request.getfixturevalue(fixture)
    weights, size = torch_weights(artifact), measure_size(artifact.path)
    numbers = np.concatenate([array.ravel() for array in weights.values()])
    inside = np.concatenate([a.ravel() for name, a in weights.items() if a.ndim == 2 and ".layer." in name])
    assert size["num_parameters"] == size["num_trainable_params"] == numbers.size
    assert size["sparsity_percent"] == pytest.approx(100 * np.mean(numbers == 0))
    assert size["prunable_sparsity_percent"] == pytest.approx(100 * np.mean(inside == 0))
    if fixture == "tiny_pruned":
        assert size["prunable_sparsity_percent"] == 50.0
        assert 0 < size["sparsity_percent"] < 50.0


@pytest.mark.parametrize("fixture", ["tiny_half", "tiny_int8"])
def test_a_quantized_model_has_as_many_parameters_as_before(request, tiny_pruned, fixture):
    size, before = measure_size(request.getfixturevalue(fixture).path), measure_size(tiny_pruned.path)
    embeddings, attention, feed_forward = (400 + 48 + 2) * 32, 4 * (32 * 32 + 32), 2 * 32 * 128 + 128 + 32
    norms, head = 2 * 32, 32 * 3 + 3
    by_hand = embeddings + norms + 2 * (attention + norms + feed_forward + norms) + head
    assert size["num_parameters"] == before["num_parameters"] == by_hand
    assert size["num_trainable_params"] is None, "what is left cannot be trained"
    assert size["model_size_mb"] < before["model_size_mb"]
    assert size["prunable_sparsity_percent"] >= 50.0


def test_int8_sparsity_counts_the_numbers_that_mean_zero(tiny_int8):
    graph = onnx.load(tiny_int8.path / "model.onnx").graph
    zeros = prunable = prunable_zeros = 0
    for tensor in graph.initializer:
        values = numpy_helper.to_array(tensor)
        if tensor.name.endswith("_int8"):
            if "embeddings" not in tensor.name:
                prunable, prunable_zeros = prunable + values.size, prunable_zeros + (values == 0).sum()
        elif values.dtype != np.float32 or not values.ndim:
            continue
        zeros += (values == 0).sum()
    size = measure_size(tiny_int8.path)
    assert size["sparsity_percent"] == pytest.approx(100 * zeros / size["num_parameters"])
    assert size["prunable_sparsity_percent"] == pytest.approx(100 * prunable_zeros / prunable)


def bag(folder, columns=8):
    """An n-gram model of random numbers, some of its table zero."""
    random = np.random.default_rng(0)
    table = random.integers(-127, 128, (256, columns)).astype(np.float32)
    table[:, 0] = 127.0  # so that int8's scale is 1 and int4's zeros are where these are
    table[random.random(table.shape) < 0.25] = 0.0
    weights = {
        "table": table,
        "hidden.weight": random.standard_normal((4, columns)).astype(np.float32),
        "hidden.bias": np.zeros(4, dtype=np.float32),
        "head.weight": random.standard_normal((3, 4)).astype(np.float32),
        "head.bias": np.ones(3, dtype=np.float32),
    }
    save_file(weights, folder / "bag.safetensors")
    (folder / "hashing.json").write_text("{}", encoding="utf-8")
    Deployment("ngram", ("a", "b", "c"), ("bag.safetensors", "hashing.json")).save(folder)
    return table


@pytest.mark.parametrize("method", ["full", "fp16", "int8_dynamic", "int4"])
def test_a_bag_counts_its_table_and_no_scales(tmp_path, method):
    table = bag(tmp_path)
    folder = tmp_path if method == "full" else tmp_path / "small"
    if method != "full":
        folder.mkdir()
        quantize_ngram(method, 8, tmp_path, folder)
    size = measure_size(folder)
    assert size["num_parameters"] == 256 * 8 + 4 * 8 + 4 + 4 * 3 + 3
    zeros = (table == 0).sum() + 4
    if method == "int4":  # a weight below half a step of its row becomes zero too
        steps = np.abs(table).max(axis=1, keepdims=True) / 8
        zeros = (np.abs(table) < 0.5 * steps).sum() + 4
    assert size["sparsity_percent"] == pytest.approx(100 * zeros / size["num_parameters"], rel=0.01)
    assert "prunable_sparsity_percent" not in size and size["num_trainable_params"] is None


def test_zeros_pay_in_the_download_alone(tiny_teacher, tiny_pruned):
    before, after = measure_size(tiny_teacher.path), measure_size(tiny_pruned.path)
    assert after["model_size_mb"] == pytest.approx(before["model_size_mb"], rel=0.001)
    zero_bytes = 4 * round(after["sparsity_percent"] / 100 * after["num_parameters"])
    saved = (before["download_size_mb"] - after["download_size_mb"]) * 2**20
    # Zeros scattered at random cannot vanish: which half they are costs a bit a weight.
    assert 0.5 * zero_bytes < saved < zero_bytes


def test_the_floor_counts_its_coefficients(tiny_classical):
    size = measure_size(tiny_classical.path)
    terms = len(json.loads((tiny_classical.path / "vocabulary.json").read_text(encoding="utf-8"))["terms"])
    assert size["num_parameters"] == terms + 3 * terms + 3, "inverse document frequencies, weights, biases"
    assert size["num_trainable_params"] is None and "prunable_sparsity_percent" not in size
