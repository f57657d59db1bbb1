"""The CUDA target, where there is a GPU."""

from importlib.util import find_spec

import numpy as np
import pytest
import torch

from pipeline.quantize.cuda_target import for_cuda

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
LIMITS = {"fp16": 0.02, "bf16": 0.2, "int8": 0.3}


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_without_a_gpu_it_says_so(encoder):
    with pytest.raises(RuntimeError, match="no GPU"):
        for_cuda(encoder.model, "fp16")


@needs_gpu
@pytest.mark.parametrize("method", LIMITS)
def test_it_answers_nearly_as_in_fp32_and_takes_fewer_bytes(encoder, method):
    if method == "int8" and find_spec("torchao") is None:
        pytest.skip("torchao is not installed")
    small = for_cuda(encoder.model, method)
    with torch.inference_mode():
        pairs = [(torch.from_numpy(ids).cuda(), torch.from_numpy(mask).cuda()) for ids, mask in encoder.batches()]
        found = np.concatenate([small(*pair).float().cpu().numpy() for pair in pairs])
    assert 0 < np.abs(found - encoder.logits).max() < LIMITS[method]
    assert small.head.weight.element_size() == 2
    assert encoder.model.head.weight.dtype == torch.float32 and encoder.model.head.weight.device.type == "cpu"
