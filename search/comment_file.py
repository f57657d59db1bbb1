"""What a file of comments holds, for a study of it: text, labels, which label is critical, and how much there is."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.columns import Columns, read_columns
from pipeline.comments import INVALID, MISSING, label_value
from pipeline.config import DataConfig
from pipeline.data import MINIMUM_PER_PART
from pipeline.duplicates import DuplicateReport, deduplicate
from pipeline.errors import InputError
from pipeline.reading import counted
from search.wording import shown

if TYPE_CHECKING:
    from pandas import DataFrame, Series

FEWEST = math.ceil(MINIMUM_PER_PART / DataConfig().validation_fraction)
"""Different comments with a label, and without it, below which no split can measure the label."""
_SEVERE = (
    "suicid|self.?harm|আত্মহত্যা",
    "threat|হুমকি",
    "violen|terror|kill|সহিংস",
    "hate|ঘৃণা",
    "toxic|abus|harass|offens",
    "bully|insult",
)
"""What the names of labels hold whose misses matter, the gravest first."""
_DENIED = re.compile(r"^(no|non|not|without|safe)([ _-]|$)")
_MOST_VALUES = 20


@dataclass(frozen=True)
class CommentFile:
    """A file with its text and label columns found."""

    path: str
    separator: str
    text_column: str
    other_texts: tuple[str, ...]
    """Further columns that hold words."""
    positives: dict[str, int]
    """By label column, in the order of the file: different comments that have it."""
    left_out: dict[str, str]
    """By column: why it is no label."""
    critical_label: str
    critical_reason: str
    duplicates: DuplicateReport
    characters: int
    """Length of the comment at the 99th percentile."""

    @property
    def labels(self) -> list[str]:
        """The label columns."""
        return list(self.positives)

    def share(self, label: str) -> float:
        """Share of the different comments that have the label."""
        return self.positives[label] / self.duplicates.texts


def inspect(
    path: str,
    text_column: str | None = None,
    labels: Sequence[str] | None = None,
    critical_label: str | None = None,
) -> CommentFile:
    """Read a CSV or Parquet file and find what a study needs to know of it.

    Args:
        path: the file.
        text_column: None for the column with most to read.
        labels: None for every column of 0 and 1 that can be split.
        critical_label: None for the one whose name sounds gravest, else the rarest.

    Raises:
        InputError: the file cannot be read, has no text or no label, or a column that is named is not there.
    """
    columns = read_columns(path)
    name, named = Path(path).name, list(labels or [])
    asked = [*named, *([] if text_column is None else [text_column])]
    if problems := [_unknown(column, columns, name) for column in asked if column not in columns.values]:
        raise InputError(problems)
    words = [column for column in columns.texts if column not in named]
    if text_column is None and not words:
        raise InputError([f"{name}: no column holds words (has: {_listed(columns.values)}); add the comments"])
    text_column = words[0] if text_column is None else text_column
    faults = {column: _fault(values) for column, values in columns.values.items() if column != text_column}
    wrong = {column: fault for column in named if (fault := faults.get(column, "is the text column")) is not None}
    if wrong:
        raise InputError([f"{name}: label {shown(column)} {fault}" for column, fault in wrong.items()])
    labels = named or [column for column, fault in faults.items() if fault is None]
    left_out = {column: fault for column, fault in faults.items() if fault is not None}
    rows = len(columns.values[text_column])
    if not labels:
        raise InputError(_no_label(name, rows, left_out))
    frame, duplicates = _different(columns, text_column, labels)
    positives = {label: int(frame[label].sum()) for label in labels}
    if not named:
        left_out |= {label: why for label in labels if (why := _too_few(positives[label], duplicates.texts))}
        positives = {label: count for label, count in positives.items() if label not in left_out}
    if not positives:
        raise InputError(_no_label(name, rows, left_out))
    critical, reason = _critical(positives, critical_label)
    return CommentFile(
        path=path,
        separator=columns.separator,
        text_column=text_column,
        other_texts=tuple(column for column in columns.texts if column != text_column and column not in positives),
        positives=positives,
        left_out=left_out,
        critical_label=critical,
        critical_reason=reason,
        duplicates=duplicates,
        characters=int(np.percentile(frame[text_column].str.len(), 99)),
    )


def _fault(values: Series) -> str | None:
    """What keeps a column from being a label, and what it would need; None where nothing does."""
    different = values.dropna().unique().tolist()
    if len(different) > _MOST_VALUES:
        return f"holds {len(different):,} different values; a label column holds 0 and 1"
    meanings = {value: label_value(value) for value in different}
    blank = int(values.isna().sum()) + int(
        values.isin([value for value in different if meanings[value] == MISSING]).sum()
    )
    words = [value for value, meaning in meanings.items() if meaning == INVALID]
    if words:
        some = ", ".join(map(shown, [value for value in different if meanings[value] != MISSING][:4]))
        remedy = "write 1 and 0 for them" if len(different) <= 2 else "make a column of 0 and 1 for each of them"
        return f"holds {some}{', …' if len(different) > 4 else ''}; {remedy}"
    if set(meanings.values()) - {MISSING} != {0, 1}:
        return "is empty" if not set(meanings.values()) - {MISSING} else "has the same value in every row"
    return f"lacks {counted(blank, 'value')}; write 0 or 1 there, or remove those rows" if blank else None


def _too_few(positives: int, texts: int) -> str | None:
    count, kind = min((positives, "have"), (texts - positives, "lack"))
    if count >= FEWEST:
        return None
    return f"is too rare to be split: {counted(count, 'different comment')} {kind} it, {FEWEST} are needed"


def _no_label(name: str, rows: int, left_out: dict[str, str]) -> list[str]:
    few = f" {FEWEST} different comments with each label and {FEWEST} without it are the least." if rows < 1000 else ""
    first = f"{name}: no label column among {counted(rows, 'row')}; add a column of 0 and 1 for each label.{few}"
    return [first, *(f"{name}: column {shown(column)} {fault}" for column, fault in left_out.items())]


def _different(columns: Columns, text_column: str, labels: Sequence[str]) -> tuple[DataFrame, DuplicateReport]:
    """One row a text, as a study counts them."""
    import pandas as pd

    frame = pd.DataFrame({text_column: columns.values[text_column].fillna("").astype(str)})
    for label in labels:
        values = columns.values[label]
        frame[label] = values.map({value: label_value(value) for value in values.unique()}).astype(np.int8)
    return deduplicate(frame, DataConfig(text_column=text_column, label_columns=tuple(labels)))


def _critical(positives: dict[str, int], named: str | None) -> tuple[str, str]:
    """The label named, else the one whose misses matter most as far as names and numbers tell; and why it."""
    if named is not None:
        if named not in positives:
            near = difflib.get_close_matches(named, positives, n=1)
            hint = f"did you mean {shown(near[0])}?" if near else f"the labels are {_listed(positives)}"
            raise InputError([f"--critical-label {shown(named)}: no such label; {hint}"])
        return named, "as you named it"
    if len(positives) == 1:
        return next(iter(positives)), "the only label"
    for words in _SEVERE:
        for label in positives:
            if re.search(words, label.casefold()) and not _DENIED.match(label.casefold()):
                return label, "by its name"
    return min(positives, key=lambda label: positives[label]), "the rarest label"


def _unknown(column: str, columns: Columns, name: str) -> str:
    near = difflib.get_close_matches(column, columns.values, n=1)
    hint = f"did you mean {shown(near[0])}?" if near else f"it has {_listed(columns.values)}"
    return f"{name}: no column {shown(column)} that can be used; {hint}"


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(map(shown, names[:20])) + (", …" if len(names) > 20 else "")
