"""The recorder on a tiny space: its rows are those of the trials themselves, and the simulator finds every chain."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from evaluation.records import read_records
from pipeline.data import prepare
from pipeline.storage import open_store
from search.config import STAGES
from search.every_chain import every_chain
from search.outcome_tables import RecordedTable
from search.study_file import load_study, study_from
from search.trial import run_trial
from search.workbench import Workbench

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "record_chains.py"
SAME = [
    "stage",
    "parent_key",
    "f1_macro",
    "critical_recall",
    "model_size_mb",
    "safety_verdict",
    "critical_f1_drop_upper",
]


def test_rows_are_those_of_trials_and_models_of_one_shape_are_equally_fast(
    tiny_study: dict[str, Any], tmp_path: Path
) -> None:
    tiny_study["distil"]["alpha"] = {"choices": [0.2, 0.8]}
    tiny_study["quantize"]["method"] = {"choices": ["none", "int4"]}
    study, folder = tmp_path / "tiny.yaml", tmp_path / "table"
    study.write_text(yaml.safe_dump(tiny_study | {"results_dir": str(tmp_path / "results")}), encoding="utf-8")
    command = [sys.executable, str(PROGRAM), str(study), "--to", str(folder), "--processes", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    rows = read_records(folder / "trials.parquet")
    assert len(rows) == 2 + 4 * 2, "teacher, floor, and two models of each of four students"
    by_key = rows.set_index("model_key")

    config = study_from(tiny_study | {"results_dir": str(tmp_path / "others")})
    data_key = prepare(config.data).add_to(open_store(config.store_place)).key
    bench = Workbench.open(config, data_key)
    for row in run_trial(bench, list(every_chain(config))[-1], lambda stage, row: None):
        assert {name: by_key.loc[row["model_key"], name] for name in SAME} == {name: row[name] for name in SAME}

    models = rows[rows["stage"].isin(["after_kd", "after_quantization"])]
    speeds = models.groupby(["stage", "distil.buckets"])["speedup_factor"].nunique()
    assert len(speeds) == 4 and (speeds == 1).all(), "alpha makes no model faster"
    assert rows["speedup_factor"].nunique() == 1 + 1 + 4, "teacher, floor and four shapes"
    assert rows["timed_model"].nunique() == 1 + 1 + 4 and set(rows["timed_model"]) <= set(rows["model_key"])
    assert rows[rows["stage"] == "baseline"]["speedup_factor"].item() == 1.0
    assert rows["tradeoff_score"].notna().all()

    table = RecordedTable(rows)
    for params in every_chain(load_study(folder / "study.yaml", [])):
        row = table.row("quantize", params)
        assert table.row("distil", params) and (row is None) == (params["quantize.method"] == "none")
    with pytest.raises(KeyError):
        table.row("distil", dict.fromkeys((f"{stage}.method" for stage in STAGES), "logit"))


@pytest.mark.parametrize(
    ("study", "chains"),
    [
        ("recorded", 321),
        ("recorded_wide", 2_023),
        ("recorded_bags", 29_160),
        ("recorded_mixed", 33_384),
        ("recorded_seconds", 183),
    ],
)
def test_the_spaces_to_record_have_as_many_chains_as_we_say(study: str, chains: int) -> None:
    config = load_study(PROGRAM.with_name(f"{study}.yaml"), [])
    assert config.study == study and sum(1 for _ in every_chain(config)) == chains
