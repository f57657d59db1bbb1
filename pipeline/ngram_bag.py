"""An n-gram bag as it answers: hashing, and weights run by NumPy. It needs nothing else, and is exported as it is.

Bag of hashed n-grams as in fastText (Joulin et al. 2017, arXiv:1607.01759) and feature hashing (Weinberger et al. 2009,
arXiv:0902.2206).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

WEIGHTS, HASHING = "bag.safetensors", "hashing.json"
STORED_TYPES = {"F32": "<f4", "F16": "<f2", "I8": "|i1", "U8": "|u1"}
"""What safetensors calls the number formats of a bag."""

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


class NgramClassifier:
    """A stored bag, run by NumPy alone.

    The weights are `table` [buckets, dimension], and weight and bias of `hidden` and `head`. In int8 the table has a
    `scale` [dimension] for its columns; in int4 a byte holds two neighbouring columns, the first one in its low half,
    and `scale` [buckets, blocks] is of each row's blocks.
    """

    def __init__(self, folder: Path) -> None:
        self.hashing = Hashing(**json.loads((folder / HASHING).read_text(encoding="utf-8")))
        weights = read_safetensors(folder / WEIGHTS)
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


def read_safetensors(file: Path) -> dict[str, NDArray[Any]]:
    """The tensors of a safetensors file by name: 8 bytes with the header's length, the header in JSON, the numbers.

    Raises:
        KeyError: a tensor has a number format that no bag has.
    """
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        header: dict[str, Any] = json.loads(opened.read(length))
    header.pop("__metadata__", None)
    return {name: _read_tensor(file, 8 + length, tensor) for name, tensor in header.items()}


def _read_tensor(file: Path, start: int, tensor: dict[str, Any]) -> NDArray[Any]:
    kind = np.dtype(STORED_TYPES[tensor["dtype"]])
    first, end = tensor["data_offsets"]
    return np.fromfile(file, kind, (end - first) // kind.itemsize, offset=start + first).reshape(tensor["shape"])
