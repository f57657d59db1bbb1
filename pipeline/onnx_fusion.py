"""Each attention layer of an exported encoder as one node.

With a short comment a matrix product in int8 takes some 20 microseconds: the hundreds of small steps around them count.
All number formats are written from the fused graph and profit alike. Residual sums and norms are left apart: ONNX
Runtime's fused SkipLayerNormalization takes twice the time of the two on a CPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import onnx
import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.masking_utils import AttentionMaskInterface

from pipeline.onnx_graph import MICROSOFT, OnnxGraph

PLACEHOLDER = "pareto"
"""Domain of the attention operator between export and fusion."""
IMPLEMENTATION = "pareto_export"
PLAIN_ATTENTION = frozenset(
    {"albert", "bert", "camembert", "distilbert", "electra", "roberta", "xlm-roberta", "xlm-roberta-xl"}
)
"""Architectures whose tokens all attend to each other by softmax(QKᵀ·scale)V, padding left out, and by nothing else."""


class _Attention(torch.autograd.Function):
    """One node in the exported graph, [batch, tokens, heads, width] from three [batch, heads, tokens, width]."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float, heads: int) -> Tensor:
        real = mask[:, None, None, :].bool()
        return nn.functional.scaled_dot_product_attention(query, key, value, real, scale=scale).transpose(1, 2)

    @staticmethod
    def symbolic(g: Any, query: Any, key: Any, value: Any, mask: Any, scale: float, heads: int) -> Any:
        node = g.op(f"{PLACEHOLDER}::Attention", query, key, value, mask, num_heads_i=heads, scale_f=scale)
        node.setType(query.type().with_sizes([None] * 4))  # else the exporter warns on the process's error stream
        return node


def _attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float | None = None, **_: Any
) -> tuple[Tensor, None]:
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    attended: Tensor = _Attention.apply(query, key, value, mask, float(scale), int(query.shape[1]))  # type: ignore[no-untyped-call]
    return attended, None


def _padding_mask(*_: Any, attention_mask: Tensor, **__: Any) -> Tensor:
    return attention_mask.to(torch.int32)


AttentionInterface.register(IMPLEMENTATION, _attend)
AttentionMaskInterface.register(IMPLEMENTATION, _padding_mask)


@contextmanager
def one_node_attention(encoder: nn.Module) -> Iterator[None]:
    """Export every attention layer of the encoder as one node, if its architecture is known to allow that."""
    model = cast(PreTrainedModel, encoder)
    if model.config.model_type not in PLAIN_ATTENTION:
        yield
        return
    before = model.config._attn_implementation
    model.set_attn_implementation(IMPLEMENTATION)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def fuse_attention(graph: OnnxGraph) -> None:
    """Replace the attention nodes of the export by ONNX Runtime's; the logits stay the same to rounding."""
    for node in [node for node in graph.nodes if node.domain == PLACEHOLDER]:
        _fuse(graph, node)


def _fuse(graph: OnnxGraph, node: onnx.NodeProto) -> None:
    """Let the operator read the projections as they are, [batch, tokens, heads · width], and answer alike."""
    *projections, mask = node.input
    attributes = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
    (output,) = node.output
    graph.replace(
        node,
        onnx.helper.make_node(
            "MultiHeadAttention",
            [*(_before_split(graph, name) for name in projections), "", mask],
            [output],
            name=node.name,
            domain=MICROSOFT,
            **attributes,
        ),
    )
    for join in graph.consumers(output):
        if join.op_type != "Reshape":
            raise NotImplementedError(f"{node.name}: {join.op_type} uses the heads one by one; leave it unfused")
        graph.redirect(join.output[0], output)


def _before_split(graph: OnnxGraph, name: str) -> str:
    """The tensor that was reshaped to heads and transposed into this one."""
    transpose = graph.producer(name)
    reshape = graph.producer(transpose.input[0]) if transpose is not None and transpose.op_type == "Transpose" else None
    if reshape is None or reshape.op_type != "Reshape":
        raise NotImplementedError(f"{name}: not a projection split into heads; leave it unfused")
    return str(reshape.input[0])
