"""The benchmark of the driver on few trials: that it runs the real search, and that its figures add up."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "driver_cost.py"


@pytest.mark.e2e
def test_forty_trials_of_no_work(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    command = [sys.executable, str(PROGRAM), "--trials", "40", "--sampler", "stage_tree", "--json", str(figures)]
    done = subprocess.run([*command, "--set", "tracking.uri=none"], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    [row] = json.loads(figures.read_text("utf-8"))
    assert (row["sampler"], row["trials"]) == ("stage_tree", 40)
    assert sum(row["milliseconds_by_part"].values()) == pytest.approx(row["milliseconds_per_trial"])
    assert {"database", "sampler", "Ray Tune"} <= set(row["milliseconds_by_part"])
    assert 0 < row["driver_cpu_milliseconds_per_trial"] < row["all_cpu_milliseconds_per_trial"]
    assert row["database_mb"] > 40 * 0.002, "40 rows of 2 KB"
    assert "milliseconds a trial by part" in done.stdout
