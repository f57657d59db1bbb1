"""Every column of a file of comments, before anybody has said which of them matter."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.config import EMBEDDED, DataConfig
from pipeline.errors import InputError
from pipeline.reading import read_table

if TYPE_CHECKING:
    from pandas import Series

SEPARATORS = (",", ";", "\t", "|")
_SNIFFED_BYTES = 65_536
_SNIFFED_ROWS = 50


@dataclass(frozen=True, eq=False)
class Columns:
    """What a file holds, in the order of its header."""

    separator: str
    """Of a CSV file."""
    values: dict[str, Series]
    """Each column with a name of its own that holds strings, numbers or truth values; of a CSV file all are strings."""
    texts: tuple[str, ...]
    """Those that hold words, the one with most to read first: a long text that repeats counts once."""


def read_columns(path: str, separator: str | None = None) -> Columns:
    """All columns of a CSV or Parquet file.

    Args:
        path: the file.
        separator: of a CSV file; None for the one that its first rows fit best.

    Raises:
        InputError: the file cannot be read, is not UTF-8, or has rows cut short; with every problem found.
    """
    if path == EMBEDDED:
        raise InputError([f"data.path={path!r}: is the synthetic sample; name a file of comments"])
    file = Path(path)
    if file.suffix.lower() == ".parquet":
        separator, names, texts = separator or ",", *_parquet_columns(file)
        if names and not texts:
            raise InputError([f"data.path={path!r}: no column of {file.name} holds strings; add one with the texts"])
    else:
        separator = separator or _separator(file)
        names = texts = _header(_first_rows(file, separator))
    single = [name for name in names if names.count(name) == 1]
    if names and not single:
        raise InputError([f"data.path={path!r}: no column of {file.name} has a name of its own; rename them"])
    # The reader checks that the text is one of strings. Without a header it says what is wrong with the file.
    first = next((name for name in texts if name in single), DataConfig().text_column)
    config = DataConfig(path=path, separator=separator, text_column=first, label_columns=tuple(single) or (first,))
    problems: list[str] = []
    table = read_table(config, problems)
    if problems or table is None:
        raise InputError(problems)
    values = {name: table.columns[name] for name in single}
    lengths = {name: length for name, column in values.items() if (length := _characters(column)) is not None}
    return Columns(separator, values, tuple(sorted(lengths, key=lambda name: -lengths[name])))


def _separator(file: Path) -> str:
    """The one that cuts most of the first rows into as many fields as the header, and into more than one."""
    if file.suffix.lower() == ".tsv":
        return "\t"

    def fit(separator: str) -> tuple[float, int]:
        rows = _first_rows(file, separator)
        width = len(_header(rows))
        whole = sum(len(row) == width for row in rows)
        return (whole / len(rows), width) if width > 1 else (0.0, 0)

    return max(SEPARATORS, key=fit)  # of equals the first


def _first_rows(file: Path, separator: str) -> list[list[str]]:
    """Rows at the beginning that are not empty; none if the file cannot be opened."""
    try:
        with file.open("rb") as opened:
            beginning = opened.read(_SNIFFED_BYTES)
    except OSError:
        return []
    cut = len(beginning) == _SNIFFED_BYTES
    rows: list[list[str]] = []
    reader = csv.reader(io.StringIO(beginning.decode("utf-8-sig", errors="replace"), newline=""), delimiter=separator)
    try:
        for row in reader:
            if "".join(row).strip():
                rows.append(row)
            if len(rows) > _SNIFFED_ROWS:
                return rows
    except csv.Error:
        return rows
    return rows[:-1] if cut and len(rows) > 1 else rows


def _header(rows: Sequence[list[str]]) -> list[str]:
    return rows[0] if rows else []


def _parquet_columns(file: Path) -> tuple[list[str], list[str]]:
    """Names of the columns that can be read, and of those that hold strings; none if the file cannot be opened."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(file)
    except (pa.ArrowException, OSError):
        return [], []

    def holds(field: pa.Field, *names: str) -> bool:
        kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        return any(getattr(pa.types, f"is_{name}")(kind) for name in names)

    texts = [field.name for field in schema if holds(field, "string", "large_string")]
    numbers = [field.name for field in schema if holds(field, "boolean", "integer", "floating", "decimal", "null")]
    return [field.name for field in schema if field.name in {*texts, *numbers}], texts


def _characters(values: Series) -> int | None:
    """Of all different values together; None where most of them are numbers or truth values."""
    import pandas as pd

    if values.dtype != object and not pd.api.types.is_string_dtype(values):
        return None
    different = values[values.notna() & values.ne("")].drop_duplicates().astype(str)
    no_words = pd.to_numeric(different, errors="coerce").notna() | different.str.lower().isin(["true", "false"])
    if not len(different) or no_words.mean() > 0.5:
        return None
    return int(different.str.len().sum())
