"""The benchmark of repeatability: its figures against pandas, its neighbours by the operating system, a short run."""

import json
import os
import sys
import time

import numpy as np
import pandas as pd
import pytest

from benchmarks.latency_repeatability import PROTOCOLS, busy_cores, judged, main, met


def measurements(random, count, spread):
    values = 4.0 * np.exp(random.normal(0.0, spread, (count, len(PROTOCOLS))))
    return [dict(zip(PROTOCOLS, row, strict=True)) | {"low": row[0] * 0.98, "high": row[0] * 1.02} for row in values]


def test_variation_bias_and_coverage_are_pandas():
    random = np.random.default_rng(0)
    quiet, *busy = measurements(random, 41, 0.015)
    found, frame = judged(quiet, busy), pd.DataFrame(busy)
    for name in PROTOCOLS:
        assert found[name]["variation"] == pytest.approx(frame[name].std() / frame[name].mean())
        assert found[name]["bias"] == pytest.approx((frame[name] / quiet[name]).mean() - 1)
    inside = frame["low"].le(quiet["paired"]) & frame["high"].ge(quiet["paired"])
    assert found["covered"] == inside.sum() and found["measurements"] == 40
    assert found["half_width"] == pytest.approx(np.log(1.02 / 0.98) / 2)


@pytest.mark.parametrize(("variation", "covered", "enough"), [(0.01, 18, True), (0.011, 20, False), (0.001, 17, False)])
def test_both_targets_are_asked_for(variation, covered, enough):
    assert met({"paired": {"variation": variation}, "covered": covered, "measurements": 20}) is enough


def test_neighbours_are_busy_and_leave():
    before = os.times()
    with busy_cores(2):
        time.sleep(0.5)
    after = os.times()
    assert after.children_user - before.children_user > 0.02, "two processes computed; they are waited for"


def test_a_short_run_on_two_models(tiny_teacher, tiny_int8, tiny_data, tmp_path, monkeypatch, capsys):
    folders = [str(tiny_int8.path), str(tiny_teacher.path), "--data", str(tiny_data.path)]
    times = ["--measurements", "3", "--seconds", "0.2", "--quiet-seconds", "0.4", "--neighbours", "1"]
    monkeypatch.setattr("benchmarks.latency_repeatability.MOST_REPEATS", 1)
    monkeypatch.setattr(sys, "argv", ["latency", *folders, *times, "--json", str(tmp_path / "figures.json")])
    with pytest.raises(SystemExit) as ended:
        main()
    found = json.loads((tmp_path / "figures.json").read_text())
    assert ended.value.code in (0, 1) and (ended.value.code == 0) == met(found)
    assert len(found["busy"]) == found["measurements"] == 3 and found["neighbours"] == 1
    assert all(one["low"] < one["paired"] < one["high"] and one["rounds"] >= 2 for one in found["busy"])
    told = capsys.readouterr().out
    assert all(name in told for name in PROTOCOLS) and "95 % intervals" in told


def test_a_model_alone_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["latency", "model"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2 and "BASELINE" in capsys.readouterr().err
