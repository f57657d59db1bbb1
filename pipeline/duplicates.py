"""One row for each different text: decided before splitting, so that no text stands in two splits."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline.config import DataConfig

if TYPE_CHECKING:
    from pandas import DataFrame

# Joiners, marks of direction, variation selectors, soft hyphen, byte-order mark.
_ZERO_WIDTH = re.compile(
    "[\u00ad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufe0e\ufe0f\ufeff]"
)


@dataclass(frozen=True)
class DuplicateReport:
    """What `deduplicate` found."""

    rows: int
    texts: int
    """Different texts, the rows that are left."""
    duplicate_rows: int
    """Rows that went: `rows` less `texts`."""
    conflicting_texts: int
    """Texts whose rows disagree in a label or more."""
    conflicts_per_label: dict[str, int]
    """Texts whose rows disagree in this label."""


def drop_zero_width(text: str) -> str:
    """The text without the characters that take no room."""
    return _ZERO_WIDTH.sub("", text)


def normalise(text: str) -> str:
    """The key by which two texts count as the same: Unicode form, case, white space and zero-width characters folded.

    Only the key drops zero-width characters: in the text itself the joiners of Bangla script carry meaning.
    """
    bare = drop_zero_width(text)
    return " ".join(unicodedata.normalize("NFC", unicodedata.normalize("NFD", bare).casefold()).split())


def deduplicate(frame: DataFrame, config: DataConfig) -> tuple[DataFrame, DuplicateReport]:
    """One row for each different text, at the place and in the form of its first row, stripped.

    Where the rows of a text disagree, the majority decides label by label; a tie counts as 1, the careful side: rather
    one comment too many looked at than a threat missed.
    """
    labels = list(config.label_columns)
    codes = _numbered(map(normalise, frame[config.text_column].tolist()))
    rows = np.bincount(codes)
    positives = np.column_stack([np.bincount(codes, frame[label]) for label in labels])
    conflicts = (positives > 0) & (positives < rows[:, None])

    is_first = np.diff(np.maximum.accumulate(codes), prepend=-1) > 0
    first = frame.loc[is_first, [config.text_column]].reset_index(drop=True)
    first[config.text_column] = first[config.text_column].str.strip()
    first[labels] = (2 * positives >= rows[:, None]).astype(np.int8)
    return first, DuplicateReport(
        rows=len(frame),
        texts=len(first),
        duplicate_rows=len(frame) - len(first),
        conflicting_texts=int(conflicts.any(axis=1).sum()),
        conflicts_per_label=dict(zip(labels, conflicts.sum(axis=0).tolist(), strict=True)),
    )


def _numbered(keys: Iterable[str]) -> NDArray[np.intp]:
    """The number of each key, shape (keys,): different ones are numbered from 0 by first occurrence."""
    numbers: dict[str, int] = {}
    return np.fromiter((numbers.setdefault(key, len(numbers)) for key in keys), dtype=np.intp)
