"""A small encoder with random weights, its ONNX file, and how both are asked; and the stage run on the tiny chain."""

from types import SimpleNamespace

import numpy as np
import pytest

VOCABULARY, LABELS, LONGEST, WIDTH = 300, 3, 24, 32


def random_model(seed=0, layers=2):
    """Every weight random, the size of a trained encoder's."""
    import torch

    from pipeline.config import TeacherConfig
    from pipeline.models import build_scratch

    torch.manual_seed(seed)
    config = TeacherConfig(scratch_layers=layers, scratch_width=WIDTH, scratch_heads=2, max_tokens=LONGEST)
    model = build_scratch(config, LABELS, VOCABULARY)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return model.eval()


def random_batches(seed=1):
    """Batches of 1 to 9 comments, 1 to 24 tokens, random padding on the right."""
    random = np.random.default_rng(seed)
    for rows, longest in [(1, 1), (1, LONGEST), (2, 8), (9, 17), (5, LONGEST), (3, 2)]:
        lengths = random.integers(1, longest + 1, rows)
        lengths[0] = longest
        mask = (np.arange(longest) < lengths[:, None]).astype(np.int64)
        yield random.integers(1, VOCABULARY, (rows, longest)) * mask, mask


def onnx_answers(file):
    """Logits of a file on the random batches."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    feeds = [{"input_ids": ids, "attention_mask": mask} for ids, mask in random_batches()]
    return np.concatenate([session.run(None, feed)[0] for feed in feeds])


def torch_answers(model):
    """Logits of a torch model on the random batches."""
    import torch

    with torch.inference_mode():
        pairs = [(torch.from_numpy(ids), torch.from_numpy(mask)) for ids, mask in random_batches()]
        return np.concatenate([model(*pair).numpy() for pair in pairs])


@pytest.fixture(scope="session")
def encoder(tmp_path_factory):
    """`model`, its FP32 `file`, its `logits` by torch; `batches`, `onnx`, `torch` to ask others."""
    from pipeline.onnx_model import export_onnx

    model, file = random_model(), tmp_path_factory.mktemp("encoder") / "model.onnx"
    export_onnx(model, file)
    return SimpleNamespace(
        model=model,
        file=file,
        logits=torch_answers(model),
        batches=random_batches,
        onnx=onnx_answers,
        torch=torch_answers,
    )


@pytest.fixture(scope="session")
def quantized(tiny_store, tiny_data, tiny_pruned, tiny_teacher):
    """The stage on the pruned model: `quantized(method="int4", block_size=16)`."""
    from pipeline.config import QuantizeConfig
    from pipeline.stages import quantize

    return lambda **settings: tiny_store.run(quantize, QuantizeConfig(**settings), tiny_data, tiny_pruned, tiny_teacher)
