from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from evaluation.records import read_records, write_records
from search.config import StudyConfig
from search.outcome_tables import RecordedTable, SyntheticTable
from search.study_file import study_from


@pytest.fixture
def config() -> StudyConfig:
    return study_from({"study": "s", "data": {"label_columns": ["threat", "bully"]}})


LOGIT = {"distil.method": "logit", "distil.layers": 2, "distil.alpha": 0.5}
CHAIN = {**LOGIT, "prune.method": "structured", "prune.ratio": 0.4, "quantize.method": "none"}


def recorded(tmp_path: Path) -> pd.DataFrame:
    def row(stage: str, key: str, settings: dict[str, Any], seconds: float) -> dict[str, Any]:
        return {"study": "s", "stage": stage, "model_key": key, "status": "ok", "stage_seconds": seconds, **settings}

    pruned = {name: value for name, value in CHAIN.items() if not name.startswith("quantize")}
    rows = [
        row("baseline", "t", {}, 9.0),
        row("after_kd", "k", LOGIT, 5.0),
        row("after_kd", "k3", {**LOGIT, "distil.layers": 3}, 6.0),
        row("after_pruning", "kp", pruned, 4.0),
        {"study": "s", "stage": "after_kd", "status": "failed", "error": "torn", **LOGIT},
    ]
    write_records(rows, tmp_path / "trials.parquet")
    return read_records(tmp_path / "trials.parquet")


def test_a_recorded_chain_is_found_stage_by_stage(tmp_path: Path) -> None:
    table = RecordedTable(recorded(tmp_path))
    assert table.teacher()["model_key"] == "t"
    assert [
        row and row["model_key"] for row in (table.row(stage, CHAIN) for stage in ("distil", "prune", "quantize"))
    ] == [
        "k",
        "kp",
        None,
    ]
    assert table.row("distil", {**CHAIN, "distil.layers": 3})["stage_seconds"] == 6.0


def test_a_chain_that_was_not_recorded_is_named(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match=r"prune: no recorded model has .*'prune\.ratio': 0\.2"):
        RecordedTable(recorded(tmp_path)).row("prune", {**CHAIN, "prune.ratio": 0.2})


def test_a_formula_has_the_manners_of_compression(config: StudyConfig) -> None:
    table = SyntheticTable(config, 0)
    base = {
        "distil.method": "logit",
        "distil.student": "layers",
        "prune.method": "none",
        "quantize.method": "int8_dynamic",
    }
    small, large = (table.row("quantize", {**base, "distil.layers": layers}) for layers in (1, 6))
    assert small["model_size_mb"] < large["model_size_mb"] < table.teacher()["model_size_mb"]
    assert small["f1_macro"] < large["f1_macro"] and small["speedup_factor"] > large["speedup_factor"]
    assert table.row("prune", base) is None
    again = SyntheticTable(config, 0).row("quantize", {**base, "distil.layers": 1})
    assert again == small != SyntheticTable(config, 1).row("quantize", {**base, "distil.layers": 1})
