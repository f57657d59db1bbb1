"""The CUDA target: torch models in fewer bits, where there is a GPU."""

from __future__ import annotations

import copy
from importlib import import_module
from importlib.util import find_spec
from typing import Literal

import torch

from pipeline.models import TextClassifier

CudaMethod = Literal["fp16", "bf16", "int8"]


def for_cuda(model: TextClassifier, method: CudaMethod) -> TextClassifier:
    """A copy on the GPU whose weights are stored, and whose products are computed, in fewer bits.

    Args:
        model: in FP32; stays as it is.
        method: `fp16` or `bf16`, or `int8` weights with BF16 activations (torchao).

    Raises:
        RuntimeError: there is no GPU.
        ModuleNotFoundError: `int8` without torchao.
    """
    if not torch.cuda.is_available():
        raise RuntimeError(f"{method} for CUDA: torch sees no GPU; deploy for the CPU with ONNX Runtime")
    if method == "int8" and find_spec("torchao") is None:
        raise ModuleNotFoundError("int8 for CUDA needs torchao: pip install torchao")
    small = copy.deepcopy(model).eval().to("cuda", torch.float16 if method == "fp16" else torch.bfloat16)
    if method == "int8":
        torchao = import_module("torchao.quantization")
        torchao.quantize_(small.encoder, torchao.Int8WeightOnlyConfig())
    return small
