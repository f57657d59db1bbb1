"""Remove whole attention heads and feed-forward neurons: smaller matrices, without zeros."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.config import PruneConfig
from pipeline.losses import hard_loss
from pipeline.models import TextClassifier, encoder_layers, head_size
from pipeline.objective import Examples
from pipeline.prune.calibration import batches, watching
from pipeline.prune.masks import Cuts, name_of

ATTENTION = ("attention.self.query", "attention.self.key", "attention.self.value")
MIXED, GROWN, SHRUNK = "attention.output.dense", "intermediate.dense", "output.dense"


@dataclass(frozen=True)
class Group:
    """Structures of one kind in one layer: its heads, or its feed-forward neurons."""

    layer: str
    """The layer's name in the model."""
    kind: str
    """`heads` or `ffn`."""
    count: int
    width: int
    """Inputs of `reader` that belong to one of them."""
    parameters: int
    """Weights and biases of one of them, all matrices together."""
    fewest: int
    """How many must stay."""

    @property
    def reader(self) -> str:
        """The matrix that reads what these structures give, side by side."""
        return f"{self.layer}.{MIXED if self.kind == 'heads' else SHRUNK}"


def groups_of(model: TextClassifier, config: PruneConfig) -> list[Group]:
    """What may be removed from the model.

    Raises:
        ValueError: the layers are not laid out as BERT's, or have fewer heads than must stay.
    """
    size = head_size(model)
    blocks = encoder_layers(model)
    prefix = name_of(model, blocks)
    groups = []
    for i, block in enumerate(blocks):
        layer = f"{prefix}.{i}"
        linear = {name: module for name, module in block.named_modules() if isinstance(module, nn.Linear)}
        missing = [name for name in (*ATTENTION, MIXED, GROWN, SHRUNK) if name not in linear]
        if missing or size is None:
            where = f"{type(model.encoder).__name__} has no {missing[0] if missing else 'attention_head_size'}"
            raise ValueError(
                f"prune.method={config.method}: {where} in its layers, structured pruning knows the layout of BERT, "
                "RoBERTa, XLM-R and ELECTRA; take magnitude, wanda or gradual"
            )
        heads = linear[ATTENTION[0]].out_features // size
        if config.structures != "ffn":
            if config.heads_left > heads:
                raise ValueError(f"prune.heads_left={config.heads_left}: {layer} has {heads} heads; ask for fewer")
            parameters = sum(size * (linear[name].in_features + (linear[name].bias is not None)) for name in ATTENTION)
            parameters += size * linear[MIXED].out_features
            groups.append(Group(layer, "heads", heads, size, parameters, config.heads_left))
        if config.structures != "heads":
            grown = linear[GROWN]
            parameters = grown.in_features + (grown.bias is not None) + linear[SHRUNK].out_features
            groups.append(Group(layer, "ffn", grown.out_features, 1, parameters, 1))
    return groups


def taylor_importance(
    model: TextClassifier, groups: Sequence[Group], examples: Examples, rows: NDArray[np.int64]
) -> list[Tensor]:
    """How much the loss on the labels would change to first order if a structure's output were zero.

    The absolute sum of gradient times activation over a comment, which is the gradient of a gate on the structure,
    in the mean over comments (Michel et al. 2019, arXiv:1905.10650, section 4.1; Molchanov et al. 2019,
    arXiv:1906.10771).

    Args:
        model: in evaluation mode.
        groups: what is measured.
        examples: all comments, with their labels.
        rows: the calibration comments.

    Returns:
        For each group a tensor [count].
    """
    totals = [torch.zeros(group.count) for group in groups]
    inputs: dict[str, Tensor] = {}
    with watching({group.reader: model.get_submodule(group.reader) for group in groups}, inputs.__setitem__):
        for chosen, input_ids, attention_mask in batches(model, examples.tokens, rows):
            logits = model(input_ids, attention_mask)
            # The sum over comments: no comment's gradient depends on how many others are in the batch.
            loss = hard_loss(logits, torch.from_numpy(examples.labels[chosen])) * len(chosen)
            seen = [inputs[group.reader] for group in groups]
            for total, group, values, gradient in zip(
                totals, groups, seen, torch.autograd.grad(loss, seen), strict=True
            ):
                gates = (values.detach() * gradient).sum(1).view(len(chosen), group.count, group.width).sum(2)
                total += gates.abs().sum(0)
    return [total / len(rows) for total in totals]


@torch.inference_mode()
def activation_importance(
    model: TextClassifier, groups: Sequence[Group], examples: Examples, rows: NDArray[np.int64]
) -> list[Tensor]:
    """L2 norm of what a structure adds to the hidden states, in the mean over real tokens; for the rest as above."""
    totals = {group.reader: torch.zeros(group.count) for group in groups}
    by_reader = {group.reader: group for group in groups}
    weights = {name: model.get_parameter(f"{name}.weight").detach() for name in totals}
    mask = torch.empty(0)

    def add(name: str, inputs: Tensor) -> None:
        values, weight, group = inputs[mask], weights[name], by_reader[name]
        if group.width == 1:
            totals[name] += values.abs().sum(0) * weight.norm(dim=0)
            return
        heads = values.view(-1, group.count, group.width).unbind(1)
        columns = weight.view(-1, group.count, group.width).unbind(1)
        totals[name] += torch.stack([(h @ c.T).norm(dim=1).sum() for h, c in zip(heads, columns, strict=True)])

    with watching({name: model.get_submodule(name) for name in totals}, add):
        for _, input_ids, attention_mask in batches(model, examples.tokens, rows):
            mask = attention_mask.bool()
            model(input_ids, attention_mask)
    return [totals[group.reader] / float(examples.tokens.lengths[rows].sum()) for group in groups]


IMPORTANCE = {"taylor": taylor_importance, "activation": activation_importance}


def most_important(groups: Sequence[Group], importance: Sequence[Tensor], ratio: float) -> list[Tensor]:
    """The structures that stay: the least important of all groups go until their parameters make up the ratio.

    Importance counts relative to the mean of its group: gradients and activations grow and shrink from layer to layer,
    and a head is not to be compared with a neuron, which has a hundredth of its parameters.

    Args:
        groups: what may go.
        importance: for each group a tensor [count], 0 or more.
        ratio: share of all these parameters to remove, in (0, 1); overshot by less than one structure.

    Returns:
        For each group the indices that stay, ascending.

    Raises:
        ValueError: the ratio cannot be reached with what must stay.
    """
    relative = torch.cat([score / score.mean().clamp(min=torch.finfo(score.dtype).tiny) for score in importance])
    places = [(i, j) for i, group in enumerate(groups) for j in range(group.count)]
    stays = [torch.ones(group.count, dtype=torch.bool) for group in groups]
    left = [group.count for group in groups]
    total, removed = sum(group.count * group.parameters for group in groups), 0
    for position in relative.argsort(stable=True).tolist():
        if removed >= ratio * total:
            break
        i, j = places[position]
        if left[i] > groups[i].fewest:
            stays[i][j] = False
            left[i] -= 1
            removed += groups[i].parameters
    if removed < ratio * total:
        heads = {group.fewest for group in groups if group.kind == "heads"}
        limit = f" with prune.heads_left={min(heads)}" if heads else ""
        possible = math.floor(1000 * removed / total) / 1000
        raise ValueError(f"prune.ratio={ratio}: at most {possible:g} can be removed{limit}; lower it")
    return [kept.nonzero()[:, 0] for kept in stays]


def structured_cuts(groups: Sequence[Group], kept: Sequence[Tensor]) -> Cuts:
    """The rows and columns that stay of every matrix, given the structures that stay of every group."""
    cuts: Cuts = {}
    for group, structures in zip(groups, kept, strict=True):
        units = (structures[:, None] * group.width + torch.arange(group.width)).flatten()
        for name in ATTENTION if group.kind == "heads" else (GROWN,):
            cuts[f"{group.layer}.{name}"] = (units, None)
        cuts[group.reader] = (None, units)
    return cuts
