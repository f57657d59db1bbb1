"""Lines from a file, a pipe or a terminal as they come, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from io import RawIOBase
from select import select
from time import monotonic

LONGEST_LINE = 2**20
"""Bytes of a line, without its end."""
BLOCK = 2**16
"""Bytes that are asked for at once; at most so many, and a line of the greatest length, are held."""
PATIENCE = 0.02
"""Seconds that lines wait for others to be answered with, when no more come at once."""


class Mark(Enum):
    """What stands in a stream beside lines."""

    TOO_LONG = 1
    """A line that is longer than `LONGEST_LINE`; its bytes are gone."""
    TOO_LONG_ODD = 2
    """The same, with an odd number of quotation marks: in CSV it opens a quoted text that it does not close, or closes
    one that it did not open."""
    PAUSE = 3
    """No more for now: answer what is there."""


class LineSplitter:
    """Lines out of blocks of bytes; ends at `\\n` alone, and holds no more of a line than may be long."""

    def __init__(self) -> None:
        self._begun = bytearray()
        self._quotes_left_out = 0

    def feed(self, block: bytes) -> list[bytes | Mark]:
        """The lines that end in this block, without their `\\n`."""
        first, *others = block.split(b"\n")
        if len(self._begun) <= LONGEST_LINE + 1:  # beyond that it is too long, whatever follows
            self._begun += first
        else:
            self._quotes_left_out += first.count(b'"')
        if not others:
            return []
        ended = [_not_too_long(bytes(self._begun), self._quotes_left_out), *map(_not_too_long, others[:-1])]
        self._begun, self._quotes_left_out = bytearray(others[-1]), 0
        return ended

    def end(self) -> list[bytes | Mark]:
        """The last line, if it has no `\\n`."""
        return [_not_too_long(bytes(self._begun), self._quotes_left_out)] if self._begun else []


def _not_too_long(line: bytes, quotes_left_out: int = 0) -> bytes | Mark:
    if len(line) - line.endswith(b"\r") <= LONGEST_LINE:
        return line
    return Mark.TOO_LONG_ODD if (line.count(b'"') + quotes_left_out) % 2 else Mark.TOO_LONG


def read_lines(raw: RawIOBase) -> Iterator[bytes | Mark]:
    """Lines of a file, a pipe or a terminal, with a pause wherever the next one lets wait."""
    splitter = LineSplitter()
    oldest: float | None = None
    while True:
        if oldest is not None and not _readable(raw, max(0.0, oldest + PATIENCE - monotonic())):
            yield Mark.PAUSE
            oldest = None
        _readable(raw, None)
        block = raw.read(BLOCK)
        if block is None:  # a pipe that does not block, and another process was quicker
            continue
        lines = splitter.feed(block) if block else splitter.end()
        if lines and oldest is None:
            oldest = monotonic()
        yield from lines
        if not block:
            return


def _readable(raw: RawIOBase, seconds: float | None) -> bool:
    return bool(select([raw], [], [], seconds)[0])
