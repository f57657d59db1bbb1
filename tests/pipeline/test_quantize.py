"""Quantized files: dequantized in NumPy against the weights they came from, and asked through the deployed folder."""

import logging

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from pipeline.onnx_model import stored_weights
from pipeline.quantize import int8_dynamic
from pipeline.runtime import load_classifier, load_deployment


def tensors(artifact):
    graph = onnx.load(artifact.path / "model.onnx").graph
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}


def test_int8_weights_are_within_half_a_scale_of_the_original(tiny_pruned, tiny_int8):
    original, quantized = tensors(tiny_pruned), tensors(tiny_int8)
    names = [name.removesuffix("_quantized") for name in quantized if name.endswith("_quantized")]
    assert set(names) == {name for name, array in original.items() if array.ndim == 2}, "every matrix, embeddings too"
    for name in names:
        stored, scale = quantized[f"{name}_quantized"], float(quantized[f"{name}_scale"])
        assert stored.dtype in (np.int8, np.uint8)
        values = (stored.astype(np.float64) - float(quantized[f"{name}_zero_point"])) * scale
        expected = original[name] if values.shape == original[name].shape else original[name].T
        assert np.abs(values - expected).max() <= 0.5 * scale * (1 + 1e-4), name
        assert 2 * np.abs(expected).max() >= 100 * scale, "the scale uses the range of 8 bits"


def test_int8_keeps_the_zeros_of_pruning(tiny_pruned, tiny_int8):
    def prunable_zeros(artifact):
        weights = [weight for weight in stored_weights(artifact.path / "model.onnx") if weight.in_linear_layer]
        return sum(int((weight.values == weight.zero).sum()) for weight in weights), sum(w.values.size for w in weights)

    zeros, size = prunable_zeros(tiny_pruned)
    quantized_zeros, quantized_size = prunable_zeros(tiny_int8)
    assert size == quantized_size and zeros == size // 2
    assert quantized_zeros >= zeros, "small weights may become zeros, no zero becomes a weight"


def test_int8_zero_points_mean_zero(tiny_int8):
    quantized = tensors(tiny_int8)
    for weight in stored_weights(tiny_int8.path / "model.onnx"):
        point = quantized.get(weight.name.removesuffix("_quantized") + "_zero_point")
        assert weight.zero == (0 if point is None else int(point)), weight.name
    assert any(weight.zero for weight in stored_weights(tiny_int8.path / "model.onnx")), "embeddings are asymmetric"


@pytest.mark.parametrize("form", ["tiny_half", "tiny_int8"])
def test_quantized_folders_answer_nearly_as_before(request, tiny_pruned, tiny_comments, form):
    artifact = request.getfixturevalue(form)
    texts = tiny_comments.validation.texts
    before = load_classifier(tiny_pruned.path).predict_logits(texts, 1)
    after = load_classifier(artifact.path).predict_logits(texts, 1)
    assert before.shape == after.shape == (len(texts), 3)
    limit = {"tiny_half": 0.005, "tiny_int8": 0.2}[form]
    assert 0 < np.abs(after - before).max() < limit
    assert np.corrcoef(before.ravel(), after.ravel())[0, 1] > 0.98
    assert (artifact.path / "tokenizer.json").read_bytes() == (tiny_pruned.path / "tokenizer.json").read_bytes()
    assert (artifact.path / "model.onnx").stat().st_size < (tiny_pruned.path / "model.onnx").stat().st_size
    assert load_deployment(artifact.path).labels == ("bully", "sexual", "threat")
    assert not (artifact.path / "model.safetensors").exists(), "nothing of the larger model is left to deploy"


def test_only_a_batch_invariant_model_says_so(tiny_half, tiny_int8, tiny_comments):
    texts = tiny_comments.validation.texts
    differences = {}
    for artifact in (tiny_half, tiny_int8):
        classifier = load_classifier(artifact.path)
        alone, together = classifier.predict_logits(texts, 1), classifier.predict_logits(texts, 64)
        differences[load_deployment(artifact.path).batch_invariant] = np.abs(alone - together).max()
    assert differences[True] < 1e-4 < differences[False]


def test_int8_leaves_the_root_logger_as_it_was(tiny_teacher, tmp_path, caplog):
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.INFO)
    try:
        int8_dynamic(tiny_teacher.path / "model.onnx", tmp_path / "model.onnx")
        assert root.level == logging.INFO
        with pytest.raises(FileNotFoundError):
            int8_dynamic(tmp_path / "absent.onnx", tmp_path / "model.onnx")
        assert root.level == logging.INFO
    finally:
        root.setLevel(level)
    assert caplog.records == []
