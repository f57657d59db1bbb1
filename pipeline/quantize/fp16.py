"""The FP16 file: half the bytes at FP32's speed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx

from pipeline.onnx_graph import OnnxGraph

LARGEST = 65504.0
"""The largest number of FP16."""


def write_fp16(source: Path, target: Path) -> None:
    """Write an FP32 file again with its weights in FP16, widened to FP32 when the session is made.

    On a CPU, multiplying in FP16 is several times slower. Weights beyond ±65504 become that.
    """
    graph = OnnxGraph.load(source)
    casts = []
    for name, weight in list(graph.constants.items()):
        if weight.data_type != onnx.TensorProto.FLOAT or not weight.dims:
            continue
        half = graph.add_constant(f"{name}_fp16", graph.array(name).clip(-LARGEST, LARGEST).astype(np.float16))
        casts.append(onnx.helper.make_node("Cast", [half], [name], name=f"{name}_widen", to=onnx.TensorProto.FLOAT))
        del graph.constants[name]
    graph.prepend(*casts)
    graph.save(target)
