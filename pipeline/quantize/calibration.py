"""What linear layers are fed with, on comments that the model was trained on: the ranges of int8 activations.

Real tokens alone count. Padding is masked out of attention and pooling: what a padded position computes reaches no
answer, so nothing is lost where the range cuts it off.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.models import TextClassifier
from pipeline.tokens import Tokens, sorted_batches

Calibration = Literal["minmax", "entropy", "percentile"]
Range = tuple[float, float]
BATCH = 16
BINS = 2048
LEVELS = 128
"""Numbers that an int8 has for one sign."""
PERCENTILE = 99.99


def quantizable(model: TextClassifier) -> dict[str, nn.Linear]:
    """The linear layers that int8 multiplies, by their name in the model: all of the encoder's."""
    return {
        f"encoder.{name}": module for name, module in model.encoder.named_modules() if isinstance(module, nn.Linear)
    }


def calibration_rows(rows: int, wanted: int, seed: int) -> NDArray[np.int64]:
    """`wanted` different ones of so many rows, or all of them, sorted."""
    drawn = np.random.default_rng(seed).choice(rows, size=min(wanted, rows), replace=False)
    return np.sort(drawn)


def activation_ranges(model: TextClassifier, tokens: Tokens, calibration: Calibration = "minmax") -> dict[str, Range]:
    """The range of the numbers that each of the encoder's linear layers is fed with.

    Memory holds one small batch's activations and one histogram a layer, however many rows there are.

    Args:
        model: on CPU; is put into evaluation mode.
        tokens: the calibration comments.
        calibration: `minmax`, the whole range; `percentile` or `entropy`, see `percentile_range`, `entropy_range`.

    Returns:
        Lowest and highest value by layer name.
    """
    layers = quantizable(model.eval())
    extremes = {name: (np.inf, -np.inf) for name in layers}

    def widen(name: str, values: NDArray[np.float32]) -> None:
        low, high = extremes[name]
        extremes[name] = min(low, float(values.min())), max(high, float(values.max()))

    _watch(model, layers, tokens, widen)
    # A layer that no comment passes through is never asked, whatever its range.
    ranges = {name: (low, high) if low <= high else (0.0, 0.0) for name, (low, high) in extremes.items()}
    if calibration == "minmax":
        return ranges
    counts = {name: np.zeros(BINS, dtype=np.int64) for name in layers}

    def count(name: str, values: NDArray[np.float32]) -> None:
        counts[name] += np.histogram(values, bins=BINS, range=ranges[name])[0]

    _watch(model, layers, tokens, count)
    narrow = percentile_range if calibration == "percentile" else entropy_range
    return {name: narrow(counts[name], *ranges[name]) for name in layers}


def percentile_range(counts: NDArray[np.int64], low: float, high: float, percentile: float = PERCENTILE) -> Range:
    """The range without the outermost (100 - percentile) / 2 percent on either side (Wu et al. 2020, arXiv:2004.09602).

    Args:
        counts: histogram over [low, high].
        low: lower edge of the first bin.
        high: upper edge of the last bin.
        percentile: share of the values that stay within, in percent.
    """
    edges = np.linspace(low, high, len(counts) + 1)
    share = np.concatenate([[0.0], np.cumsum(counts) / max(1, counts.sum())])
    cut = (1.0 - percentile / 100.0) / 2.0
    first = int(np.searchsorted(share, cut, side="right")) - 1
    last = int(np.searchsorted(share, 1.0 - cut, side="left"))
    return float(edges[first]), float(edges[min(last, len(counts))])


def entropy_range(counts: NDArray[np.int64], low: float, high: float) -> Range:
    """The range cut at ±t, for the t that loses least information (Migacz 2017, 8-bit inference with TensorRT).

    For each t the magnitudes up to t, with all larger ones counted at t, are compared with the same merged to 128
    levels, by the Kullback-Leibler divergence of the first from the second.

    Args:
        counts: histogram over [low, high].
        low: lower edge of the first bin.
        high: upper edge of the last bin.
    """
    centres = np.linspace(low, high, len(counts), endpoint=False) + (high - low) / (2 * len(counts))
    largest = max(-low, high)
    if largest <= 0:
        return low, high
    magnitudes = np.histogram(np.abs(centres), bins=BINS, range=(0.0, largest), weights=counts)[0]
    divergences = [merging_divergence(magnitudes, bins) for bins in range(LEVELS, BINS + 1, LEVELS // 8)]
    threshold = largest * (LEVELS + int(np.argmin(divergences)) * (LEVELS // 8)) / BINS
    return max(low, -threshold), min(high, threshold)


def merging_divergence(magnitudes: NDArray[np.float64], bins: int) -> float:
    """Divergence of a histogram cut to `bins` bins, its tail in the last, from the same merged to 128 levels."""
    clipped = magnitudes[:bins].copy()
    edges = np.linspace(0, bins, LEVELS + 1).round().astype(int)
    filled = np.add.reduceat(clipped > 0, edges[:-1], dtype=np.int64)
    shared = np.add.reduceat(clipped, edges[:-1]) / np.maximum(filled, 1)
    merged = np.where(clipped > 0, np.repeat(shared, np.diff(edges)), 0.0)
    clipped[-1] += magnitudes[bins:].sum()
    total, levels = clipped.sum(), merged.sum()
    if not levels:
        return float("inf")
    # Mass that only the tail brings to the last bin meets a level of nothing there: as dear as float64 has it.
    first, second = clipped / total, np.maximum(merged / levels, np.finfo(np.float64).tiny)
    seen = first > 0
    return float((first[seen] * np.log(first[seen] / second[seen])).sum())


@contextmanager
def real_tokens(model: TextClassifier) -> Iterator[Callable[[Tensor], Tensor]]:
    """Give a function that takes, while the model runs, the real tokens' vectors from a tensor of all."""
    mask = torch.empty(0, dtype=torch.bool)

    def remember(_module: nn.Module, inputs: tuple[Tensor, Tensor]) -> None:
        nonlocal mask
        mask = inputs[1].bool()

    handle = model.register_forward_pre_hook(remember)
    try:
        yield lambda vectors: vectors[mask] if vectors.shape[:2] == mask.shape else vectors
    finally:
        handle.remove()


@torch.inference_mode()
def _watch(
    model: TextClassifier,
    layers: dict[str, nn.Linear],
    tokens: Tokens,
    look: Callable[[str, NDArray[np.float32]], None],
) -> None:
    """Show what each layer is fed with, real tokens alone, batch by batch."""
    with real_tokens(model) as select:

        def hook(name: str) -> torch.utils.hooks.RemovableHandle:
            return layers[name].register_forward_pre_hook(lambda _, inputs: look(name, select(inputs[0]).numpy()))

        handles = [hook(name) for name in layers]
        try:
            for rows in sorted_batches(tokens.lengths, BATCH):
                input_ids, attention_mask = tokens.pad(rows, model.pad_id)
                model(torch.from_numpy(input_ids), torch.from_numpy(attention_mask))
        finally:
            for handle in handles:
                handle.remove()
