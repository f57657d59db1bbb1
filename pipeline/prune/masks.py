"""Which weights are set to zero, and how they are held there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from pipeline.models import TextClassifier, cut, encoder_layers

Scope = Literal["encoder", "attention", "ffn", "all"]
Granularity = Literal["layer", "row", "global"]
Matrix = nn.Linear | nn.Embedding
Cuts = dict[str, tuple[Tensor | None, Tensor | None]]
"""Rows and columns that stay, by the matrix's name; None for all."""
ATTENTION = ("attention", "attn", "self_attn")
"""What architectures call the attention part of a layer."""


def matrices_in(model: TextClassifier, scope: Scope) -> dict[str, Matrix]:
    """The matrices that a scope names, by their names in the model; the head stays out.

    Raises:
        ValueError: the layers have no part of this kind.
    """
    if scope == "all":
        modules = _modules(model, model.encoder)
        return {name: m for name, m in modules.items() if isinstance(m, nn.Linear | nn.Embedding)}
    layers = {name: m for name, m in _modules(model, encoder_layers(model)).items() if isinstance(m, nn.Linear)}
    if scope == "encoder":
        return dict(layers)
    inside = {name: not set(ATTENTION).isdisjoint(name.split(".")) for name in layers}
    chosen = {name: layer for name, layer in layers.items() if inside[name] == (scope == "attention")}
    if not chosen:
        kind = type(model.encoder).__name__
        raise ValueError(f"prune.scope={scope}: the layers of {kind} have no such part; take encoder or all")
    return dict(chosen)


def _modules(model: TextClassifier, part: nn.Module) -> dict[str, nn.Module]:
    """The modules below `part`, by their names in the whole model."""
    prefix = name_of(model, part)
    return {f"{prefix}.{name}": module for name, module in part.named_modules() if name}


def name_of(model: TextClassifier, part: nn.Module) -> str:
    """What a part of the model is called in it."""
    names: list[str] = [name for name, module in model.named_modules() if module is part]
    return names[0]


def magnitude_scores(matrices: Mapping[str, Matrix]) -> dict[str, Tensor]:
    """|W| of each matrix, in its shape (Han et al. 2015, arXiv:1506.02626)."""
    return {name: matrix.weight.detach().abs() for name, matrix in matrices.items()}


def wanda_scores(matrices: Mapping[str, Matrix], norms: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """|W|·‖X‖₂ of each matrix, in its shape (Sun et al. 2023, arXiv:2306.11695).

    Args:
        matrices: linear layers [outputs, inputs] and embeddings [tokens, width].
        norms: the L2 norm of each input over the calibration tokens, [inputs], or [1] for all.
    """
    return {name: score * norms[name] for name, score in magnitude_scores(matrices).items()}


def drop_smallest(scores: Mapping[str, Tensor], sparsity: float, granularity: Granularity) -> dict[str, Tensor]:
    """The weights with the smallest scores; the first of equals goes first.

    Args:
        scores: of each matrix, [rows, columns].
        sparsity: share to drop, in [0, 1].
        granularity: where the share holds: in each matrix (`layer`), in each of its rows, or in all together.

    Returns:
        For each matrix a boolean tensor of its shape, true where a weight is dropped: exactly `round(sparsity * n)` of
        the n weights of each group.
    """
    if granularity == "row":
        return {name: _smallest(score, sparsity) for name, score in scores.items()}
    if granularity == "layer":
        return {name: _smallest(score.reshape(1, -1), sparsity).view_as(score) for name, score in scores.items()}
    joined = _smallest(torch.cat([score.flatten() for score in scores.values()])[None], sparsity)[0]
    sizes = [score.numel() for score in scores.values()]
    parts: tuple[Tensor, ...] = torch.split(joined, sizes)
    return {name: part.view_as(score) for (name, score), part in zip(scores.items(), parts, strict=True)}


def _smallest(scores: Tensor, sparsity: float) -> Tensor:
    """True for each row's `round(sparsity * columns)` smallest of scores [rows, columns]."""
    count = round(sparsity * scores.shape[1])
    if count == 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    # Selecting is linear in the weights where sorting is not: gradual pruning does this many times in a run.
    limit = scores.kthvalue(count, dim=1, keepdim=True).values
    below, equal = scores < limit, scores == limit
    return below | (equal & (equal.cumsum(1) <= count - below.sum(1, keepdim=True)))


class Masks:
    """The weights of a model that are held at zero."""

    def __init__(self, model: TextClassifier) -> None:
        self.model = model
        self.dropped: dict[str, Tensor] = {}
        """True where a weight is held, by the matrix's name."""

    def add(self, dropped: Mapping[str, Tensor]) -> None:
        """Hold these weights beside those held already, from now on."""
        for name, mask in dropped.items():
            self.dropped[name] = mask | self.dropped[name] if name in self.dropped else mask
        self.hold()

    @torch.no_grad()
    def hold(self) -> None:
        """Fill with 0.0: a product with the mask would leave -0.0 here and there, which zstd packs badly."""
        for name, mask in self.dropped.items():
            weight = self._weight(name)
            self.dropped[name] = mask = mask.to(weight.device)
            weight.masked_fill_(mask, 0.0)

    def are_held(self) -> bool:
        """Whether every held weight is zero just now."""
        weights = {name: self._weight(name).cpu() for name in self.dropped}
        return not any(bool(weights[name][mask.cpu()].any()) for name, mask in self.dropped.items())

    def cut(self, cuts: Cuts) -> None:
        """Keep only these rows and columns of the model's matrices, and of their masks."""
        for name, (rows, columns) in cuts.items():
            matrix = self.model.get_submodule(name)
            if not isinstance(matrix, nn.Linear | nn.Embedding):
                raise TypeError(f"{name} is no matrix but a {type(matrix).__name__}")
            cut(matrix, rows, columns)
            if name in self.dropped:
                mask = self.dropped[name]
                mask = mask if rows is None else mask[rows]
                self.dropped[name] = mask if columns is None else mask[:, columns]

    def _weight(self, name: str) -> Tensor:
        return self.model.get_parameter(f"{name}.weight")
