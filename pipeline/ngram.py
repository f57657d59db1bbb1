"""The n-gram student: hashed character and word n-grams, an embedding bag, a small MLP, taught by the teacher's logits.

It answers in tens of microseconds, in NumPy alone: `pipeline.ngram_bag`. Here is what training and quantizing add.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from pipeline import ngram_bag
from pipeline.ngram_bag import HASHING, WEIGHTS
from pipeline.runtime import DEPLOY
from pipeline.tokens import Tokens

__all__ = ["HASHING", "WEIGHTS", "Hashing", "NgramClassifier", "quantize_ngram"]


@dataclass(frozen=True)
class Hashing(ngram_bag.Hashing):
    """How a text becomes rows of the table, and many texts the tokens that a bag is trained on."""

    def tokens(self, texts: Sequence[str]) -> Tokens:
        """The rows of many texts, laid end to end."""
        rows = [self(text) for text in texts]
        offsets = np.zeros(len(rows) + 1, dtype=np.int64)
        np.cumsum([len(row) for row in rows], out=offsets[1:])
        return Tokens(np.concatenate(rows).astype(np.int32), offsets)


class NgramClassifier(ngram_bag.NgramClassifier):
    """A stored bag, run by NumPy alone."""

    hashing: Hashing

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.hashing = Hashing(**asdict(self.hashing))


def quantize_ngram(method: str, block_size: int, source: Path, target: Path) -> None:
    """Write a bag again with its table in fewer bits; the MLP, a hundredth of it, stays in FP32 (FP16 for `fp16`).

    Args:
        method: `fp16`; `int8_dynamic`, with one scale a column; or `int4`, with one scale a block of a row.
        block_size: columns of a block in int4; divides the table's columns.
        source: folder of an unquantized bag.
        target: folder to write.

    Raises:
        ValueError: the method is none of these, or the block size does not divide the columns.
    """
    weights = load_file(source / WEIGHTS)
    table = weights["table"]
    if method == "fp16":
        weights = {name: values.astype(np.float16) for name, values in weights.items()}
    elif method == "int8_dynamic":
        scale = np.maximum(np.abs(table).max(axis=0), 1e-12) / 127.0
        weights |= {"table": np.rint(table / scale).astype(np.int8), "scale": scale.astype(np.float32)}
    elif method == "int4":
        weights |= _int4(table, block_size)
    else:
        raise ValueError(f"quantize.method={method!r}: not for an n-gram student; take fp16, int8_dynamic or int4")
    save_file(weights, target / WEIGHTS)
    for name in (HASHING, DEPLOY):
        shutil.copyfile(source / name, target / name)


def _int4(table: NDArray[np.float32], block_size: int) -> dict[str, NDArray[np.generic]]:
    """The table in 4 bits, -8 to 7 times the scale of the block, and the scales in FP16."""
    buckets, columns = table.shape
    if columns % block_size or columns % 2:
        raise ValueError(f"quantize.block_size={block_size}: does not divide distil.dimension={columns}; make it do so")
    blocks = table.reshape(buckets, -1, block_size)
    largest = np.take_along_axis(blocks, np.abs(blocks).argmax(-1, keepdims=True), -1)
    scale = (largest / -8.0).astype(np.float16)  # signed: the largest value is stored exactly, as -8
    divisor = np.where(scale == 0, 1, scale).astype(np.float32)
    values = (np.rint(blocks / divisor).clip(-8, 7) + 8).astype(np.uint8).reshape(buckets, columns)
    return {"table": values[:, 0::2] | values[:, 1::2] << 4, "scale": scale[..., 0]}
