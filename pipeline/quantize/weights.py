"""Numbers in few bits: how an array becomes small integers and a scale, in NumPy alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

INT8_LARGEST = 127
UINT8_LARGEST = 255
INT4_LARGEST = 15


def int8_weights(weight: NDArray[np.float32], per_channel: bool) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """A matrix in int8 around zero, so that pruned weights stay exact zeros (Jacob et al. 2018, arXiv:1712.05877).

    Args:
        weight: [rows, columns].
        per_channel: whether each column has a scale of its own.

    Returns:
        Integers in [-127, 127] of the same shape, and the scale: [columns] or a scalar. Integers times scale are
        within half a scale of the weights.
    """
    largest = np.abs(weight).max(axis=0 if per_channel else None)
    scale = np.where(largest > 0, largest, 1).astype(np.float32) / np.float32(INT8_LARGEST)
    return np.rint(weight / scale).clip(-INT8_LARGEST, INT8_LARGEST).astype(np.int8), scale


def int4_blocks(
    weight: NDArray[np.float32], block_size: int
) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.uint8]]:
    """Rows in 4 bits, block by block; zero is always one of the 16 numbers.

    Args:
        weight: [rows, columns].
        block_size: neighbours in a row that share scale and zero point; divides the columns.

    Returns:
        Integers 0 to 15 [rows, columns], scales and zero points [rows, columns / block_size]. A weight is within half
        its scale of (integer - zero point) times scale.
    """
    blocks = weight.reshape(len(weight), -1, block_size)
    low, high = blocks.min(axis=2).clip(max=0), blocks.max(axis=2).clip(min=0)
    span = high - low
    scale = np.where(span > 0, span, 1).astype(np.float32) / np.float32(INT4_LARGEST)
    zero = np.rint(-low / scale)
    stored = (np.rint(blocks / scale[:, :, None]) + zero[:, :, None]).clip(0, INT4_LARGEST)
    return stored.astype(np.uint8).reshape(weight.shape), scale, zero.astype(np.uint8)


def pack_nibbles(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Two numbers below 16 in a byte, the first in the lower half; an odd last axis is filled up with a zero."""
    if values.shape[-1] % 2:
        values = np.concatenate([values, np.zeros_like(values[..., :1])], axis=-1)
    packed: NDArray[np.uint8] = values[..., ::2] | np.left_shift(values[..., 1::2], 4, dtype=np.uint8)
    return packed


def uint8_range(low: float, high: float) -> tuple[np.float32, np.uint8]:
    """Scale and zero point that map [low, high], widened to hold zero, to 0 … 255."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = np.float32((high - low) / UINT8_LARGEST) if high > low else np.float32(1.0)
    return scale, np.uint8(np.clip(np.rint(-low / float(scale)), 0, UINT8_LARGEST))
