"""Exported encoders of many architectures against torch, with their attention in one node and without."""

from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from transformers import AutoConfig, AutoModel

from pipeline.models import TextClassifier
from pipeline.onnx_fusion import one_node_attention
from pipeline.onnx_model import export_onnx, stored_weights

COMMON = {
    "vocab_size": 100,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 40,
    "pad_token_id": 1,
}
SPECIAL = {
    "albert": {"embedding_size": 16},
    "electra": {"embedding_size": 16},
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64},
}


def build(architecture):
    torch.manual_seed(0)
    encoder = AutoModel.from_config(AutoConfig.for_model(architecture, **COMMON, **SPECIAL.get(architecture, {})))
    if getattr(encoder, "pooler", None) is not None:
        encoder.pooler = None
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    return TextClassifier(encoder, 3, "mean", 0.1).eval()


def assert_answers_as_torch(model, file):
    random = np.random.default_rng(0)
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    for rows, longest in [(1, 1), (3, 9), (5, 20)]:
        lengths = random.integers(1, longest + 1, rows)
        lengths[0] = longest
        mask = (np.arange(longest) < lengths[:, None]).astype(np.int64)
        ids = np.where(mask, random.integers(5, 100, (rows, longest)), 1)
        with torch.inference_mode():
            expected = model(torch.from_numpy(ids), torch.from_numpy(mask)).numpy()
        found = session.run(None, {"input_ids": ids, "attention_mask": mask})[0]
        np.testing.assert_allclose(found, expected, atol=1e-5)
        assert expected.std() > 0.05


def operators(file):
    return Counter(node.op_type for node in onnx.load(file).graph.node)


@pytest.mark.parametrize("architecture", ["bert", "xlm-roberta", "electra", "albert", "distilbert"])
def test_attention_becomes_one_node_and_the_answers_stay(tmp_path, architecture, capfd):
    model, file = build(architecture), tmp_path / "model.onnx"
    implementation = model.config._attn_implementation
    export_onnx(model, file)
    kinds = operators(file)
    assert kinds["MultiHeadAttention"] == 2 and kinds["Softmax"] == kinds["Transpose"] == kinds["IsNaN"] == 0
    assert_answers_as_torch(model, file)
    assert model.config._attn_implementation == implementation, "the model itself is as before"
    assert capfd.readouterr() == ("", "")


def test_an_architecture_with_another_attention_is_exported_as_it_is(tmp_path):
    model, file = build("mpnet"), tmp_path / "model.onnx"  # has a bias for each distance of two tokens
    export_onnx(model, file)
    kinds = operators(file)
    assert kinds["MultiHeadAttention"] == 0 and kinds["Softmax"] == 2
    assert_answers_as_torch(model, file)


def test_shared_layers_are_stored_once(tmp_path):
    model = build("albert")
    export_onnx(model, tmp_path / "model.onnx")
    stored = sum(weight.values.size for weight in stored_weights(tmp_path / "model.onnx"))
    assert stored == sum(parameter.numel() for parameter in model.parameters())


def test_shared_layers_are_quantized_with_the_range_of_all_their_calls(tmp_path):
    from pipeline.quantize.calibration import quantizable
    from pipeline.quantize.int8 import write_int8

    model = build("albert")
    export_onnx(model, tmp_path / "model.onnx")
    ranges = dict.fromkeys(quantizable(model), (-20.0, 20.0))
    write_int8(tmp_path / "model.onnx", tmp_path / "int8.onnx", True, ranges)
    kinds = operators(tmp_path / "int8.onnx")
    assert kinds["MatMulIntegerToFloat"] == 1 + 2 * 6 and kinds["MatMul"] == 0


def test_the_implementation_comes_back_after_an_error():
    model = build("bert")
    before = model.config._attn_implementation
    with pytest.raises(KeyError), one_node_attention(model.encoder):
        assert model.config._attn_implementation != before
        raise KeyError
    assert model.config._attn_implementation == before
