"""Many texts in two flat arrays that processes can share by memory map; a text is decoded when it is asked for."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from operator import index
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray

from pipeline.arrays import map_array

_DECODED_AT_ONCE = 4096


class PackedTexts(Sequence[str]):
    """A read-only sequence of texts; a slice of it is a list."""

    def __init__(self, encoded: NDArray[np.uint8], offsets: NDArray[np.int64]) -> None:
        """Texts that are packed already.

        Args:
            encoded: all texts in UTF-8, laid end to end, [bytes].
            offsets: text i is `encoded[offsets[i]:offsets[i + 1]]`, ascending from 0 to the end, [texts + 1].
        """
        self.encoded, self.offsets = encoded, offsets

    @classmethod
    def of(cls, texts: Iterable[str]) -> PackedTexts:
        """These texts, packed; the same object if they are packed already."""
        if isinstance(texts, PackedTexts):
            return texts
        encoded, offsets = bytearray(), array("q", [0])
        for text in texts:
            encoded += text.encode()
            offsets.append(len(encoded))
        return cls(np.frombuffer(encoded, dtype=np.uint8), np.frombuffer(offsets, dtype=np.int64))

    @classmethod
    def load(cls, folder: Path, name: str) -> PackedTexts:
        """What `save` wrote, memory-mapped.

        Raises:
            OSError: a file is missing or is not whole.
        """
        return cls(map_array(folder / f"{name}_texts.npy"), map_array(folder / f"{name}_text_offsets.npy"))

    def save(self, folder: Path, name: str) -> None:
        """Write `NAME_texts.npy` and `NAME_text_offsets.npy`."""
        np.save(folder / f"{name}_texts.npy", self.encoded)
        np.save(folder / f"{name}_text_offsets.npy", self.offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @overload
    def __getitem__(self, where: int) -> str: ...
    @overload
    def __getitem__(self, where: slice) -> list[str]: ...
    def __getitem__(self, where: int | slice) -> str | list[str]:
        if isinstance(where, slice):
            return [self[row] for row in range(*where.indices(len(self)))]
        row = index(where) + (len(self) if where < 0 else 0)
        if not 0 <= row < len(self):
            raise IndexError(f"{where}: there are {len(self)} texts")
        return self.encoded[self.offsets[row] : self.offsets[row + 1]].tobytes().decode()

    def __iter__(self) -> Iterator[str]:
        encoded = self.encoded.data
        for start in range(0, len(self), _DECODED_AT_ONCE):
            bounds = self.offsets[start : start + _DECODED_AT_ONCE + 1].tolist()
            for begin, end in zip(bounds[:-1], bounds[1:], strict=True):
                yield str(encoded[begin:end], "utf-8")
