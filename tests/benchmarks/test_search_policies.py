"""The benchmark of policies on two small worlds: costs are those of the searches, and what is not reached says so."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.search_policies import judged, reference_volume

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "search_policies.py"


def run_of(seed: int, costs: list[float], volumes: list[float]) -> dict[str, object]:
    """A search by its curve."""
    about = {"sampler": "random", "reuse": True, "workers": 8, "seed": seed, "utilisation": 1.0, "cost_end": 90.0}
    return about | {"costs": costs, "volumes": volumes}


def test_the_cost_is_where_the_curve_first_has_the_share_of_its_own_world() -> None:
    runs = [run_of(0, [0, 10, 40, 60], [0, 0.5, 0.96, 0.99]), run_of(1, [0, 20, 50], [0, 0.5, 0.96])]
    runs.append(run_of(2, [0, 30], [0, 0.9]))
    [row] = judged(runs, {0: 1.0, 1: 0.5, 2: 1.0})
    assert (row["cost_low"], row["cost_median"], row["cost_high"]) == (20, 40, math.inf)
    assert row["reached"] == pytest.approx(2 / 3)
    assert row["share_end"] == pytest.approx(0.99)
    assert row["cost_end"] == 90.0


def test_a_run_of_the_program(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    command = [sys.executable, str(PROGRAM), "--seeds", "2", "--workers", "4", "--trials", "40", "--processes", "1"]
    command += ["--samplers", "stage_tree", "random", "--json", str(figures)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    rows = json.loads(figures.read_text("utf-8"))
    assert {(row["sampler"], row["reuse"]) for row in rows} == {
        ("stage_tree", True),
        ("random", True),
        ("random", False),
    }
    assert all(row["workers"] == 4 and row["cost_end"] > 0 and 0 < row["share_end"] < 1 for row in rows)
    found, again = (
        next(row for row in rows if row["sampler"] == "random" and row["reuse"] is reuse) for reuse in (True, False)
    )
    assert found["share_end"] == again["share_end"] and found["cost_end"] < again["cost_end"], "the same models, reused"
    assert "not reached" in done.stdout


def test_the_reference_is_another_in_another_world() -> None:
    first, second = (reference_volume(None, seed) for seed in (0, 1))
    assert 0 < first != second > 0
