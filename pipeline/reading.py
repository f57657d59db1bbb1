"""Read a file of comments into columns; what is wrong with the file is added to a list of problems, never raised."""

from __future__ import annotations

import csv
import difflib
import io
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.config import EMBEDDED, DataConfig
from pipeline.line_stream import LONGEST_LINE

if TYPE_CHECKING:
    from pandas import Series

SUFFIXES = (".csv", ".tsv", ".parquet")
LONGEST_TEXT = 2 * LONGEST_LINE
"""Characters of a field of CSV, to which a quotation mark that is never closed is followed."""
_EMPTY = "empty file; it needs a header and rows"
# The mark of UTF-32 begins like that of UTF-16, so it is tried first.
_BYTE_ORDER_MARKS = {b"\xff\xfe\0\0": "UTF-32", b"\0\0\xfe\xff": "UTF-32", b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}


@dataclass(frozen=True, eq=False)
class Table:
    """The columns found, as they stand in the file, and where each row stands in it."""

    columns: dict[str, Series]
    places: NDArray[np.int64]
    """Line of each row in a CSV file, else its number; both from 1. Shape (rows,)."""
    unit: str
    """`line` or `row`."""
    whole: bool = True
    """Whether every row of the file is here: malformed ones are left out."""

    def where(self, faulty: NDArray[np.bool_]) -> str:
        """`line 3`, `lines 3, 9, 12, …`."""
        return place_list(self.unit, self.places[faulty])


def read_table(config: DataConfig, problems: list[str]) -> Table | None:
    """The columns that the config names, as far as they can be read, or None; adds what is wrong to `problems`."""
    if config.path == EMBEDDED:
        return _read_embedded(config, problems)
    try:
        return _read_file(Path(config.path), config, problems)
    except OSError as error:
        key = f"data.path={config.path!r}"
        problems.append(f"{key}: cannot be read ({error.strerror or error}); check its name and permissions")
        return None


def _read_embedded(config: DataConfig, problems: list[str]) -> Table | None:
    from pipeline.sample import generate_comments

    frame = generate_comments(config.sample_rows, config.seed)
    found = _find_columns(list(frame.columns), "the embedded sample", config, problems)
    return Table({name: frame[name] for name in found}, np.arange(1, len(frame) + 1), "row")


def _read_file(path: Path, config: DataConfig, problems: list[str]) -> Table | None:
    key = f"data.path={config.path!r}"
    if path.is_dir():
        files = sorted(file.name for file in path.iterdir() if file.suffix.lower() in SUFFIXES)
        problems.append(f"{key}: is a folder; name one file in it" + (f" (has: {_listed(files)})" if files else ""))
    elif not path.exists():
        near = difflib.get_close_matches(path.name, [file.name for file in path.absolute().parent.glob("*")], n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; give a file or {EMBEDDED!r}, the synthetic sample"
        problems.append(f"{key}: no such file (looked in {path.absolute().parent}){hint}")
    elif path.suffix.lower() not in SUFFIXES:
        problems.append(f"{key}: unsupported suffix {path.suffix!r}; save it as one of {', '.join(SUFFIXES)}")
    elif path.stat().st_size == 0:
        problems.append(f"{key}: {_EMPTY}")
    else:
        if path.suffix.lower() == ".parquet":
            return _read_parquet(path, config, problems)
        content = _in_utf8(path.read_bytes(), path, key, problems)
        return None if content is None else _read_csv(content, path, config, problems)
    return None


def _in_utf8(content: bytes, path: Path, key: str, problems: list[str]) -> bytes | None:
    """The content without NUL bytes, or None where it is not UTF-8."""

    def convert(encoding: str) -> str:
        name = shlex.quote(path.name)
        return f"`iconv -f {encoding} -t UTF-8 {name} > {shlex.quote(path.stem + '.utf8' + path.suffix)}`"

    for mark, encoding in _BYTE_ORDER_MARKS.items():
        if content.startswith(mark):
            problems.append(f"{key}: encoded in {encoding} (by its byte-order mark), not UTF-8; {convert(encoding)}")
            return None
    nul = content.find(b"\0")
    if nul >= 0:
        if content.count(b"\0") > len(content) // 5:
            encoding = "UTF-16LE" if nul % 2 else "UTF-16BE"
            problems.append(f"{key}: looks encoded in {encoding}, not UTF-8; {convert(encoding)}")
            return None
        line = content.count(b"\n", 0, nul) + 1
        clean = f"`tr -d '\\000' < {shlex.quote(path.name)} > {shlex.quote(path.stem + '.clean' + path.suffix)}`"
        problems.append(f"{key}: holds NUL bytes, the first in line {line} (byte offset {nul}); {clean}")
        content = content.replace(b"\0", b"")
    try:
        content.decode()  # for its errors alone: the rows are decoded one by one, to hold no second copy
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        problems.append(
            f"{key}: not UTF-8 at byte offset {error.start} (line {line}, byte 0x{content[error.start]:02x}); name the "
            f"encoding that it has, for instance {convert('WINDOWS-1252')}, or save it as 'CSV UTF-8'"
        )
        return None
    return content


def _read_csv(content: bytes, path: Path, config: DataConfig, problems: list[str]) -> Table | None:
    """Through the csv module: unlike pandas it knows the line of every row and refuses rows cut short."""
    import pandas as pd

    key = f"data.path={config.path!r}"
    separator = "\t" if path.suffix.lower() == ".tsv" and config.separator == "," else config.separator
    if separator in '"\r\n\0':
        return None
    header: list[str] = []
    found: dict[str, int] = {}
    columns: list[list[str]] = []
    places: list[int] = []
    ragged: list[int] = []
    line, whole = 1, True
    csv.field_size_limit(LONGEST_TEXT)
    opened = io.TextIOWrapper(io.BytesIO(content), "utf-8-sig", newline="")
    reader = csv.reader(opened, delimiter=separator, strict=True)
    try:
        for row in reader:
            place, line = line, reader.line_num + 1
            if not "".join(row).strip():
                continue
            if not header:
                header = row
                if (other := _other_separator(row, separator)) is not None:
                    remedy = f"set data.separator={other!r}" if other != config.separator else "rename it to .csv"
                    problems.append(f"{key}: looks separated by {other!r}: {remedy}")
                    return None
                found = _find_columns(header, path.name, config, problems)
                columns = [[] for _ in found]
            elif len(row) == len(header):
                for column, index in zip(columns, found.values(), strict=True):
                    column.append(row[index])
                places.append(place)
            else:
                ragged.append(place)
    except csv.Error as error:
        whole = False
        remedy = "close its quotation mark, or shorten its text"
        if "field limit" not in str(error):
            texts = "texts that hold the separator, a quotation mark or a line break"
            remedy = f'put {texts} in "…", and double each quotation mark inside'
        problems.append(f"{key}: malformed row in line {line} ({error}); {remedy}")
    if whole and not places and not ragged:
        problems.append(f"{key}: no rows below the header; add comments" if header else f"{key}: {_EMPTY}")
    if ragged:
        problems.append(
            f"{key}: {counted(len(ragged), 'row')} with another number of fields than the {len(header)} of the header "
            f'({place_list("line", ragged)}); put texts that hold {separator!r} in "…", or mend the rows'
        )
    series = {name: pd.Series(values, dtype=str) for name, values in zip(found, columns, strict=True)}
    return Table(series, np.array(places, dtype=np.int64), "line", whole and not ragged)


def _read_parquet(path: Path, config: DataConfig, problems: list[str]) -> Table | None:
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: dict[str, Series] = {}
    try:
        with pq.ParquetFile(path) as file:
            found = _find_columns(file.schema_arrow.names, path.name, config, problems)
            table = file.read(columns=list(found))
            rows = file.metadata.num_rows
        for name in found:
            column = table.column(name)
            if pa.types.is_dictionary(column.type):
                column = column.cast(column.type.value_type)
            is_text = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
            if name == config.text_column and not is_text:
                problems.append(
                    f"data.text_column={name!r}: {path.name} holds {column.type} there, not strings; name the column "
                    "with the texts, or convert this one"
                )
            elif not (is_text or _is_number(column.type)):
                found_type = f"{path.name} holds {column.type} there"
                problems.append(f"data.label_columns={name!r}: {found_type}; write 0 or 1 as integers")
            else:
                column.validate(full=True)
                columns[name] = pd.Series(column.to_pylist(), dtype=object) if is_text else column.to_pandas()
    except (pa.ArrowException, OSError) as error:
        reason = str(error).split("\n")[0]
        problems.append(f"data.path={config.path!r}: not a whole Parquet file ({reason}); write or copy it again")
        return None
    if rows == 0:
        problems.append(f"data.path={config.path!r}: no rows in the file; add comments")
    return Table(columns, np.arange(1, rows + 1), "row")


def _is_number(kind: Any) -> bool:
    import pyarrow as pa

    tests = (pa.types.is_boolean, pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_null)
    return any(test(kind) for test in tests)


def _find_columns(header: Sequence[str], source: str, config: DataConfig, problems: list[str]) -> dict[str, int]:
    """Position of each column that the config names and the header has once."""
    found = {}
    wanted = dict.fromkeys([config.text_column, *config.label_columns])
    spare = [name for name in header if name not in wanted]
    for name in wanted:
        key = "text_column" if name == config.text_column else "label_columns"
        times = header.count(name)
        if times == 1:
            found[name] = header.index(name)
        elif times:
            problems.append(f"data.{key}={name!r}: {times} columns of {source} have this name; rename or remove one")
        else:
            near = difflib.get_close_matches(name, spare, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            problems.append(f"data.{key}={name!r}: no such column in {source} (has: {_listed(header)}){hint}")
    return found


def _other_separator(header: list[str], separator: str) -> str | None:
    if len(header) > 1:
        return None
    return next((other for other in (";", "\t", "|", ",") if other != separator and other in header[0]), None)


def counted(count: int, noun: str) -> str:
    """`1 row`, `2 rows`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def place_list(unit: str, places: Sequence[int] | NDArray[np.int64]) -> str:
    """`line 3`; `lines 3, 9, 12, …`."""
    shown = ", ".join(str(place) for place in places[:3])
    return f"{unit}{'s' if len(places) > 1 else ''} {shown}{', …' if len(places) > 3 else ''}"


def _listed(names: Sequence[str]) -> str:
    shown = [name if len(name) <= 40 else name[:39] + "…" for name in names[:20]]
    return ", ".join(shown + ["…"] * (len(names) > 20))
