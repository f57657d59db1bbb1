"""Tokenised comments: stored once, padded batch by batch to the batch's own longest comment."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from pipeline.arrays import map_array

BUCKET_BATCHES = 50
"""Batches that are sorted by length together: enough to pad little, few enough to stay random."""
ENCODED_AT_ONCE = 8192
"""Comments whose encodings are in memory together: one takes some fifty times as much as its token ids."""


@dataclass(frozen=True)
class Tokens:
    """Token ids of many comments, laid end to end."""

    ids: NDArray[np.int32]
    """[all tokens]"""
    offsets: NDArray[np.int64]
    """[comments + 1]: comment i is `ids[offsets[i]:offsets[i + 1]]`."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each comment, [comments]."""
        return np.diff(self.offsets)

    def save(self, folder: Path, name: str) -> None:
        """Write `NAME_token_ids.npy` and `NAME_token_offsets.npy`."""
        np.save(folder / f"{name}_token_ids.npy", self.ids)
        np.save(folder / f"{name}_token_offsets.npy", self.offsets)

    @classmethod
    def load(cls, folder: Path, name: str) -> Tokens:
        """What `save` wrote, read-only and memory-mapped: the processes of a node share one copy.

        Raises:
            OSError: a file is missing or is not whole.
        """
        return cls(map_array(folder / f"{name}_token_ids.npy"), map_array(folder / f"{name}_token_offsets.npy"))

    def pad(self, rows: NDArray[np.int64], pad_id: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """`input_ids` and `attention_mask` of these comments, both int64 [rows, longest of them]."""
        starts = self.offsets[rows]
        lengths = self.offsets[rows + 1] - starts
        position = np.arange(int(lengths.max()))
        mask = position < lengths[:, None]
        source = np.minimum(starts[:, None] + position, len(self.ids) - 1)
        ids = np.where(mask, self.ids[source], pad_id).astype(np.int64)
        return ids, mask.astype(np.int64)


def load_tokenizer(file: Path, max_tokens: int) -> Tokenizer:
    """A `tokenizer.json` that cuts at `max_tokens` and does not pad."""
    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_tokens)
    return tokenizer


def tokenise(tokenizer: Tokenizer, texts: Sequence[str]) -> Tokens:
    """Token ids of `texts`, special tokens included."""
    parts: list[NDArray[np.int32]] = []
    lengths: list[int] = []
    for start in range(0, len(texts), ENCODED_AT_ONCE):
        encodings = tokenizer.encode_batch_fast(list(texts[start : start + ENCODED_AT_ONCE]))
        rows = [encoding.ids for encoding in encodings]
        lengths += map(len, rows)
        parts.append(np.fromiter(chain.from_iterable(rows), dtype=np.int32))
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return Tokens(np.concatenate([np.empty(0, dtype=np.int32), *parts]), offsets)


def bucketed_batches(
    lengths: NDArray[np.int64], batch_size: int, generator: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Rows of each batch of one epoch: random, but of like length and like cost within and between batches.

    A batch holds at most as many tokens, padding included, as `batch_size` comments of average length: many short
    comments or few long ones. Equal work in every step keeps the processor's matrix units busy in all of them.

    Args:
        lengths: tokens of each comment, [n].
        batch_size: comments of a batch on average.
        generator: source of the order.

    Returns:
        Every row once, in batches of shuffled order.
    """
    order = generator.permutation(len(lengths))
    bucket = batch_size * BUCKET_BATCHES
    budget = batch_size * lengths.sum() / max(len(lengths), 1)
    batches: list[NDArray[np.int64]] = []
    for start in range(0, len(order), bucket):
        rows = order[start : start + bucket]
        rows = rows[np.argsort(lengths[rows], kind="stable")]
        first = 0
        for end in range(1, len(rows) + 1):
            # Sorted, so the next comment would be the longest and set the padding.
            if end == len(rows) or (end + 1 - first) * lengths[rows[end]] > budget:
                batches.append(rows[first:end])
                first = end
    return [batches[i] for i in generator.permutation(len(batches))]


def sorted_batches(
    lengths: NDArray[np.int64], batch_size: int, budget: float = math.inf
) -> Iterator[NDArray[np.int64]]:
    """Rows in batches from the shortest comment to the longest, for inference.

    Args:
        lengths: tokens of each comment, [n].
        batch_size: comments of a batch at most.
        budget: tokens of a batch at most, padding included; a comment that has more is a batch of its own.
    """
    order = np.argsort(lengths, kind="stable")
    first = 0
    while first < len(order):
        rows = order[first : first + batch_size]
        # Sorted, so the last comment of a batch is its longest and sets the padding.
        tokens = np.arange(1, len(rows) + 1) * lengths[rows]
        rows = rows[: max(1, int(np.searchsorted(tokens, budget, side="right")))]
        yield rows
        first += len(rows)
