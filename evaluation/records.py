"""The Parquet schema of measured models: `trials.parquet` and `front.parquet`, write and read.

A file holds the fixed columns in a fixed order, all of them always, and after them whatever else the rows carry: the
settings of the stages (`distil.*`, `prune.*`, `quantize.*`), what is measured label by label (`per_label_f1.threat`),
and the front's `on_front` and `test_*`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.whole_file import replaced

SCHEMA_VERSION = 2
"""Raised when a fixed column changes its name, type or meaning."""
VERSION_KEY = "schema_version"
TRIALS_ENDED = "trials_ended"
"""Name in the metadata of a study's files for how many trials have ended, with and without new models."""

STAGES = ("baseline", "after_kd", "after_pruning", "after_quantization", "classical")
STATUSES = ("ok", "stopped_unsafe", "failed")

_STRING, _INTEGER, _FLOAT, _BOOLEAN = pa.string(), pa.int64(), pa.float64(), pa.bool_()

_IDENTITY: dict[str, Any] = {
    "study": _STRING,
    "trial": _INTEGER,
    "stage": _STRING,
    "model_key": _STRING,
    "parent_key": _STRING,
    "status": _STRING,
    "error": _STRING,
    "cache_hit": _BOOLEAN,
    "stage_seconds": _FLOAT,
    "node": _STRING,
    "created_at": _STRING,
}
_METRICS: dict[str, Any] = {
    "timestamp": _STRING,
    "model_size_mb": _FLOAT,
    "download_size_mb": _FLOAT,
    "num_parameters": _INTEGER,
    "num_trainable_params": _INTEGER,
    **dict.fromkeys(
        (
            "sparsity_percent",
            "prunable_sparsity_percent",
            "accuracy_exact",
            "accuracy_per_label",
            "f1_macro",
            "f1_weighted",
            "f1_micro",
            "precision_macro",
            "recall_macro",
            "hamming",
            "roc_auc",
            "priority_weighted_f1",
            "critical_f1",
            "critical_recall",
            "latency_mean_ms",
            "latency_p50_ms",
            "latency_p95_ms",
            "latency_p99_ms",
            "throughput_samples_per_sec",
            "peak_memory_mb",
            "size_compression_ratio",
            "speedup_factor",
            "speedup_low",
            "speedup_high",
            "speedup_vs_eager",
        ),
        _FLOAT,
    ),
    "machine": _STRING,
    "timed_model": _STRING,
    "rounds_repeated": _INTEGER,
    "waited_percent": _FLOAT,
}
_JUDGEMENT: dict[str, Any] = {
    "tradeoff_score": _FLOAT,
    "safe_compression_score": _FLOAT,
    "safety_verdict": _STRING,
    "f1_drop": _FLOAT,
    "f1_drop_upper": _FLOAT,
    "critical_f1_drop": _FLOAT,
    "critical_f1_drop_upper": _FLOAT,
    "critical_recall_drop": _FLOAT,
    "critical_recall_drop_upper": _FLOAT,
    "positives_needed": _INTEGER,
}
FIXED: dict[str, Any] = {**_IDENTITY, **_METRICS, **_JUDGEMENT}
"""Arrow type of every fixed column, in the file's order."""

ADDED = {"timed_model"}
"""Fixed columns that older files of this version lack: null there."""

BY_LABEL: dict[str, Any] = {
    **dict.fromkeys(
        ("per_label_f1", "per_label_precision", "per_label_recall", "per_label_accuracy", "thresholds"), _FLOAT
    ),
    "confusion_matrices": _STRING,
}
"""Arrow type of the columns `<name>.<label>`; a confusion matrix is JSON text."""

SPEED = (
    "latency_mean_ms",
    "latency_p50_ms",
    "latency_p95_ms",
    "latency_p99_ms",
    "throughput_samples_per_sec",
    "peak_memory_mb",
    "speedup_factor",
    "speedup_low",
    "speedup_high",
    "speedup_vs_eager",
    "machine",
    "timed_model",
    "rounds_repeated",
    "waited_percent",
)
"""Columns of one measurement of a model's speed, which all models of its shape have in common."""

RUN_DEPENDENT = (
    "timestamp",
    "created_at",
    "cache_hit",
    "stage_seconds",
    "node",
    *SPEED,
    "tradeoff_score",
)
"""Columns that depend on the run and not on the model alone; `tradeoff_score` contains the speed-up."""

_PANDAS_TYPES = {_STRING: pd.StringDtype(na_value=np.nan), _INTEGER: pd.Int64Dtype(), _BOOLEAN: pd.BooleanDtype()}


def write_records(rows: Sequence[Mapping[str, Any]], path: Path, *, metadata: Mapping[str, str] | None = None) -> None:
    """Write `rows` to the Parquet file `path`, at once or not at all.

    A column that a row lacks is null there; None, NaN and pandas' NA are null. A further column takes the type of its
    values (integers and floats together make floats). `metadata` is stored with the file.

    Raises:
        ValueError: a value does not fit its column, a column mixes types, a stage or status is not a known one, or a
            failed row has a model or no error.
    """
    clean = [{name: plain_value(value) for name, value in row.items()} for row in rows]
    for position, row in enumerate(clean):
        _check_row(row, position)
    further = dict.fromkeys(name for row in clean for name in row if name not in FIXED)
    # A whole dictionary that was absent: its labels are columns of their own, it is none.
    columns = [*FIXED, *(name for name in further if name not in BY_LABEL or any(row.get(name) for row in clean))]
    arrays = [_array(name, [row.get(name) for row in clean]) for name in columns]
    stored = {**(metadata or {}), VERSION_KEY: str(SCHEMA_VERSION)}
    write_table(pa.Table.from_arrays(arrays, names=columns).replace_schema_metadata(stored), path)


def write_table(table: pa.Table, path: Path) -> None:
    """Write the Parquet file `path`, at once or not at all; makes its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced(path) as temporary:
        pq.write_table(table, temporary)


def read_table(path: Path, needed: Sequence[str]) -> pd.DataFrame:
    """Rows of a Parquet file of ours that is no file of records.

    Raises:
        ValueError: it is damaged, or lacks a needed column.
    """
    try:
        rows = pd.read_parquet(path)
    except (ValueError, OSError) as error:
        raise ValueError(f"{path}: damaged ({error}): run the study again, or remove the file") from error
    missing = [name for name in needed if name not in rows.columns]
    if missing:
        raise ValueError(f"{path}: no column {', '.join(missing)}: run the study again, or remove the file")
    return rows


def read_records(path: Path) -> pd.DataFrame:
    """The file's rows, null integers and booleans as pandas' NA, null floats and strings as NaN.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no Parquet file, or of another version, or lacks a fixed column.
    """
    version = read_metadata(path).get(VERSION_KEY)
    if version != str(SCHEMA_VERSION):
        raise ValueError(
            f"{path}: {VERSION_KEY}={version!r}, this version of the project reads {SCHEMA_VERSION!r}: "
            "run the study again, or read the file with the version that wrote it"
        )
    try:
        with path.open("rb") as file:  # opened once: a search may replace it meanwhile
            table = pq.read_table(file)
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path}: damaged ({error}): run the study again") from error
    for name in ADDED.difference(table.column_names):
        table = table.append_column(name, pa.nulls(len(table), FIXED[name]))
    missing = [name for name in FIXED if name not in table.column_names]
    if missing:
        raise ValueError(f"{path}: no column {', '.join(missing)}: run the study again (write_records always has them)")
    frame: pd.DataFrame = table.to_pandas(types_mapper=_PANDAS_TYPES.get)
    return frame


def read_metadata(path: Path) -> dict[str, str]:
    """The file's own metadata: what `write_records` was given, and the schema version."""
    try:
        metadata: dict[bytes, bytes] = pq.read_schema(path).metadata or {}
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path}: not a whole Parquet file ({error}): run the study again") from error
    return {key.decode(): value.decode() for key, value in metadata.items()}


def plain_value(value: Any) -> Any:
    """A Python value for a NumPy scalar, None for NaN and pandas' NA; anything else as it is."""
    if isinstance(value, np.generic):
        value = value.item()
    return None if value is pd.NA or value is pd.NaT or (isinstance(value, float) and value != value) else value


def _check_row(row: Mapping[str, Any], position: int) -> None:
    failed = row.get("status") == "failed"
    for name, known in (("status", STATUSES), ("stage", STAGES)):
        if row.get(name) not in known and not (name == "stage" and failed and row.get(name) is None):
            raise ValueError(f"row {position}: {name}={row.get(name)!r}: must be one of {', '.join(known)}")
    if failed and (row.get("model_key") is not None or not row.get("error")):
        raise ValueError(
            f"row {position}: status='failed' with model_key={row.get('model_key')!r} and error={row.get('error')!r}: "
            "a failed row has no model and says what went wrong"
        )


def _array(name: str, values: Sequence[Any]) -> Any:
    kind = _declared_type(name) or _type_of_values(name, values)
    for value in values:
        if value is not None and not _fits(value, kind):
            raise ValueError(f"column {name}: {value!r} is {type(value).__name__}, the column holds {kind}")
    as_stored: dict[Any, Callable[[Any], Any]] = {_FLOAT: float, _STRING: _encodable}
    stored = as_stored.get(kind, lambda value: value)
    return pa.array([None if value is None else stored(value) for value in values], type=kind)


def _encodable(text: str) -> str:
    """Text as UTF-8 can hold it: half a character, as an error may quote of a file's name, is spelt out."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _declared_type(name: str) -> Any:
    """The type of a fixed column, of one by label, and of either with `test_` before it; None for any other."""
    base = name.removeprefix("test_")
    prefix, dot, _ = base.partition(".")
    return FIXED.get(base) or (BY_LABEL.get(prefix) if dot else None)


def _type_of_values(name: str, values: Sequence[Any]) -> Any:
    kinds = {type(value) for value in values if value is not None}
    if not kinds:
        return pa.null()
    for allowed, kind in (({bool}, _BOOLEAN), ({int}, _INTEGER), ({int, float}, _FLOAT), ({str}, _STRING)):
        if kinds <= allowed:
            return kind
    names = ", ".join(sorted(kind.__name__ for kind in kinds))
    raise ValueError(
        f"column {name} holds {names}: give it values of one type (text, whole numbers, numbers or booleans)"
    )


def _fits(value: Any, kind: Any) -> bool:
    if kind == _BOOLEAN:
        return isinstance(value, bool)
    if kind == _STRING:
        return isinstance(value, str)
    return isinstance(value, int if kind == _INTEGER else (int, float)) and not isinstance(value, bool)
