"""Rewritten graphs, run by ONNX Runtime and compared with NumPy."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from pipeline.onnx_graph import OnnxGraph

VALUES = np.array([1.0, -2.0, 3.0], dtype=np.float32)


@pytest.fixture
def graph():
    """y = (x + a) · b with b an `Identity` of a; beside it a node that leads nowhere."""
    nodes = [
        helper.make_node("Identity", ["a"], ["b"]),
        helper.make_node("Add", ["x", "a"], ["sum"]),
        helper.make_node("Exp", ["c"], ["nowhere"]),
        helper.make_node("Mul", ["sum", "b"], ["y"]),
    ]
    shapes = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [3]) for name in ("x", "y", "sum")]
    constants = [numpy_helper.from_array(VALUES, name) for name in ("a", "c")]
    body = helper.make_graph(nodes, "small", shapes[:1], shapes[1:2], constants, value_info=shapes[2:])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("odd", 1)]
    return OnnxGraph(helper.make_model(body, opset_imports=opsets, ir_version=8))


def run(graph, folder, x):
    graph.save(folder / "model.onnx")
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0], onnx.load(folder / "model.onnx")


def test_what_leads_nowhere_is_not_saved(graph, tmp_path):
    x = np.float32([4, 5, 6])
    answer, saved = run(graph, tmp_path, x)
    assert (answer == (x + VALUES) * VALUES).all()
    assert [node.op_type for node in saved.graph.node] == ["Identity", "Add", "Mul"]
    assert [tensor.name for tensor in saved.graph.initializer] == ["a"]
    assert [opset.domain for opset in saved.opset_import] == [""] and not saved.graph.value_info


def test_producers_and_consumers(graph):
    assert graph.producer("sum").op_type == "Add" and graph.producer("x") is None and graph.producer("a") is None
    assert [node.op_type for node in graph.consumers("a")] == ["Identity", "Add"] and graph.consumers("y") == []
    assert (graph.array("a") == VALUES).all()


def test_shared_constants_need_no_identity(graph, tmp_path):
    graph.share_constants()
    answer, saved = run(graph, tmp_path, VALUES)
    assert (answer == 2 * VALUES * VALUES).all()
    assert [node.op_type for node in saved.graph.node] == ["Add", "Mul"]


def test_replaced_redirected_and_new_nodes_take_part(graph, tmp_path):
    graph.add_constant("half", np.float32(0.5))
    graph.prepend(helper.make_node("Neg", ["x"], ["negative"]))
    graph.redirect("x", "negative")
    graph.nodes[0].input[0] = "x"
    graph.replace(graph.producer("y"), helper.make_node("Mul", ["sum", "half"], ["y"]))
    assert [node.op_type for node in graph.consumers("half")] == ["Mul"] and graph.producer("b").op_type == "Identity"
    x = np.float32([4, 5, 6])
    answer, saved = run(graph, tmp_path, x)
    assert (answer == (VALUES - x) / 2).all()
    assert [node.op_type for node in saved.graph.node] == ["Neg", "Add", "Mul"]


def test_microsofts_operators_are_declared(graph, tmp_path):
    graph.replace(graph.producer("y"), helper.make_node("Gelu", ["sum"], ["y"], domain="com.microsoft"))
    answer, saved = run(graph, tmp_path, np.zeros(3, dtype=np.float32))
    assert answer == pytest.approx([0.841345, -0.0455, 2.99595], abs=1e-4)
    assert {opset.domain: opset.version for opset in saved.opset_import} == {"": 17, "com.microsoft": 1}
