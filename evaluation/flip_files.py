"""The flips of a study's front: `flips.parquet`, and from it `flips.csv` and, on request, the comments' texts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pandas as pd

from evaluation.escape import write_csv
from evaluation.flips import KINDS, count_flips, flip_kinds
from evaluation.records import read_metadata, read_table, write_table
from pipeline.chains import describe_chain

FILE: Final = "flips.parquet"
COLUMNS: Final = ("model_key", "split", "comment", "label", "truth", "teacher", "candidate")
_ABOUT: Final = "flips"
_VERSION: Final = 1


@dataclass(frozen=True, eq=False)
class Flips:
    """The flips of several models against one teacher."""

    rows: pd.DataFrame
    """One row a flip, with `COLUMNS`; `comment` is its index in the split."""
    model_keys: tuple[str, ...]
    """Every model that was compared, those without a flip too."""
    supports: Mapping[str, Mapping[str, int]]
    """Comments that have the label, by split and label."""
    data_folder: str
    """Where the comments are: a folder that `pipeline.data.load_data` reads, or the URL of the study's store."""
    data_fingerprint: str
    """Of the comments that were compared."""

    def save(self, path: Path) -> None:
        """Write the file `path`, at once or not at all; it holds no text of a comment."""
        import pyarrow as pa

        about = {
            "version": _VERSION,
            "model_keys": self.model_keys,
            "supports": self.supports,
            "data_folder": self.data_folder,
            "data_fingerprint": self.data_fingerprint,
        }
        table = pa.Table.from_pandas(self.rows[list(COLUMNS)], preserve_index=False)
        write_table(table.replace_schema_metadata({_ABOUT: json.dumps(about, ensure_ascii=False)}), path)

    @classmethod
    def read(cls, path: Path) -> Flips:
        """What `save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is damaged, of another version, or lacks a column.
        """
        about: dict[str, Any] = json.loads(read_metadata(path).get(_ABOUT, "{}"))
        if about.pop("version", None) != _VERSION:
            raise ValueError(f"{path}: not written by this version of the project; run the study again")
        rows = read_table(path, COLUMNS)
        about["model_keys"] = tuple(about["model_keys"])
        return cls(rows, **about)


def write_flips(folder: Path, front: pd.DataFrame) -> list[Path]:
    """`flips.csv` from `flips.parquet`: one line a model of the front, split and label; returns what was written.

    Without `flips.parquet` (the study has not ended) nothing is written, and a table left by an earlier report removed.

    Args:
        folder: the study's.
        front: rows of `front.parquet`.

    Raises:
        ValueError: `flips.parquet` is damaged, of another version, or lacks a column.
    """
    source, table = folder / FILE, folder / "flips.csv"
    if not source.is_file():
        table.unlink(missing_ok=True)
        return []
    flips = Flips.read(source)
    columns = ["model", "model_key", "stage", "split", "label", *KINDS.values(), "support"]
    write_csv(table, columns, _records(flip_table(flips, front)))
    return [table]


def flip_table(flips: Flips, front: pd.DataFrame) -> pd.DataFrame:
    """Flips counted for each model of the front that was compared, split and label, in the front's order.

    Returns:
        columns `model` (its chain in words), `model_key`, `stage`, `split`, and those of `count_flips`.
    """
    tables = [count_flips(flips.rows[:0], {}).assign(model="", model_key="", stage="", split="")]
    grouped = dict(iter(flips.rows.groupby(["model_key", "split"])))
    for row in _records(front.drop_duplicates("model_key")):
        key = row["model_key"]
        for split, supports in flips.supports.items() if key in flips.model_keys else ():
            counted = count_flips(grouped.get((key, split), flips.rows[:0]), supports)
            tables.append(counted.assign(model=describe_chain(row), model_key=key, stage=row["stage"], split=split))
    return pd.concat(tables[1:] or tables, ignore_index=True)


def write_flips_with_texts(folder: Path) -> Path:
    """`flips_with_texts.csv`: every flip with its comment, read from the study's data; texts leave the data only so.

    Args:
        folder: the study's.

    Raises:
        FileNotFoundError: `flips.parquet`, or the folder of the data, is not there.
        ValueError: `flips.parquet` or the data is damaged, or the data is not what the models were compared on.
    """
    source, target = folder / FILE, folder / "flips_with_texts.csv"
    if not source.is_file():
        raise FileNotFoundError(f"{source}: not there: let the study run to its end, which writes the flips")
    flips = Flips.read(source)
    texts = _texts(flips, source)
    kinds = flip_kinds(flips.rows)
    rows = [
        {**row, "kind": kind, "text": texts[row["split"]][row["comment"]]}
        for row, kind in zip(_records(flips.rows), kinds, strict=True)
    ]
    write_csv(target, ["model_key", "split", "comment", "label", "kind", "truth", "teacher", "candidate", "text"], rows)
    return target


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]


def _texts(flips: Flips, source: Path) -> dict[str, Sequence[str]]:
    """The comments of each split, in the order that the flips count them in."""
    from pipeline.data import load_data
    from pipeline.object_store import is_url
    from pipeline.storage import open_store

    remedy = "run the study again (what is in the store is not made anew)"
    try:
        folder = Path(flips.data_folder)
        if is_url(flips.data_folder):
            found = open_store(flips.data_folder).find("data", flips.data_fingerprint)
            folder = found.path if found else folder  # which is not there
        data = load_data(folder)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{source}: its comments are not in data_folder={flips.data_folder}: put the store back, or {remedy}"
        ) from error
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{flips.data_folder}: the comments of {source} are damaged ({error}): {remedy}") from error
    if data.fingerprint != flips.data_fingerprint:
        raise ValueError(
            f"{source}: data_fingerprint={flips.data_fingerprint[:12]}, but the comments in {flips.data_folder} have "
            f"{data.fingerprint[:12]}: they are not the ones that were compared; {remedy}"
        )
    return {name: part.texts for name, part in data.splits.items()}
