"""The int8 file: weights and embeddings as int8, products of int8 with activations as uint8, all else in FP32."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from onnx import NodeProto
from onnx.helper import make_node

from pipeline.onnx_graph import MICROSOFT, OnnxGraph
from pipeline.quantize.layers import LinearNodes, embeddings, linear_layers
from pipeline.quantize.weights import int8_weights, uint8_range

Ranges = Mapping[str, tuple[float, float]]
"""Lowest and highest input of each linear layer of the torch model, by its name."""
CALLED_AGAIN = re.compile(r"_\d+$")
"""What the exporter puts behind a module's name when it is called a second time, as in ALBERT's shared layers."""


def write_int8(source: Path, target: Path, per_channel: bool, ranges: Ranges | None = None) -> None:
    """Write an FP32 file again in int8 (Jacob et al. 2018, arXiv:1712.05877).

    The scales around each product are constants of the operator that also adds the bias, so that its answer is FP32
    and norms, softmax and GELU compute as before. Standard QDQ nodes come to the same where ONNX Runtime fuses them.

    Args:
        source: as `export_onnx` wrote it.
        target: the new file.
        per_channel: whether each column of a matrix, and of an embedding table, has a scale of its own.
        ranges: fixes the scales of the activations; None measures them in every batch anew.

    Raises:
        KeyError: `ranges` has none for a layer.
    """
    graph = OnnxGraph.load(source)
    for layer in linear_layers(graph):
        layer.replace(graph, *_product(graph, layer, per_channel, ranges))
    for gather in embeddings(graph):
        stored, scale = _int8_constant(graph, gather.input[0], per_channel)
        rows = f"{gather.output[0]}_int8"
        graph.replace(
            gather,
            make_node("Gather", [stored, gather.input[1]], [rows], name=gather.name, axis=0),
            make_node("DequantizeLinear", [rows, scale], [gather.output[0]], name=f"{gather.name}_scaled", axis=-1),
        )
    graph.save(target)


def _product(graph: OnnxGraph, layer: LinearNodes, per_channel: bool, ranges: Ranges | None) -> list[NodeProto]:
    """The nodes that stand for a linear layer."""
    stored, scale = _int8_constant(graph, layer.weight, per_channel)
    source, bias = layer.product.input[0], layer.bias or ""
    if ranges is None:
        inputs = [source, stored, scale, "", bias]
        return [make_node("DynamicQuantizeMatMul", inputs, [layer.output], name=layer.product.name, domain=MICROSOFT)]
    low, high = ranges[layer.name if layer.name in ranges else CALLED_AGAIN.sub("", layer.name)]
    input_scale, input_zero = uint8_range(low, high)
    # Query, key and value read the same input: one quantized copy serves all layers whose ranges agree.
    rounded = f"{source}_{input_scale.item().hex()}_{input_zero}_uint8"
    scale_name = graph.add_constant(f"{rounded}_scale", np.asarray(input_scale))
    zero_name = graph.add_constant(f"{rounded}_zero_point", np.asarray(input_zero))
    inputs = [rounded, stored, scale_name, scale, zero_name, "", bias]
    nodes = [make_node("MatMulIntegerToFloat", inputs, [layer.output], name=layer.product.name, domain=MICROSOFT)]
    if graph.producer(rounded) is None:
        rounding = make_node("QuantizeLinear", [source, scale_name, zero_name], [rounded], name=f"{rounded}_quantize")
        nodes.insert(0, rounding)
    return nodes


def _int8_constant(graph: OnnxGraph, name: str, per_channel: bool) -> tuple[str, str]:
    """Store a matrix in int8, if it is not yet, and give the names of integers and scale."""
    stored, scale = f"{name}_int8", f"{name}_scale"
    if stored not in graph.constants:
        values, scales = int8_weights(graph.array(name), per_channel)
        graph.add_constant(stored, values)
        graph.add_constant(scale, scales)
    return stored, scale
