"""The comments to use, checked: every problem is found before anything is raised."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.config import DataConfig
from pipeline.duplicates import drop_zero_width
from pipeline.errors import InputError
from pipeline.reading import Table, counted, read_table

if TYPE_CHECKING:
    from pandas import DataFrame, Series

MISSING, INVALID = -1, -2


def read_comments(config: DataConfig) -> DataFrame:
    """The comments to use: text column (str, as in the file) and label columns (int8, 0 or 1).

    Raises:
        InputError: with every problem found.
    """
    return draw_rows(read_rows(config), config)


def draw_rows(frame: DataFrame, config: DataConfig) -> DataFrame:
    """`max_rows` of the rows drawn with the seed, in their old order; all of them where there are no more."""
    if config.max_rows is None or config.max_rows >= len(frame):
        return frame
    drawn = np.random.default_rng(config.seed).choice(len(frame), config.max_rows, replace=False)
    return frame.iloc[np.sort(drawn)].reset_index(drop=True)


def read_rows(config: DataConfig) -> DataFrame:
    """Like `read_comments`, but all rows, whatever `max_rows` says."""
    import pandas as pd

    problems = _config_problems(config)
    table = read_table(config, problems)
    if table is None:
        raise InputError(problems)
    columns: dict[str, Any] = {}
    for name, values in table.columns.items():
        if name == config.text_column:
            columns[name] = values
            problems += text_problems(values, table, config)
        else:
            columns[name], found = read_label(name, values, table, config)
            problems += found
    if problems:
        raise InputError(problems)
    columns[config.text_column] = columns[config.text_column].astype(str)
    return pd.DataFrame(columns)[[config.text_column, *config.label_columns]]


def _config_problems(config: DataConfig) -> list[str]:
    problems = []
    labels = config.label_columns
    if config.text_column in labels:
        problems.append(
            f"data.text_column={config.text_column!r}: also one of data.label_columns; a column is text or label, "
            "take it out of one of the two"
        )
    problems += [
        f"data.label_columns={name!r}: listed {labels.count(name)} times; list it once"
        for name in dict.fromkeys(labels)
        if labels.count(name) > 1
    ]
    # Names are escaped wherever they are shown; but others copy them into pages of their own.
    problems += [
        f"{_label(name)}: holds '<' or '>', which would be markup in a page; rename the column"
        for name in dict.fromkeys(labels)
        if "<" in name or ">" in name
    ]
    if config.separator in '"\r\n\0':
        problems.append(f"data.separator={config.separator!r}: quotes or ends a row; use ',', ';', '|' or a tab")
    return problems


def text_problems(texts: Series, table: Table, config: DataConfig) -> list[str]:
    """What is wrong with the comments themselves, a line for each kind."""
    source, key = Path(config.path).name, f"data.text_column={config.text_column!r}"
    values = texts.to_numpy(dtype=object)
    empty = np.array([not isinstance(text, str) or not drop_zero_width(text).strip() for text in values], dtype=bool)
    nul = np.array([isinstance(text, str) and "\0" in text for text in values], dtype=bool)
    problems = []
    if empty.any():
        count = counted(int(empty.sum()), "empty text")
        problems.append(f"{key}: {count} in {source} ({table.where(empty)}); remove those rows")
    if nul.any():
        count = counted(int(nul.sum()), "text")
        problems.append(f"{key}: {count} with NUL characters in {source} ({table.where(nul)}); remove the characters")
    return problems


def read_label(name: str, values: Series, table: Table, config: DataConfig) -> tuple[NDArray[np.int8], list[str]]:
    """A label's values [rows], 0 or 1 (`MISSING` or `INVALID` where there is none), and what is wrong with them."""
    import pandas as pd

    source = Path(config.path).name
    codes, different = pd.factorize(values)
    meaning = np.array([*(label_value(value) for value in different), MISSING], dtype=np.int8)
    labels = meaning[codes]  # the code of a missing value is -1: the last meaning
    missing, invalid = labels == MISSING, labels == INVALID
    problems = []
    if invalid.any():
        kinds = np.flatnonzero(meaning == INVALID)
        firsts = [int(np.argmax(codes == kind)) for kind in kinds[:3]]
        shown = ", ".join(
            f"{value!r} in {table.unit} {place}"
            for value, place in zip(values.iloc[firsts].tolist(), table.places[firsts], strict=True)
        )
        more = ", …" if len(kinds) > 3 else ""
        count = counted(int(invalid.sum()), "value")
        problems.append(f"{_label(name)}: {count} in {source} other than 0 or 1 ({shown}{more}); write 0 or 1")
    if missing.any():
        count = counted(int(missing.sum()), "missing value")
        where = table.where(missing)
        problems.append(f"{_label(name)}: {count} in {source} ({where}); write 0 or 1, or remove those rows")
    if table.whole and len(labels) and not problems and labels.min() == labels.max():
        kind = "negatives (every value is 1)" if labels[0] else "positives (every value is 0)"
        problems.append(f"{_label(name)}: no {kind} in {source}; add such comments, or take the label out of the list")
    return labels, problems


def label_value(value: object) -> int:
    """0 or 1, as a file may write them; else `MISSING` or `INVALID`."""
    if isinstance(value, str):
        texts = {"0": 0, "0.0": 0, "false": 0, "1": 1, "1.0": 1, "true": 1, "": MISSING}
        return texts.get(value.strip().lower(), INVALID)
    return int(bool(value)) if value in (0, 1) else INVALID


def _label(name: str) -> str:
    return f"data.label_columns={name!r}"
