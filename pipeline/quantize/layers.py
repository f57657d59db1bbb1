"""What a quantizer replaces in an exported encoder: linear layers and embedding tables."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx

from pipeline.onnx_graph import OnnxGraph


@dataclass(frozen=True)
class LinearNodes:
    """A linear layer of the graph: product and sum."""

    name: str
    """Of the torch module that it was exported from, `encoder.layer.0.output.dense`."""
    product: onnx.NodeProto
    weight: str
    """Constant [inputs, outputs]."""
    bias: str | None
    addition: onnx.NodeProto | None

    @property
    def output(self) -> str:
        """The tensor with the layer's answer."""
        return str((self.product if self.addition is None else self.addition).output[0])

    def replace(self, graph: OnnxGraph, *nodes: onnx.NodeProto) -> None:
        """Put these nodes, which make `output`, in the layer's place."""
        if self.addition is not None:
            graph.replace(self.addition)
        graph.replace(self.product, *nodes)


def linear_layers(graph: OnnxGraph) -> Iterator[LinearNodes]:
    """The encoder's linear layers. The head, a few hundred weights that make the logits, is none of them."""
    for node in list(graph.nodes):
        if node.op_type != "MatMul" or node.input[1] not in graph.constants:
            continue
        name = node.name.strip("/").removesuffix("/MatMul").replace("/", ".")
        bias = addition = None
        users = graph.consumers(node.output[0])
        if len(users) == 1 and users[0].op_type == "Add":
            for item in users[0].input:
                if item in graph.constants and len(graph.constants[item].dims) == 1:
                    bias, addition = item, users[0]
        yield LinearNodes(name, node, node.input[1], bias, addition)


def embeddings(graph: OnnxGraph) -> Iterator[onnx.NodeProto]:
    """The nodes that look rows up in a table of floats."""
    for node in list(graph.nodes):
        table = graph.constants.get(node.input[0]) if node.op_type == "Gather" else None
        if table is not None and table.data_type == onnx.TensorProto.FLOAT and len(table.dims) == 2:
            yield node
