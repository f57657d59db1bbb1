"""ONNX files of our encoders: write one from torch, look at the weights of any."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from pipeline.models import TextClassifier
from pipeline.onnx_fusion import fuse_attention, one_node_attention
from pipeline.onnx_graph import OnnxGraph

OPSET = 17
INPUTS, OUTPUT = ["input_ids", "attention_mask"], "logits"


def export_onnx(model: TextClassifier, path: Path) -> None:
    """Write the model in FP32 with free batch and token axes.

    The TorchScript exporter is used for its speed (0.5 to 2 s where the dynamo exporter takes 5 to 13 s): a search pays
    it for every model.
    """
    ids = torch.ones((2, 8), dtype=torch.int64)
    axes = {0: "batch", 1: "tokens"}
    with warnings.catch_warnings(), one_node_attention(model.encoder):
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
    graph = OnnxGraph.load(path)
    graph.share_constants()
    fuse_attention(graph)
    graph.save(path)


@dataclass(frozen=True)
class StoredWeight:
    """One weight tensor of a file."""

    name: str
    values: NDArray[np.generic]
    """What is stored, one number for each weight, zero points subtracted: a 0 means zero in every format."""
    in_linear_layer: bool
    """Whether it is the matrix of a linear layer inside the encoder, where pruning may set zeros."""


PRODUCTS = {"MatMul", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "MatMulNBits"}
"""Operators that a linear layer becomes; their second input is its matrix."""


def stored_weights(path: Path) -> Iterator[StoredWeight]:
    """Every weight tensor of an ONNX file; constants of shapes, scales and zero points are not weights."""
    graph = OnnxGraph.load(path)
    multiplied = {node.input[1] for node in graph.nodes if node.op_type in PRODUCTS}
    for name, tensor in graph.constants.items():
        shape = not tensor.dims or tensor.data_type in (onnx.TensorProto.INT64, onnx.TensorProto.BOOL)
        if shape or name.endswith(("_scale", "_zero_point")):
            continue
        values, base = graph.array(name), name.removesuffix("_int4")
        if base != name:
            values = unpack_int4(values, graph.array(f"{base}_zero_point"), graph.constants[f"{base}_scale"].dims[1])
        used_as = name.removesuffix("_fp16")  # widened to FP32 under its old name
        yield StoredWeight(name, values, values.ndim == 2 and used_as in multiplied and not name.startswith("head."))


def unpack_int4(packed: NDArray[np.uint8], zero_points: NDArray[np.uint8], blocks: int) -> NDArray[np.int8]:
    """The numbers of a 4-bit matrix, zero points subtracted.

    Args:
        packed: [rows, …], two numbers in a byte, the first in the lower half.
        zero_points: [rows, blocks / 2 rounded up], packed alike.
        blocks: zero points of a row.

    Returns:
        [rows, weights], in [-15, 15].
    """
    numbers, zeros = (
        np.stack([array & 15, array >> 4], axis=-1).reshape(len(array), -1).astype(np.int8)
        for array in (packed, zero_points)
    )
    values: NDArray[np.int8] = numbers.reshape(len(numbers), blocks, -1) - zeros[:, :blocks, None]
    return values.reshape(numbers.shape)
