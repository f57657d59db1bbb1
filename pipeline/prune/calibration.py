"""Run a model on some comments and look at what goes into its layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.models import TextClassifier
from pipeline.tokens import Tokens, sorted_batches
from pipeline.training import INFERENCE_BATCH

See = Callable[[str, Tensor], None]


def draw_rows(comments: int, count: int, seed: int) -> NDArray[np.int64]:
    """At most `count` of the comments, ascending, int64; the seed decides which."""
    generator = np.random.default_rng(seed)
    return np.sort(generator.choice(comments, size=min(count, comments), replace=False)).astype(np.int64)


@contextmanager
def watching(layers: Mapping[str, nn.Module], see: See) -> Iterator[None]:
    """While this is open, `see(name, input)` is called before each of these layers runs."""

    def watch(name: str, layer: nn.Module) -> torch.utils.hooks.RemovableHandle:
        return layer.register_forward_pre_hook(lambda _module, inputs: see(name, inputs[0]))

    handles = [watch(name, layer) for name, layer in layers.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def batches(
    model: TextClassifier, tokens: Tokens, rows: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], Tensor, Tensor]]:
    """The rows of each batch, their `input_ids` and their `attention_mask`, int64 [batch, longest of them]."""
    for chosen in sorted_batches(tokens.lengths[rows], INFERENCE_BATCH):
        input_ids, attention_mask = tokens.pad(rows[chosen], model.pad_id)
        yield rows[chosen], torch.from_numpy(input_ids), torch.from_numpy(attention_mask)


@torch.inference_mode()
def activation_norms(
    model: TextClassifier, matrices: Mapping[str, nn.Linear | nn.Embedding], tokens: Tokens, rows: NDArray[np.int64]
) -> dict[str, Tensor]:
    """L2 norm of every input of each linear layer over all real tokens of these comments; padding does not count.

    The inputs of an embedding are one-hot, and their norms would be counts: a token that calibration does not show
    would lose its whole vector. Each is taken to stand at every place instead.

    Args:
        model: in evaluation mode.
        matrices: linear layers of the model that see [batch, tokens, inputs], and embeddings.
        tokens: all comments.
        rows: the calibration comments.

    Returns:
        For each linear layer a tensor [inputs], for each embedding [1].
    """
    linear = {name: matrix for name, matrix in matrices.items() if isinstance(matrix, nn.Linear)}
    squares = {name: torch.zeros(layer.in_features) for name, layer in linear.items()}
    mask = torch.empty(0)

    def add(name: str, inputs: Tensor) -> None:
        squares[name] += inputs[mask].square().sum(0)

    with watching(linear, add):
        for _, input_ids, attention_mask in batches(model, tokens, rows):
            mask = attention_mask.bool()
            model(input_ids, attention_mask)
    everywhere = torch.tensor([float(tokens.lengths[rows].sum())])
    return {name: squares.get(name, everywhere).sqrt() for name in matrices}
