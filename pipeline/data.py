"""The data of a study: comments read, deduplicated and split once, with a fingerprint of what came out."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.comments import draw_rows, read_comments, read_rows
from pipeline.config import EMBEDDED, DataConfig
from pipeline.duplicates import DuplicateReport, deduplicate, normalise
from pipeline.errors import InputError
from pipeline.splitting import SPLITS, folds, split

__all__ = [
    "Data",
    "DuplicateReport",
    "InputError",
    "Split",
    "deduplicate",
    "fingerprint",
    "folds",
    "load_data",
    "normalise",
    "prepare",
    "read_comments",
    "split",
    "split_problems",
]

MINIMUM_PER_PART = 3
"""Positives, and negatives, that a label needs in each split and each fold to be measured at all."""


@dataclass(frozen=True, eq=False)
class Split:
    """Comments with their labels."""

    texts: list[str]
    labels: NDArray[np.int8]
    """0 or 1, shape (texts, labels)."""

    def __len__(self) -> int:
        return len(self.texts)


@dataclass(frozen=True, eq=False)
class Data:
    """The three splits, no text in two of them."""

    label_columns: tuple[str, ...]
    train: Split
    validation: Split
    test: Split
    fingerprint: str
    """SHA-256, hex, over label names, texts, labels, split and order; not over where they were read from."""
    report: dict[str, Any]
    """Of JSON types: where the comments came from, what was dropped, sizes and positives of each split."""

    @property
    def splits(self) -> dict[str, Split]:
        """The splits by name, in the order of `SPLITS`."""
        return {"train": self.train, "validation": self.validation, "test": self.test}

    def save(self, folder: Path) -> None:
        """Writes one Parquet file for each split (columns `text` and `label:NAME`), and `data.json`."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        folder.mkdir(parents=True, exist_ok=True)
        for name, part in self.splits.items():
            columns = [pa.array(part.texts, pa.string()), *(pa.array(column) for column in part.labels.T)]
            table = pa.table(columns, names=["text", *(f"label:{label}" for label in self.label_columns)])
            pq.write_table(table, folder / f"{name}.parquet", compression="zstd")
        about = {"label_columns": self.label_columns, "fingerprint": self.fingerprint, "report": self.report}
        (folder / "data.json").write_text(json.dumps(about, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def load_data(folder: Path) -> Data:
    """What `Data.save` wrote.

    Raises:
        InputError: the files no longer have the fingerprint they were saved with.
        OSError: a file is missing or damaged.
    """
    import pyarrow.parquet as pq

    about = json.loads((folder / "data.json").read_text(encoding="utf-8"))
    labels = tuple(about["label_columns"])
    splits = {}
    for name in SPLITS:
        with pq.ParquetFile(folder / f"{name}.parquet") as file:
            table = file.read()
        columns = [table.column(f"label:{label}").to_numpy() for label in labels]
        splits[name] = Split(table.column("text").to_pylist(), np.column_stack(columns).astype(np.int8))
    if fingerprint(labels, splits.values()) != about["fingerprint"]:
        raise InputError([f"{folder}: the comments changed since they were saved; prepare them again"])
    return Data(labels, **splits, fingerprint=about["fingerprint"], report=about["report"])


def prepare(config: DataConfig, folds: int = 0) -> Data:
    """Reads, checks, deduplicates and splits.

    Args:
        config: where from, which columns, how to split.
        folds: folds that the train split is to be cut into; each must get its share of positives. 0 for none.

    Raises:
        InputError: with every problem found.
    """
    rows = read_rows(config)
    texts, duplicates = deduplicate(draw_rows(rows, config), config)
    all_labels = texts[list(config.label_columns)].to_numpy(dtype=np.int8)
    all_texts = texts[config.text_column].to_numpy(dtype=object)
    splits = {
        name: Split(all_texts[positions].tolist(), np.ascontiguousarray(all_labels[positions]))
        for name, positions in split(texts, config).items()
    }
    if problems := split_problems(splits, config, folds):
        raise InputError(problems)
    return Data(
        config.label_columns,
        **splits,
        fingerprint=fingerprint(config.label_columns, splits.values()),
        report=_report(config, len(rows), duplicates, splits),
    )


def split_problems(splits: dict[str, Split], config: DataConfig, folds: int = 0) -> list[str]:
    """A problem for each label with fewer than `MINIMUM_PER_PART` positives, or negatives, in a split or a fold."""
    problems = []
    shares = {"validation": config.validation_fraction, "test": config.test_fraction}
    shares["train"] = (1 - sum(shares.values())) / max(folds, 1)
    needed = math.ceil(MINIMUM_PER_PART / min(shares.values()))
    more = "give more data" if config.max_rows is None else "raise data.max_rows, give more data"
    if config.path == EMBEDDED:
        more = "raise data.sample_rows"
    for index, label in enumerate(config.label_columns):
        for value, kind in ((1, "positive"), (0, "negative")):
            counts = {name: int((part.labels[:, index] == value).sum()) for name, part in splits.items()}
            total = sum(counts.values())
            least = dict.fromkeys(SPLITS, MINIMUM_PER_PART) | {"train": MINIMUM_PER_PART * max(folds, 1)}
            if all(counts[name] >= least[name] for name in SPLITS):
                continue
            had = ", ".join(f"{name} {counts[name]} of at least {least[name]}" for name in SPLITS)
            fewer = f", lower teacher.folds={folds}" if folds else ""
            problems.append(
                f"data.label_columns={label!r}: {total:,} different {kind} texts in {_source(config)} are too few "
                f"to split ({had}); {more} (about {needed:,} are needed){fewer}, or take the label out of the list"
            )
    return problems


def fingerprint(label_columns: Iterable[str], splits: Iterable[Split]) -> str:
    """SHA-256, hex, over the names and the content of the splits, in their order."""
    digest = hashlib.sha256(json.dumps(list(label_columns)).encode())
    for part in splits:
        encoded = [text.encode() for text in part.texts]
        digest.update(np.array([len(encoded), *map(len, encoded)], dtype="<i8").tobytes())
        digest.update(b"".join(encoded))
        digest.update(np.ascontiguousarray(part.labels, dtype=np.int8).tobytes())
    return digest.hexdigest()


def _source(config: DataConfig) -> str:
    return "the embedded sample" if config.path == EMBEDDED else Path(config.path).name


def _report(
    config: DataConfig, rows_read: int, duplicates: DuplicateReport, splits: dict[str, Split]
) -> dict[str, Any]:
    """What the study's report says about its data; JSON types only."""
    notice: str | None = None
    if config.path == EMBEDDED:
        from pipeline.sample import NOTICE

        notice = NOTICE
    words = sum(len(text.split()) for part in splits.values() for text in part.texts)
    return {
        "source": _source(config),
        "synthetic": config.path == EMBEDDED,
        "notice": notice,
        "rows_read": rows_read,
        "rows_drawn": duplicates.rows,
        "rows_used": duplicates.texts,
        "duplicate_rows": duplicates.duplicate_rows,
        "conflicting_texts": duplicates.conflicting_texts,
        "conflicts_per_label": duplicates.conflicts_per_label,
        "mean_words": round(words / duplicates.texts, 3),
        "splits": {
            name: {
                "texts": len(part),
                "positives": dict(zip(config.label_columns, part.labels.sum(axis=0, dtype=int).tolist(), strict=True)),
            }
            for name, part in splits.items()
        },
    }
