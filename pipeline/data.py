"""The data of a study: comments read, deduplicated and split once, with a fingerprint of what came out."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.arrays import map_array
from pipeline.artifact import Artifact, Notes
from pipeline.cache import Store
from pipeline.comments import draw_rows, read_comments, read_rows
from pipeline.config import EMBEDDED, DataConfig
from pipeline.duplicates import DuplicateReport, deduplicate, normalise
from pipeline.errors import InputError
from pipeline.packed_texts import PackedTexts
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

    texts: Sequence[str]
    """From `prepare` and `load_data` they are `PackedTexts`; a list will do."""
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

    def add_to(self, store: Store) -> Artifact:
        """The artifact of a store that holds these comments and notes their report."""

        def build(folder: Path) -> Notes:
            self.save(folder)
            return self.report

        return store.add("data", self.fingerprint, build)

    def save(self, folder: Path) -> None:
        """Writes three NumPy files for each split (texts, their offsets, labels), and `data.json`."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, part in self.splits.items():
            PackedTexts.of(part.texts).save(folder, name)
            np.save(folder / f"{name}_labels.npy", np.ascontiguousarray(part.labels, dtype=np.int8))
        about = {"label_columns": self.label_columns, "fingerprint": self.fingerprint, "report": self.report}
        (folder / "data.json").write_text(json.dumps(about, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def load_data(folder: Path) -> Data:
    """What `Data.save` wrote, memory-mapped and read-only: the processes of a node share one copy.

    Raises:
        InputError: the files no longer have the fingerprint they were saved with.
        OSError: a file is missing or damaged.
    """
    about = json.loads((folder / "data.json").read_text(encoding="utf-8"))
    labels = tuple(about["label_columns"])
    stored_as_parquet = (folder / "train.parquet").is_file()
    splits = {
        name: _load_parquet(folder / f"{name}.parquet", labels)
        if stored_as_parquet
        else Split(PackedTexts.load(folder, name), map_array(folder / f"{name}_labels.npy"))
        for name in SPLITS
    }
    if fingerprint(labels, splits.values()) != about["fingerprint"]:
        raise InputError([f"{folder}: the comments changed since they were saved; prepare them again"])
    return Data(labels, **splits, fingerprint=about["fingerprint"], report=about["report"])


def _load_parquet(file: Path, labels: Sequence[str]) -> Split:
    """A split as older stores hold it: columns `text` and `label:NAME`; read whole."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(file) as opened:
        table = opened.read()
    columns = [table.column(f"label:{label}").to_numpy() for label in labels]
    return Split(PackedTexts.of(table.column("text").to_pylist()), np.column_stack(columns).astype(np.int8))


def prepare(config: DataConfig, folds: int = 0) -> Data:
    """Reads, checks, deduplicates and splits.

    Args:
        config: where from, which columns, how to split.
        folds: folds that the train split is to be cut into; each must get its share of positives. 0 for none.

    Raises:
        InputError: with every problem found.
    """
    rows = read_rows(config)
    rows_read, rows = len(rows), draw_rows(rows, config)
    frame, duplicates = deduplicate(rows, config)
    del rows
    texts, labels = frame[config.text_column], frame[list(config.label_columns)].to_numpy(dtype=np.int8)
    splits = {
        name: Split(PackedTexts.of(texts.iloc[positions].tolist()), np.ascontiguousarray(labels[positions]))
        for name, positions in split(frame, config).items()
    }
    if problems := split_problems(splits, config, folds):
        raise InputError(problems)
    return Data(
        config.label_columns,
        **splits,
        fingerprint=fingerprint(config.label_columns, splits.values()),
        report=_report(config, rows_read, duplicates, splits),
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
        texts = PackedTexts.of(part.texts)
        digest.update(np.array([len(texts)], dtype="<i8").data)
        digest.update(np.diff(texts.offsets).astype("<i8").data)
        digest.update(texts.encoded.data)
        digest.update(np.ascontiguousarray(part.labels, dtype=np.int8).data)
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
