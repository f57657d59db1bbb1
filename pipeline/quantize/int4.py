"""The int4 file: weights and embeddings in 4 bits, block by block."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from onnx import NodeProto
from onnx.helper import make_node

from pipeline.onnx_graph import MICROSOFT, OnnxGraph
from pipeline.quantize.layers import LinearNodes, embeddings, linear_layers
from pipeline.quantize.weights import int4_blocks, pack_nibbles

BLOCK_SIZES = (16, 32, 64, 128, 256)
"""What ONNX Runtime's CPU kernels take."""
BITS = 4
INT8_ACTIVATIONS = 4
"""Accuracy level at which the kernel rounds its other factor to int8, each token and block for itself: the answers move
by a small part of what 4 bits move them, and come 1.6 to 2 times faster than with FP32, which would be level 1."""


def write_int4(source: Path, target: Path, block_size: int) -> None:
    """Write an FP32 file again with its matrices in 4 bits (weight-only, as in Frantar et al. 2022, arXiv:2210.17323).

    A block of neighbours that meet in a sum, that is along the inputs of a layer or along a row of a table, has a
    scale in FP32 and a zero point in 4 bits. Rounding is to nearest.

    Args:
        source: as `export_onnx` wrote it.
        target: the new file.
        block_size: weights that share a scale.

    Raises:
        ValueError: ONNX Runtime has no such blocks, or they do not divide the model's widths.
    """
    graph = OnnxGraph.load(source)
    layers, tables = list(linear_layers(graph)), list(embeddings(graph))
    widths = {int(graph.constants[layer.weight].dims[0]) for layer in layers}
    check_block_size(block_size, widths | {int(graph.constants[table.input[0]].dims[1]) for table in tables})
    for layer in layers:
        layer.replace(graph, _product(graph, layer, block_size))
    for gather in tables:
        constants = _int4_constants(graph, gather.input[0], block_size, transpose=False)
        inputs = [constants[0], gather.input[1], *constants[1:]]
        lookup = make_node(
            "GatherBlockQuantized",
            inputs,
            [gather.output[0]],
            name=gather.name,
            domain=MICROSOFT,
            bits=BITS,
            block_size=block_size,
            gather_axis=0,
            quantize_axis=1,
        )
        graph.replace(gather, lookup)
    graph.save(target)


def check_block_size(block_size: int, widths: Iterable[int]) -> None:
    """Raise ValueError unless blocks of this size divide all these widths and ONNX Runtime knows them."""
    widths = sorted(set(widths))
    fitting = [size for size in BLOCK_SIZES if math.gcd(*widths) % size == 0]
    if block_size not in fitting:
        remedy = f"use {' or '.join(map(str, fitting))}" if fitting else "no block size does, so use int8_dynamic"
        raise ValueError(
            f"quantize.block_size={block_size}: must be one of {', '.join(map(str, BLOCK_SIZES))} and divide the "
            f"model's inner widths {', '.join(map(str, widths))}: {remedy}"
        )


def _product(graph: OnnxGraph, layer: LinearNodes, block_size: int) -> NodeProto:
    """The node that stands for a linear layer."""
    inputs, outputs = graph.constants[layer.weight].dims
    constants = _int4_constants(graph, layer.weight, block_size, transpose=True)
    return make_node(
        "MatMulNBits",
        [layer.product.input[0], *constants, *(["", layer.bias] if layer.bias else [])],
        [layer.output],
        name=layer.product.name,
        domain=MICROSOFT,
        K=inputs,
        N=outputs,
        bits=BITS,
        block_size=block_size,
        accuracy_level=INT8_ACTIVATIONS,
    )


def _int4_constants(graph: OnnxGraph, name: str, block_size: int, transpose: bool) -> list[str]:
    """Store a matrix in int4, if it is not yet, and give the names of integers, scales and zero points."""
    names = [f"{name}_int4", f"{name}_scale", f"{name}_zero_point"]
    if names[0] not in graph.constants:
        weight = graph.array(name)
        stored, scale, zero = int4_blocks(np.ascontiguousarray(weight.T if transpose else weight), block_size)
        packed = pack_nibbles(stored)
        graph.add_constant(names[0], packed.reshape(*scale.shape, -1) if transpose else packed)
        graph.add_constant(names[1], scale)
        graph.add_constant(names[2], pack_nibbles(zero))
    return names
