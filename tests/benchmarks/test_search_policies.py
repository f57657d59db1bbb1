"""The benchmark of policies on small worlds: costs are those of the searches, and what is not reached says so."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.policies.figures import judged, shares_at
from benchmarks.policies.kept import KeptRuns
from benchmarks.policies.runs import COSTS, Curve, Limits, bounds, one_run, table_digest
from benchmarks.slim_table import slim
from evaluation.records import read_records, write_records
from search.config import STAGES
from search.every_chain import every_chain
from search.outcome_tables import SyntheticTable
from search.study_file import study_from, to_yaml

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "search_policies.py"


def test_a_cost_is_the_median_over_seeds_and_infinite_where_it_was_not_reached() -> None:
    about = {"sampler": "random", "reuse": True, "workers": 8, "utilisation": 1.0, "cost_end": 90.0, "share_end": 0.9}
    about |= {"trials": 9, "program_seconds": 1.0, "share_at": {}}
    runs = [about | {"seed": seed, "cost": cost, "clock": cost / 4} for seed, cost in enumerate([20.0, 40.0, math.inf])]
    [row] = judged(runs, [2.0, 3.0, 4.0])
    assert (row["seeds"], row["clock_median"]) == (3, 10)
    assert (row["cost_low"], row["cost_median"], row["cost_high"]) == (30, 40, math.inf)
    assert (row["held_low"], row["held_median"], row["held_high"]) == (60, 80, math.inf), "eight workers by the clock"
    assert (row["reached"], row["cost_bound"]) == (pytest.approx(2 / 3), 8 * 3.0)
    [row] = judged(runs[:2], [2.0, 3.0])
    assert (row["cost_median"], row["clock_median"]) == (30, 7.5), "of two, the mean"
    [row] = judged(runs[1:], [2.0, 3.0, 4.0])
    assert (row["cost_low"], row["cost_median"]) == (math.inf, math.inf), "half way to what never came"


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
    command += ["--runs", str(table / "runs.jsonl")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    rows = {(row["sampler"], row["reuse"]): row for row in json.loads(figures.read_text("utf-8"))}
    assert set(rows) == {("stage_tree", True), ("random", True), ("random", False)}
    assert 0 < rows["stage_tree", True]["cost_median"] < math.inf, "thirty trials have all chains"
    assert 0.95 <= rows["stage_tree", True]["share_end"] <= 1
    assert rows["random", True]["cost_end"] < rows["random", False]["cost_end"], "the same models, reused"
    assert all(row["workers"] == 3 for row in rows.values()) and "3 workers" in done.stdout
    kept = KeptRuns(table / "runs.jsonl", {"table": table_digest(table), "to_the_end": False, **COSTS})
    assert sorted(task[0] for task in kept.runs) == ["random"] * 4 + ["stage_tree"] * 2
    assert {run["seed"] for run in kept.runs.values()} == {0, 1}
    before = (table / "runs.jsonl").read_bytes()
    again = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert again.returncode == 0, again.stderr
    assert (table / "runs.jsonl").read_bytes() == before, "nothing is run again"
    assert {(row["sampler"], row["reuse"]): row for row in json.loads(figures.read_text("utf-8"))} == rows
    shown = subprocess.run([*command, "--seeds", "3", "--kept-only"], capture_output=True, text=True, timeout=200)
    assert shown.returncode == 0, shown.stderr
    assert (table / "runs.jsonl").read_bytes() == before, "the third seed is not run"
    assert {(row["sampler"], row["reuse"]): row for row in json.loads(figures.read_text("utf-8"))} == rows


def test_a_search_on_a_slim_table_is_the_same(table: Path, tmp_path: Path) -> None:
    slim(table, tmp_path / "slim")
    figures = []
    for place in (table, tmp_path / "slim"):
        volume, soonest = bounds(place, COSTS, 0)
        run = one_run(place, Limits(60), COSTS, [volume], ("stage_tree", True, 3, 0))
        figures.append([volume, soonest, *(run[name] for name in ("cost", "clock", "share_end", "trials"))])
    assert figures[0] == pytest.approx(figures[1], rel=1e-3)
    whole, kept = (read_records(place / "trials.parquet") for place in (table, tmp_path / "slim"))
    assert kept["model_key"].tolist() == [key[:12] for key in whole["model_key"]]


def test_kept_runs_are_those_of_the_same_settings(tmp_path: Path) -> None:
    run = {"sampler": "tpe", "reuse": True, "workers": 8, "seed": 3, "cost": math.inf}
    KeptRuns(tmp_path / "runs", {"table": "a"}).add(run)
    KeptRuns(tmp_path / "runs", {"table": "b"}).add(run | {"seed": 4})
    assert KeptRuns(tmp_path / "runs", {"table": "a"}).runs == {("tpe", True, 8, 3): run}
    assert KeptRuns(tmp_path / "runs", {"table": "c"}).runs == KeptRuns(None, {"table": "a"}).runs == {}
    assert KeptRuns(tmp_path / "runs", {"table": "a", "driver_seconds": 0.0}).runs == {("tpe", True, 8, 3): run}
    assert not KeptRuns(tmp_path / "runs", {"table": "a", "driver_seconds": 0.1}).runs


def test_to_the_end_a_search_has_all_its_trials(table: Path) -> None:
    task = ("random", True, 3, 0)
    volume, _ = bounds(table, COSTS, 0)
    limits = (Limits(200, 1e6, to_the_end=to_the_end) for to_the_end in (False, True))
    stopped, whole = (one_run(table, limit, COSTS, [volume], task) for limit in limits)
    assert (stopped["trials"] < 200, whole["trials"]) == (True, 200)
    assert (stopped["cost"], stopped["cost_end"]) == (pytest.approx(whole["cost"]),) * 2 and whole["share_end"] == 1.0


def test_a_share_at_a_cost_is_the_median_of_what_searches_had(table: Path) -> None:
    ended = {"cost": math.inf, "share_end": 0.4, "share_at": {"25": 0.2, "50": 0.4}}
    there = {"cost": 40.0, "share_end": 0.96, "share_at": {"25": 0.6}}
    assert shares_at([ended, there]) == pytest.approx({"25": 0.4, "50": 0.68})
    assert shares_at([ended, there | {"cost": math.inf}]) == pytest.approx({"25": 0.4}), "what it had is not known"
    volume, _ = bounds(table, COSTS, 0)
    run = one_run(table, Limits(200), COSTS, [volume], ("random", True, 3, 0))
    shares = list(run["share_at"].values())
    assert [float(cost) <= run["cost"] for cost in run["share_at"]] == [True] * len(shares) and len(shares) > 1
    assert shares == sorted(shares) and 0 < shares[-1] < 0.95 <= run["share_end"]


def test_a_policy_that_takes_long_itself_is_not_waited_for(table: Path) -> None:
    volume, _ = bounds(table, COSTS, 0)
    run = one_run(table, Limits(200, patience=0.0), COSTS, [volume], ("random", True, 3, 0))
    assert (run["cost"], run["trials"] < 10) == (math.inf, True)


def test_what_no_search_is_below_is_the_time_of_the_chains_that_are_needed(table: Path) -> None:
    trials = read_records(table / "trials.parquet").to_dict("records")
    [teacher] = [row for row in trials if row["stage"] == "baseline"]

    def volume(rows: list[dict[str, Any]]) -> float:
        curve = Curve(teacher)
        curve.follow([(0.0, row) for row in rows])
        return curve.volumes[-1]

    reference, soonest = bounds(table, {"trial_seconds": 0.5, "measure_seconds": 3.0, "timing_seconds": 5.0}, 0)
    assert reference == pytest.approx(volume(trials))
    config = study_from(SMALL)
    formula = SyntheticTable(config, 0)
    ends = {}
    for params in every_chain(config):
        rows = [row for stage in STAGES if (row := formula.row(stage, params))]
        ends |= {
            row["model_key"]: 0.5 + sum(one["stage_seconds"] + 3.0 for one in rows[: at + 1]) + 5.0
            for at, row in enumerate(rows)
        }
    in_time = [row for row in trials if ends.get(row["model_key"], 0.0) <= soonest]
    earlier = [row for row in in_time if ends.get(row["model_key"], 0.0) < soonest]
    assert volume(earlier) < 0.95 * reference <= volume(in_time)
