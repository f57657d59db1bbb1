"""ONNX files of our encoders: write one from torch, store it in half precision, look at its weights."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper

from pipeline.models import TextClassifier

OPSET = 17
INPUTS, OUTPUT = ["input_ids", "attention_mask"], "logits"


def export_onnx(model: TextClassifier, path: Path) -> None:
    """Write the model in FP32 with free batch and token axes.

    The TorchScript exporter is used for its speed (0.5 to 2 s where the dynamo exporter takes 5 to 13 s): a search pays
    it for every model.
    """
    ids = torch.ones((2, 8), dtype=torch.int64)
    axes = {0: "batch", 1: "tokens"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing remarks on shapes that stay free, and the exporter's deprecation
        torch.onnx.export(
            model.eval(),
            (ids, torch.ones_like(ids)),
            str(path),
            input_names=INPUTS,
            output_names=[OUTPUT],
            dynamic_axes={name: axes for name in INPUTS} | {OUTPUT: {0: "batch"}},
            opset_version=OPSET,
            dynamo=False,
        )


def store_half(source: Path, target: Path) -> None:
    """Rewrite an FP32 file with its weights in FP16, widened to FP32 when the session is made.

    Half the bytes on disk at FP32's speed: on a CPU, multiplying in FP16 is several times slower.
    """
    model = onnx.load(source)
    graph = model.graph
    casts = []
    for weight in graph.initializer:
        if weight.data_type != onnx.TensorProto.FLOAT or not weight.dims:
            continue
        name = weight.name
        half = np.clip(numpy_helper.to_array(weight), -65504.0, 65504.0).astype(np.float16)
        weight.CopyFrom(numpy_helper.from_array(half, f"{name}_fp16"))
        casts.append(onnx.helper.make_node("Cast", [f"{name}_fp16"], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    onnx.save(model, target)


@dataclass(frozen=True)
class StoredWeight:
    """One weight tensor of a file."""

    name: str
    values: NDArray[np.generic]
    zero: int | float
    """The stored value that means zero."""
    in_linear_layer: bool
    """Whether it is the matrix of a linear layer inside the encoder, where pruning may set zeros."""


def stored_weights(path: Path) -> Iterator[StoredWeight]:
    """Every weight tensor of an ONNX file; constants of shapes, scales and zero points are not weights."""
    graph = onnx.load(path).graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    multiplied = {name for node in graph.node if node.op_type in {"MatMul", "MatMulInteger"} for name in node.input}
    for name, tensor in tensors.items():
        is_scale = name.endswith(("_scale", "_zero_point"))
        if is_scale or not tensor.dims or tensor.data_type in (onnx.TensorProto.INT64, onnx.TensorProto.BOOL):
            continue
        point = tensors.get(name.removesuffix("_quantized") + "_zero_point")
        zero = int(np.ravel(numpy_helper.to_array(point))[0]) if point is not None else 0
        linear = len(tensor.dims) == 2 and name.removesuffix("_fp16") in multiplied and not name.startswith("head.")
        yield StoredWeight(name, numpy_helper.to_array(tensor), zero, linear)
