"""An ONNX graph while it is rewritten: who makes a tensor, who uses it, and what is left when nobody does."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

MICROSOFT = "com.microsoft"
"""Domain of the operators that ONNX Runtime has beyond the standard."""


class OnnxGraph:
    """Nodes in an order in which they can run, and constants by name."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.nodes: list[onnx.NodeProto] = list(model.graph.node)
        self.constants: dict[str, onnx.TensorProto] = {tensor.name: tensor for tensor in model.graph.initializer}
        self._index()

    @classmethod
    def load(cls, path: Path) -> OnnxGraph:
        """Read a file."""
        return cls(onnx.load(path))

    def producer(self, name: str) -> onnx.NodeProto | None:
        """The node that makes this tensor; None for inputs and constants."""
        return self._producers.get(name)

    def consumers(self, name: str) -> list[onnx.NodeProto]:
        """The nodes that use this tensor."""
        return self._consumers[name]

    def array(self, name: str) -> NDArray[Any]:
        """A constant's values."""
        values: NDArray[Any] = numpy_helper.to_array(self.constants[name])
        return values

    def add_constant(self, name: str, values: NDArray[Any]) -> str:
        """Make this the constant of that name, which is returned."""
        self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(values), name)
        return name

    def replace(self, old: onnx.NodeProto, *new: onnx.NodeProto) -> None:
        """Put these nodes in the place of that one."""
        place = next(i for i, node in enumerate(self.nodes) if node is old)
        self.nodes[place : place + 1] = new
        self._index()

    def prepend(self, *nodes: onnx.NodeProto) -> None:
        """Put these nodes before all others."""
        self.nodes[:0] = nodes
        self._index()

    def redirect(self, old: str, new: str) -> None:
        """Let every node that uses the one tensor use the other."""
        for node in self.consumers(old):
            node.input[:] = [new if name == old else name for name in node.input]
        self._index()

    def share_constants(self) -> None:
        """Let nodes use a constant itself where the exporter put an `Identity` of one that had the same values."""
        for node in self.nodes:
            if node.op_type == "Identity" and node.input[0] in self.constants:
                self.redirect(node.output[0], node.input[0])

    def save(self, path: Path) -> None:
        """Write what the outputs depend on. Shapes that the exporter noted are left out: they may no longer hold."""
        graph = self.model.graph
        needed = {output.name for output in graph.output}
        kept: list[onnx.NodeProto] = []
        for node in reversed(self.nodes):
            if not needed.isdisjoint(node.output):
                kept.append(node)
                needed.update(node.input)
        constants = [tensor for name, tensor in self.constants.items() if name in needed]
        kept.reverse()
        domains = {node.domain for node in kept}
        opsets = {opset.domain: opset.version for opset in self.model.opset_import if opset.domain in {"", *domains}}
        if MICROSOFT in domains:
            opsets.setdefault(MICROSOFT, 1)
        model = onnx.helper.make_model(
            onnx.helper.make_graph(kept, graph.name, graph.input, graph.output, constants),
            producer_name=self.model.producer_name,
            ir_version=self.model.ir_version,
            opset_imports=[onnx.helper.make_opsetid(domain, version) for domain, version in opsets.items()],
        )
        onnx.save(model, path)

    def _index(self) -> None:
        self._producers = {name: node for node in self.nodes for name in node.output}
        self._consumers: defaultdict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in self.nodes:
            for name in dict.fromkeys(node.input):
                self._consumers[name].append(node)
