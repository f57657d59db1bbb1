"""The n-gram student: hashed character and word n-grams, an embedding bag, a small MLP.

Bag of hashed n-grams as in fastText (Joulin et al. 2017, arXiv:1607.01759) and feature hashing (Weinberger et al. 2009,
arXiv:0902.2206), trained on the teacher's logits. It answers in tens of microseconds, in NumPy alone.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from pipeline.runtime import DEPLOY
from pipeline.tokens import Tokens

WEIGHTS, HASHING = "bag.safetensors", "hashing.json"

MULTIPLIER, MIXER = np.uint32(0x9E3779B1), np.uint32(0x85EBCA6B)


@dataclass(frozen=True)
class Hashing:
    """How a text becomes rows of the table."""

    buckets: int
    """A power of two."""
    smallest: int
    longest: int
    """Lengths of the character n-grams."""
    words: int
    """Longest sequence of whole words; 0 for none."""

    def __call__(self, text: str) -> NDArray[np.uint32]:
        """Table rows of every n-gram of a text, repeated ones repeated, at least one: the same on every platform.

        A rolling hash: each n-gram's is made from that of the (n-1)-gram before it by one multiplication and one
        addition, for all positions at once, modulo 2^32.
        """
        text = f" {text.lower()} "
        codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4").astype(np.uint32, copy=False)
        codes = codes * MIXER
        grams, parts = codes, []
        for length in range(2, self.longest + 1):
            grams = grams[:-1] * MULTIPLIER + codes[length - 1 :]
            if length >= self.smallest:
                parts.append(grams)
        if self.smallest == 1:
            parts.append(codes)
        if self.words:
            words = np.array([crc32(word) for word in text.encode("utf-8", "surrogatepass").split()], dtype=np.uint32)
            sequences = words
            parts.append(words)
            for length in range(2, self.words + 1):
                sequences = sequences[:-1] * MULTIPLIER + words[length - 1 :]
                parts.append(sequences)
        hashed = np.concatenate(parts)
        if not len(hashed):  # shorter than the shortest n-gram
            hashed = codes.copy()
        # The high bits of a product depend on all bits of the factor, the low ones only on the low ones.
        hashed ^= hashed >> np.uint32(15)
        hashed *= MIXER
        hashed >>= np.uint32(33 - self.buckets.bit_length())
        return hashed

    def save(self, folder: Path) -> None:
        """Write `hashing.json`."""
        (folder / HASHING).write_text(json.dumps(asdict(self)), encoding="utf-8")

    def tokens(self, texts: Sequence[str]) -> Tokens:
        """The rows of many texts, laid end to end."""
        rows = [self(text) for text in texts]
        offsets = np.zeros(len(rows) + 1, dtype=np.int64)
        np.cumsum([len(row) for row in rows], out=offsets[1:])
        return Tokens(np.concatenate(rows).astype(np.int32), offsets)


class NgramClassifier:
    """A stored bag, run by NumPy alone.

    The weights are `table` [buckets, dimension], and weight and bias of `hidden` and `head`. In int8 the table has a
    `scale` [dimension] for its columns; in int4 a byte holds two neighbouring columns, the first one in its low half,
    and `scale` [buckets, blocks] is of each row's blocks.
    """

    def __init__(self, folder: Path) -> None:
        self.hashing = Hashing(**json.loads((folder / HASHING).read_text(encoding="utf-8")))
        weights = load_file(folder / WEIGHTS)
        self.table, self.scale = weights["table"], weights.get("scale")
        self.hidden, self.head = (np.ascontiguousarray(weights[f"{name}.weight"].T) for name in ("hidden", "head"))
        self.hidden_bias, self.head_bias = weights["hidden.bias"], weights["head.bias"]

    def predict_logits(self, texts: Sequence[str], batch_size: int = 32) -> NDArray[np.float32]:
        """Logits [comments, labels] in the comments' order."""
        bags = np.stack([self._bag(self.hashing(text)) for text in texts])
        hidden = np.maximum(bags @ self.hidden + self.hidden_bias, 0.0)
        logits: NDArray[np.float32] = hidden @ self.head + self.head_bias
        return logits

    def _bag(self, rows: NDArray[np.uint32]) -> NDArray[np.float32]:
        """Sum of the table's rows over the square root of their number, [dimension]."""
        found = self.table.take(rows, axis=0)
        if self.table.dtype == np.uint8:
            bag = _sum_int4(found, self.scale.take(rows, axis=0))  # type: ignore[union-attr]
        elif self.table.dtype == np.int8:
            bag = np.add.reduce(found, axis=0, dtype=np.int32) * self.scale
        else:
            bag = np.add.reduce(found, axis=0, dtype=np.float32)
        scaled: NDArray[np.float32] = bag * np.float32(len(rows) ** -0.5)
        return scaled


def _sum_int4(packed: NDArray[np.uint8], scale: NDArray[np.float16]) -> NDArray[np.float32]:
    """Sum over rows of 4-bit values, stored 8 too high: packed [rows, columns / 2], scale [rows, blocks]."""
    halves = np.stack([packed & 15, packed >> 4], axis=-1).astype(np.float32) - 8.0
    blocks = halves.reshape(len(packed), scale.shape[1], -1)
    summed: NDArray[np.float32] = np.einsum("rbc,rb->bc", blocks, scale.astype(np.float32)).reshape(-1)
    return summed


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
