import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evaluation.records import (
    FIXED,
    RUN_DEPENDENT,
    plain_value,
    read_metadata,
    read_records,
    write_records,
)
from evaluation.stage_metrics import DICT_FIELDS, INTEGER_FIELDS, SCALAR_FIELDS, CompressionStageMetrics

LABEL = "50%_off & more"


def row(**changes: Any) -> dict[str, Any]:
    metrics = CompressionStageMetrics(
        stage="after_kd",
        num_parameters=12,
        f1_macro=0.5,
        per_label_f1={LABEL: 0.25, "বাংলা": None},
        thresholds={LABEL: 0.4},
        confusion_matrices={LABEL: [[1, 2], [3, 4]]},
    )
    identity = {"study": "s", "trial": 3, "model_key": "k", "parent_key": "t", "status": "ok", "cache_hit": False}
    settings = {"distil.method": "logit", "distil.layers": 2, "distil.temperature": 2.5}
    return {**identity, **settings, **metrics.to_flat_dict(), **changes}


def test_fixed_columns_are_those_of_the_metrics_and_come_first(tmp_path: Path) -> None:
    assert set(FIXED) >= SCALAR_FIELDS
    assert not set(FIXED) & DICT_FIELDS
    assert {name for name in SCALAR_FIELDS if FIXED[name] == pa.int64()} == INTEGER_FIELDS
    assert set(RUN_DEPENDENT) <= set(FIXED)
    write_records([row()], tmp_path / "trials.parquet")
    names = pq.read_schema(tmp_path / "trials.parquet").names
    assert names[: len(FIXED)] == list(FIXED)
    assert set(names[len(FIXED) :]) == {name for name in row() if "." in name}
    assert names[:5] == ["study", "trial", "stage", "model_key", "parent_key"]


def test_round_trip_keeps_every_value(tmp_path: Path) -> None:
    rows = [row(), row(trial=None, stage="baseline", parent_key=None, safety_verdict="safe", positives_needed=7)]
    write_records(rows, tmp_path / "trials.parquet")
    frame = read_records(tmp_path / "trials.parquet")
    for written, read in zip(rows, frame.to_dict("records"), strict=True):
        plain = {name: plain_value(value) for name, value in read.items()}
        assert {name: value for name, value in plain.items() if value is not None} == {
            name: value for name, value in written.items() if value is not None
        }
        metrics = CompressionStageMetrics.from_flat_dict(read)
        assert metrics == CompressionStageMetrics.from_flat_dict(written)
    write_records(frame.to_dict("records"), tmp_path / "again.parquet")
    pd.testing.assert_frame_equal(read_records(tmp_path / "again.parquet"), frame)


def test_dtypes_do_not_depend_on_the_rows(tmp_path: Path) -> None:
    write_records([], tmp_path / "empty.parquet")
    write_records([row(cache_hit=None, num_parameters=None)], tmp_path / "one.parquet")
    empty, one = read_records(tmp_path / "empty.parquet"), read_records(tmp_path / "one.parquet")
    assert empty.empty
    assert empty.dtypes.to_dict() == one[list(FIXED)].dtypes.to_dict()
    assert str(empty["trial"].dtype) == "Int64"
    assert str(empty["cache_hit"].dtype) == "boolean"
    assert empty["f1_macro"].dtype == np.float64
    assert list(one["per_label_f1.বাংলা"].isna()) == [True]
    assert one["per_label_f1.বাংলা"].dtype == np.float64


def test_whole_numbers_and_numbers_make_numbers(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write_records([row(**{"distil.temperature": 4}), row()], path)
    assert list(read_records(path)["distil.temperature"]) == [4.0, 2.5]


@pytest.mark.parametrize("values", [(1, "one"), (True, 1), (0.5, "x"), (False, "x")])
def test_a_column_of_mixed_types_is_refused(tmp_path: Path, values: tuple[Any, Any]) -> None:
    with pytest.raises(ValueError, match=r"column prune\.x holds"):
        write_records([row(**{"prune.x": value}) for value in values], tmp_path / "a.parquet")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"f1_macro": "high"}, "column f1_macro: 'high' is str"),
        ({"num_parameters": 1.5}, "column num_parameters: 1.5 is float"),
        ({"cache_hit": 1}, "column cache_hit: 1 is int"),
        ({"f1_drop": True}, "column f1_drop: True is bool"),
        ({"prune.x": [1]}, r"column prune\.x holds list"),
        ({"stage": "kd"}, "row 0: stage='kd'"),
        ({"status": "done"}, "row 0: status='done'"),
        ({"status": "failed"}, "a failed row has no model"),
        ({"status": "failed", "model_key": None, "error": None}, "a failed row has no model"),
    ],
)
def test_wrong_values_are_refused_by_name(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_records([row(**changes)], tmp_path / "a.parquet")


def test_failed_rows_and_missing_values(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    failed = {"study": "s", "trial": 1, "stage": "after_pruning", "status": "failed", "error": "out of memory"}
    write_records([failed, row(f1_macro=math.nan, roc_auc=np.float32("nan"), trial=pd.NA, node=np.nan)], path)
    table = pq.read_table(path)
    assert table["model_key"].to_pylist() == [None, "k"]
    for name in ("f1_macro", "roc_auc", "node"):
        assert table[name].null_count == 2
    assert table["trial"].to_pylist() == [1, None]


def test_test_columns_have_the_type_of_what_they_repeat(tmp_path: Path) -> None:
    path = tmp_path / "front.parquet"
    write_records([row(test_f1_macro=None, test_safety_verdict=None, on_front=True)], path)
    schema = pq.read_schema(path)
    assert schema.field("test_f1_macro").type == pa.float64()
    assert schema.field("test_safety_verdict").type == pa.string()
    assert schema.field("on_front").type == pa.bool_()


def test_metadata_is_stored_with_the_version(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.parquet"
    write_records([], path, metadata={"study": "বাংলা", "synthetic": "true"})
    assert read_metadata(path) == {"study": "বাংলা", "synthetic": "true", "schema_version": "2"}


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.parquet"
    write_records([row()], path)
    before = path.read_bytes()

    def half(table: Any, where: Path) -> None:
        Path(where).write_bytes(b"PAR1")
        raise OSError("disk full")

    monkeypatch.setattr(pq, "write_table", half)
    with pytest.raises(OSError, match="disk full"):
        write_records([row(), row()], path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_reading_names_the_file_and_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "trials.parquet"
    with pytest.raises(FileNotFoundError, match=r"trials\.parquet"):
        read_records(path)
    path.write_bytes(b"not Parquet at all")
    with pytest.raises(ValueError, match=r"trials\.parquet: not a whole Parquet file"):
        read_records(path)
    pd.DataFrame({"study": ["s"]}).to_parquet(path)
    with pytest.raises(ValueError, match=r"trials\.parquet: schema_version=None.*run the study again"):
        read_records(path)
    write_records([row()], path)
    table = pq.read_table(path)
    pq.write_table(table.drop_columns(["f1_macro", "status"]), path)
    with pytest.raises(ValueError, match=r"trials\.parquet: no column status, f1_macro: run the study again"):
        read_records(path)
    pq.write_table(table.replace_schema_metadata({"schema_version": "99"}), path)
    with pytest.raises(ValueError, match="schema_version='99'"):
        read_records(path)


def test_an_older_file_lacks_a_column_that_was_added(tmp_path: Path) -> None:
    path = tmp_path / "trials.parquet"
    write_records([row()], path)
    pq.write_table(pq.read_table(path).drop_columns(["timed_model"]), path)
    assert read_records(path)["timed_model"].isna().all()


def test_a_file_damaged_in_the_middle_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "trials.parquet"
    write_records([row()] * 3, path)
    content = bytearray(path.read_bytes())
    content[4:400] = b"\xff" * 396
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"trials\.parquet: damaged"):
        read_records(path)


def test_half_a_character_in_an_error_is_spelt_out(tmp_path: Path) -> None:
    failed = {"study": "s", "trial": 1, "status": "failed", "error": "no file 'a\udc80' \ud83d", "cache_hit": False}
    write_records([row(), failed], tmp_path / "trials.parquet")
    assert read_records(tmp_path / "trials.parquet")["error"].tolist()[1] == "no file 'a\\udc80' \\ud83d"
