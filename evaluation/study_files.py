"""The Parquet files of a study, read for its report."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from evaluation.flip_files import FILE as FLIPS_FILE
from evaluation.flip_files import Flips
from evaluation.records import TRIALS_ENDED, read_metadata, read_records, read_table

FOLD_COLUMNS = ("model", "fold", "epoch", "val_macro_f1")


@dataclass(frozen=True)
class Study:
    """What the Parquet files of a study say about it."""

    trials: pd.DataFrame
    """Rows of `trials.parquet`."""
    front: pd.DataFrame
    """Rows of `front.parquet`; with `test_*` columns once the study has ended."""
    references: pd.DataFrame | None
    """Teacher and classical floor with `test_*` columns; None before the study has ended."""
    folds: pd.DataFrame | None
    """Epochs of the teacher's cross-validation; None when it had none."""
    flips: Flips | None
    """What the front decides otherwise than the teacher; None before the study has ended."""
    within_noise: pd.DataFrame | None
    """Rows of `front_within_noise.parquet`; None before the study has ended."""
    trials_ended: int
    """With and without new models; files of earlier versions tell of those up to the last that has a row."""
    name: str
    preset: str
    critical_label: str
    label_columns: tuple[str, ...]
    synthetic: bool
    """Whether the comments are the generated sample."""
    data: dict[str, Any]
    """What preparing the comments reported; empty in files of earlier versions."""
    environment: dict[str, Any]
    """Versions and machine of the run; empty in files of earlier versions."""


def read_study(folder: Path) -> Study:
    """The study in `folder`.

    Raises:
        FileNotFoundError: `folder` lacks `trials.parquet` or `front.parquet`.
        ValueError: one of the files is damaged, of another version, or lacks a column.
    """
    missing = [name for name in ("trials.parquet", "front.parquet") if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{folder}: no {' and no '.join(missing)}: give the folder of a study that has run, as in results/STUDY"
        )
    trials_path, references = folder / "trials.parquet", folder / "references.parquet"
    flips, noise = folder / FLIPS_FILE, folder / "front_within_noise.parquet"
    metadata, trials = read_metadata(trials_path), read_records(trials_path)
    return Study(
        trials=trials,
        front=read_records(folder / "front.parquet"),
        references=read_records(references) if references.is_file() else None,
        folds=_read_folds(folder / "folds.parquet"),
        flips=Flips.read(flips) if flips.is_file() else None,
        within_noise=read_records(noise) if noise.is_file() else None,
        trials_ended=int(metadata.get(TRIALS_ENDED, max(trials["trial"].dropna(), default=-1) + 1)),
        name=metadata.get("study", folder.resolve().name),
        preset=metadata.get("preset", "custom"),
        critical_label=metadata.get("critical_label", "critical label"),
        label_columns=tuple(json.loads(metadata.get("label_columns", "[]"))),
        synthetic=metadata.get("synthetic") == "true",
        data=json.loads(metadata.get("data", "{}")),
        environment=json.loads(metadata.get("environment", "{}")),
    )


def _read_folds(path: Path) -> pd.DataFrame | None:
    """The cross-validation's rows; None when the study had none."""
    return read_table(path, FOLD_COLUMNS) if path.is_file() else None
