"""The results of a study as an exporter needs them: measured models, settings, and where the artifacts lie."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import InputError
from pipeline.object_store import is_url

if TYPE_CHECKING:
    import pandas as pd

MODELS = "models"
"""Of a study's folder: models to deploy, each in a folder that has its key for a name."""
TRIALS, FRONT, REFERENCES, STUDY = "trials.parquet", "front.parquet", "references.parquet", "study.yaml"
SCHEMA_VERSION = "2"
"""Of the Parquet files that can be read: `evaluation.records` writes them."""
NEEDED = (
    "stage",
    "model_key",
    "status",
    "f1_macro",
    "model_size_mb",
    "latency_mean_ms",
    "speedup_factor",
    "safety_verdict",
    "f1_drop",
    "f1_drop_upper",
    "critical_f1_drop",
    "critical_f1_drop_upper",
    "critical_recall_drop",
    "critical_recall_drop_upper",
)
DROP_LIMITS = {"f1_drop": 0.05, "critical_f1_drop": 0.03, "critical_recall_drop": 0.03}
"""By column; of studies whose file does not say."""
STORED_AS = {
    "baseline": "teacher",
    "after_kd": "distil",
    "after_pruning": "prune",
    "after_quantization": "quantize",
    "classical": "classical",
}
"""Stages of `trials.parquet`, and the store's folders of their artifacts."""


@dataclass(frozen=True)
class StudyResults:
    """A folder `results/STUDY`, read."""

    folder: Path
    front: pd.DataFrame
    """Rows of `front.parquet`."""
    measured: pd.DataFrame
    """Every model once: rows of the front and the references with their `test_*` columns, then the other trials'."""
    settings: Mapping[str, Any]
    """`study.yaml`."""
    facts: Mapping[str, Any]
    """What the Parquet file notes beside its rows: `data`, `environment`, `critical_label`, `label_columns`, …"""

    @property
    def limits(self) -> dict[str, float]:
        """The largest allowed drop by column."""
        safety = _section(self.settings, "safety")
        return {name: float(safety.get(f"max_{name}", limit)) for name, limit in DROP_LIMITS.items()}

    @property
    def critical_label(self) -> str:
        """The label whose misses matter most: the study's file names it, and its Parquet files do."""
        named = _section(self.settings, "safety").get("critical_label") or self.facts.get("critical_label")
        if not named:
            raise InputError([f"{self.folder / STUDY}: safety.critical_label is missing; name the label there"])
        return str(named)

    @property
    def store_place(self) -> str:
        """Where `pipeline.storage.open_store` finds the artifacts: a URL, or the folder `store_root`."""
        storage = self.settings.get("storage")
        return storage if isinstance(storage, str) and is_url(storage) else str(self.store_root)

    @property
    def store_root(self) -> Path:
        """Folder of the artifacts, not of a URL: `storage` of the study, or `.store` beside the study's folder.

        A relative `storage` counts from where the study was started; where it is not found from here, the folder above
        the results is tried.
        """
        storage = self.settings.get("storage")
        if storage is None:
            return self.folder.resolve().parent / ".store"
        above = self.folder.resolve().parent.parent / str(storage)
        return above if not Path(storage).is_dir() and above.is_dir() else Path(storage)


def read_results(folder: Path) -> StudyResults:
    """Read the results of a study.

    Raises:
        InputError: `folder` is not a study's (names the nearest), or a file of it is missing, damaged, of another
            version or lacks a column.
    """
    if not (folder / TRIALS).is_file():
        raise InputError([_no_study(folder)])
    front, facts = _read(folder / FRONT)
    trials, _ = _read(folder / TRIALS)
    references = _read(folder / REFERENCES)[0] if (folder / REFERENCES).is_file() else trials[:0]
    if missing := [name for name in ("on_front", "on_safe_front") if name not in front.columns]:
        raise InputError([f"{folder / FRONT}: no column {', '.join(missing)}; run the study again"])
    return StudyResults(
        folder=folder,
        front=front,
        measured=every_model(front, references, trials),
        settings=_settings(folder / STUDY),
        facts=facts,
    )


def every_model(*tables: pd.DataFrame) -> pd.DataFrame:
    """Every measured model once, as the first table that has it tells of it."""
    import pandas as pd

    # A column that is all null has another type than the same one with numbers: neither decides.
    measured = [table[table["model_key"].notna()].astype(object) for table in tables]
    models = pd.concat([table for table in measured if len(table)] or measured[:1], ignore_index=True)
    return models.drop_duplicates("model_key", ignore_index=True)


def _read(file: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Rows and facts of a Parquet file of measured models."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with file.open("rb") as opened:  # once: a search may replace it meanwhile
            table = pq.read_table(opened)
    except FileNotFoundError as error:
        raise InputError([f"{file}: missing; finish the study with --resume, or copy the whole folder"]) from error
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            [f"{file}: not a whole Parquet file ({reason}); run the study again, or copy it again"]
        ) from error
    facts = {name.decode(): value.decode() for name, value in (table.schema.metadata or {}).items()}
    version = facts.get("schema_version")
    if version != SCHEMA_VERSION:
        what = f"schema_version={version!r}, this version of the project reads {SCHEMA_VERSION!r}"
        raise InputError([f"{file}: {what}; run the study again, or export with the version that wrote it"])
    if missing := [name for name in NEEDED if name not in table.column_names]:
        raise InputError([f"{file}: no column {', '.join(missing)}; run the study again"])
    noted = {name: json.loads(facts[name]) for name in ("data", "environment", "label_columns") if name in facts}
    return table.replace_schema_metadata(None).to_pandas(integer_object_nulls=True), {**facts, **noted}


def _settings(file: Path) -> dict[str, Any]:
    import yaml

    try:
        settings = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError([f"{file}: missing; copy the whole folder of the study"]) from error
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError([f"{file}: cannot be read ({str(error).splitlines()[0]}); copy it again"]) from error
    if not isinstance(settings, dict):
        raise InputError([f"{file}: holds no settings; copy it again"])
    return settings


def _section(settings: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = settings.get(name)
    return section if isinstance(section, dict) else {}


def _no_study(folder: Path) -> str:
    """Why this is no study's folder, and which one near it is."""
    above = folder.absolute().parent
    places = [above, *(place for place in (Path("results"), folder) if place.is_dir())]
    studies = {
        study.name: study
        for place in places
        if place.is_dir()
        for study in sorted(place.iterdir())
        if (study / TRIALS).is_file()
    }
    near = difflib.get_close_matches(folder.name, list(studies), n=1, cutoff=0.4)
    what = f"no {TRIALS} in it" if folder.is_dir() else "no such folder"
    if near:
        found = studies[near[0]]
        here = Path.cwd()
        shown = found.absolute().relative_to(here) if found.absolute().is_relative_to(here) else found
        return f"{folder}: {what}; did you mean {shown}?"
    known = f" (there is: {', '.join(sorted(studies))})" if studies else ""
    return f"{folder}: {what}; name the folder of a study that has run, as in results/STUDY{known}"
