"""Comments out of the lines of an input, one by one: what cannot be read is named in its place."""

from __future__ import annotations

import csv
import difflib
import json
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Literal, NamedTuple

from pipeline.errors import InputError
from pipeline.line_stream import LONGEST_LINE, Mark

Format = Literal["lines", "jsonl", "csv", "tsv"]
SUFFIXES: dict[str, Format] = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "tsv"}

CHUNK, CHUNK_CHARACTERS = 2048, 4 * LONGEST_LINE
"""Comments, and characters in them, that are answered together at most."""

TOO_LONG_LINE = f"longer than {LONGEST_LINE:,} bytes"
TOO_LONG_ROW = f"row {TOO_LONG_LINE}; is a quotation mark never closed?"
GIVEN_UP = 2 * LONGEST_LINE + 1
"""A row of more bytes is not followed to its end: a quotation mark is never closed, and the next line begins a row."""
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Comment(NamedTuple):
    """One line of the input, or one row."""

    line: int
    """Where it begins in the input, from 1."""
    text: str = ""
    error: str = ""
    """Why there is no text; empty if there is one."""
    id: str = ""
    """The caller's own, in JSON; empty for none."""


def read_comments(lines: Iterable[bytes | Mark], kind: Format, field: str) -> Iterator[Comment | Mark]:
    """One comment for each line, or for each row below the header, and the pauses.

    Args:
        lines: as `read_lines` gives them.
        kind: `lines`: each is a text. `jsonl`: each is a JSON string, or an object with the text and perhaps an `id`.
            `csv`, `tsv`: the first row names the columns; one of them may be `id`.
        field: of the object, or the column, that holds the text.

    Raises:
        InputError: the header is missing or has no such column.
    """
    if kind in ("csv", "tsv"):
        yield from _read_rows(lines, "," if kind == "csv" else "\t", field)
        return
    parse = _json_parser(field) if kind == "jsonl" else _as_text
    number = 0
    for line in lines:
        if line is Mark.PAUSE:
            yield Mark.PAUSE
            continue
        number += 1
        try:
            text, own = parse(_decoded(line, number).removesuffix("\r"))
        except ValueError as error:
            yield Comment(number, error=str(error))
        else:
            yield Comment(number, text, id=own)


def in_chunks(comments: Iterable[Comment | Mark]) -> Iterator[list[Comment]]:
    """Comments to answer together, never none: as many as there are before a pause, up to `CHUNK`."""
    chunk: list[Comment] = []
    characters = 0
    for comment in comments:
        if isinstance(comment, Comment):
            chunk.append(comment)
            characters += len(comment.text)
            if len(chunk) < CHUNK and characters < CHUNK_CHARACTERS:
                continue
        if chunk:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk


def _decoded(line: bytes | Mark, number: int) -> str:
    """The line's text; ValueError says why there is none."""
    if isinstance(line, Mark):
        raise ValueError(TOO_LONG_LINE)
    if number == 1:
        line = line.removeprefix(_BYTE_ORDER_MARK)
    if b"\0" in line:
        raise ValueError("binary: it holds NUL bytes")
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8: byte 0x{line[error.start]:02x} at offset {error.start}") from error


def _as_text(line: str) -> tuple[str, str]:
    return line, ""


def _json_parser(field: str) -> Callable[[str], tuple[str, str]]:
    """From a line to its text and the caller's `id` in JSON; ValueError says what is wrong with it."""
    decode = json.JSONDecoder().decode

    def parse(line: str) -> tuple[str, str]:
        try:
            found = decode(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"not JSON: {error.msg} at character {error.pos + 1}") from error
        except (ValueError, RecursionError) as error:
            raise ValueError(f"not JSON that can be read: {str(error).partition(';')[0]}") from error
        own = ""
        if isinstance(found, dict):
            if field not in found:
                raise ValueError(f"no field {json.dumps(field)}")
            try:
                own = to_json(found["id"]) if "id" in found else ""
            except (ValueError, RecursionError) as error:
                raise ValueError("its id cannot be written as JSON: nested too deep, or no finite number") from error
            found = found[field]
            if not isinstance(found, str):
                raise ValueError(f"field {json.dumps(field)} is no string")
        if not isinstance(found, str):
            raise ValueError("neither a JSON string nor an object")
        return _whole_characters(found), own

    return parse


def _whole_characters(text: str) -> str:
    """The text with U+FFFD for each half of a surrogate pair that stands alone, as half an emoji that was cut off."""
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def to_json(value: object) -> str:
    """JSON that can be written as UTF-8: readable where the characters allow it.

    Raises:
        ValueError: a number in it is not finite.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value)
    return text


class _Paused(Exception):
    """The csv module asked for the first line of a row, and there is none for now."""


class _RowLines:
    """Lines for the csv module, which takes as many as a row needs: of one row at most `LONGEST_LINE` bytes.

    A line with a fault goes there too, or the rest of its row would be taken for rows: as it stands, or, where the row
    is too long, no more of it than tells whether the row goes on.
    """

    def __init__(self, lines: Iterable[bytes | Mark]) -> None:
        self._lines = iter(lines)
        self.number = self.begun = self._bytes = 0
        self.fault = ""
        """Why the row cannot be read; empty if it can."""

    def new_row(self) -> None:
        """The next line begins a row."""
        self.begun = self._bytes = 0
        self.fault = ""

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        for line in self._lines:
            if line is not Mark.PAUSE:
                return self._counted(line)
            if not self.begun:
                raise _Paused
        raise StopIteration

    def _counted(self, line: bytes | Mark) -> str:
        self.number += 1
        self.begun = self.begun or self.number
        self._bytes += len(line) if isinstance(line, bytes) else LONGEST_LINE + 1
        if self._bytes > GIVEN_UP:
            raise ValueError(TOO_LONG_ROW)
        if isinstance(line, Mark) or self._bytes > LONGEST_LINE:
            self.fault = self.fault or TOO_LONG_ROW
            odd = line is Mark.TOO_LONG_ODD if isinstance(line, Mark) else line.count(b'"') % 2
            return '"\n' if odd else "\n"
        try:
            return _decoded(line, self.number) + "\n"
        except ValueError as error:
            where = f"line {self.number}: " if self.number > self.begun else ""
            self.fault = self.fault or f"{where}{error}"
            return line.decode(errors="replace") + "\n"


def _read_rows(lines: Iterable[bytes | Mark], separator: str, field: str) -> Iterator[Comment | Mark]:
    csv.field_size_limit(2 * LONGEST_LINE)  # a row's own limit is lower
    source = _RowLines(lines)
    rows = csv.reader(source, delimiter=separator, strict=True)
    header: list[str] | None = None
    while True:
        source.new_row()
        row: list[str] | None = []
        try:
            row = next(rows, None)
        except _Paused:
            yield Mark.PAUSE
        except csv.Error as error:
            source.fault = source.fault or f"malformed row: {error}"
        except ValueError as error:
            source.fault = str(error)
        if source.fault:
            if header is None:
                raise InputError([f"header of the input: {source.fault}; its first row must name the columns"])
            yield Comment(source.begun, error=source.fault)
            continue
        if row is None:
            break
        if not row:  # a blank line
            continue
        if header is None:
            header = row
            text, own = _columns(header, field)
        elif len(row) != len(header):
            yield Comment(source.begun, error=f"row of {len(row)} where the header names {len(header)} columns")
        else:
            yield Comment(source.begun, row[text], id="" if own is None else to_json(row[own]))
    if header is None:
        raise InputError(["the input is empty: CSV needs a header that names the columns"])


def _columns(header: list[str], field: str) -> tuple[int, int | None]:
    """Where text and `id` stand."""
    if header.count(field) != 1:
        has = ", ".join(islice(header, 20))
        near = difflib.get_close_matches(field, header, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "name it with --text-column"
        fault = "more than one such column" if field in header else "no such column"
        raise InputError([f"--text-column {field!r}: {fault} in the input (has: {has}); {hint}"])
    return header.index(field), header.index("id") if header.count("id") == 1 and field != "id" else None
