"""Labelled comments for a model that is finished: read and counted as a study does, but never refused as too few."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.columns import read_columns
from pipeline.comments import read_label, text_problems
from pipeline.config import DataConfig
from pipeline.duplicates import DuplicateReport, deduplicate
from pipeline.errors import InputError
from pipeline.reading import read_table


@dataclass(frozen=True, eq=False)
class Comments:
    """What both models are asked."""

    texts: list[str]
    labels: NDArray[np.int8]
    """0 or 1, [comments, labels]."""
    duplicates: DuplicateReport


def read_labelled(
    path: str, labels: tuple[str, ...], text_column: str | None = None, separator: str | None = None
) -> Comments:
    """The comments of a file as a study counts them: a text that repeats is one comment with the majority's labels.

    Args:
        path: CSV or Parquet file.
        labels: columns of 0 and 1.
        text_column: None for the only other column that holds words.
        separator: of a CSV file; None for the one that fits.

    Raises:
        InputError: with every problem found.
    """
    import pandas as pd

    columns = read_columns(path, separator)
    problems: list[str] = []
    words = [name for name in columns.texts if name not in labels]
    if text_column is None:
        if not words:
            raise InputError([f"--data {path!r}: no column but the labels holds words; add one with the comments"])
        if len(words) > 1:
            problems.append(
                f"--data {path!r}: {len(words)} columns could be the text ({listed(words)}); name it with --text-column"
            )
        text_column = words[0]
    if text_column in labels:
        problems.append(f"--text-column {text_column!r}: is a label of the model; name the column with the comments")
        raise InputError(problems)
    config = DataConfig(path=path, text_column=text_column, label_columns=labels, separator=columns.separator)
    table = read_table(config, problems)
    if table is None:
        raise InputError(problems)
    # A label without positives is no fault of the file here: it leaves the verdict open. So not as if all were there.
    table = replace(table, whole=False)
    read: dict[str, Any] = {}
    for name, values in table.columns.items():
        if name == text_column:
            read[name], found_problems = values, text_problems(values, table, config)
        else:
            read[name], found_problems = read_label(name, values, table, config)
        problems += found_problems
    if problems:
        raise InputError(problems)
    frame, duplicates = deduplicate(pd.DataFrame(read).astype({text_column: str}), config)
    return Comments(frame[text_column].tolist(), frame[list(labels)].to_numpy(dtype=np.int8), duplicates)


def listed(names: Sequence[str]) -> str:
    """Names in quotation marks, control characters escaped."""
    return ", ".join(map(repr, names))
