"""The benchmark of policies on small worlds: costs are those of the searches, and what is not reached says so."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.search_policies import judged, limits, volumes
from evaluation.records import read_records, write_records
from search.config import STAGES
from search.every_chain import every_chain
from search.outcome_tables import SyntheticTable
from search.study_file import study_from, to_yaml

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "search_policies.py"


def run_of(seed: int, costs: list[float], volumes: list[float]) -> dict[str, object]:
    """A search by its curve."""
    about = {"sampler": "random", "reuse": True, "workers": 8, "seed": seed, "utilisation": 1.0, "cost_end": 90.0}
    return about | {"costs": costs, "volumes": volumes}


def test_the_cost_is_where_the_curve_first_has_the_share_of_its_own_world() -> None:
    runs = [run_of(0, [0, 10, 40, 60], [0, 0.5, 0.96, 0.99]), run_of(1, [0, 20, 50], [0, 0.5, 0.96])]
    runs.append(run_of(2, [0, 30], [0, 0.9]))
    [row] = judged(runs, {0: 1.0, 1: 0.5, 2: 1.0}, {0: 2.0, 1: 3.0, 2: 4.0})
    assert (row["cost_low"], row["cost_median"], row["cost_high"]) == (20, 40, math.inf)
    assert row["reached"] == pytest.approx(2 / 3)
    assert row["share_end"] == pytest.approx(0.99)
    assert row["cost_end"] == 90.0
    assert row["cost_bound"] == 8 * 3.0


SMALL: dict[str, Any] = {
    "study": "small",
    "data": {"label_columns": ["threat", "bully"]},
    "teacher": {"model": "scratch", "scratch_layers": 12, "scratch_width": 384, "scratch_heads": 12},
    "distil": {
        "method": {"choices": ["none", "logit"]},
        "layers": {"choices": [1, 3]},
        "alpha": {"choices": [0.3, 0.9]},
    },
    "prune": {"method": {"choices": ["none", "structured"]}, "ratio": {"choices": [0.2, 0.4]}},
    "quantize": {"method": {"choices": ["none", "int8_dynamic"]}},
}


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A recorded table of 29 models, made by the formula."""
    config = study_from(SMALL)
    formula = SyntheticTable(config, 0)
    rows = {"teacher": formula.teacher()}
    for params in every_chain(config):
        settings: dict[str, Any] = {}
        for stage in STAGES:
            settings |= {name: value for name, value in params.items() if name.startswith(f"{stage}.")}
            if (row := formula.row(stage, params)) is not None:
                rows[row["model_key"]] = row | settings
    write_records(list(rows.values()), tmp_path / "trials.parquet")
    (tmp_path / "study.yaml").write_text(to_yaml(config), encoding="utf-8")
    return tmp_path


def test_a_run_of_the_program_on_a_recorded_table(table: Path) -> None:
    figures = table / "figures.json"
    command = [sys.executable, str(PROGRAM), "--table", str(table), "--seeds", "2", "--workers", "3", "--trials", "30"]
    command += ["--processes", "1", "--samplers", "stage_tree", "random", "--json", str(figures)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    rows = {(row["sampler"], row["reuse"]): row for row in json.loads(figures.read_text("utf-8"))}
    assert set(rows) == {("stage_tree", True), ("random", True), ("random", False)}
    assert rows["stage_tree", True]["share_end"] == pytest.approx(1.0), "thirty trials have all chains"
    assert rows["random", True]["cost_end"] < rows["random", False]["cost_end"], "the same models, reused"
    assert 0 < rows["stage_tree", True]["cost_median"] <= rows["stage_tree", True]["cost_end"]
    assert all(row["workers"] == 3 for row in rows.values()) and "3 workers" in done.stdout


def test_what_no_search_is_below_is_the_time_of_the_chains_that_are_needed(table: Path) -> None:
    trials = read_records(table / "trials.parquet").to_dict("records")
    [teacher] = [row for row in trials if row["stage"] == "baseline"]
    reference, soonest = limits(table, 0)
    assert reference == pytest.approx(volumes([(0.0, row) for row in trials], teacher)[1][-1])
    config = study_from(SMALL)
    formula = SyntheticTable(config, 0)
    ends = {}
    for params in every_chain(config):
        rows = [row for stage in STAGES if (row := formula.row(stage, params))]
        ends |= {
            row["model_key"]: sum(one["stage_seconds"] + 3.0 for one in rows[: at + 1]) for at, row in enumerate(rows)
        }
    in_time, before = (
        [row for row in trials if ends.get(row["model_key"], 0.0) <= end] for end in (soonest, soonest - 0.1)
    )
    volume_of_those, volume_before = (
        volumes([(0.0, row) for row in rows], teacher)[1][-1] for rows in (in_time, before)
    )
    assert volume_before < 0.95 * reference <= volume_of_those
