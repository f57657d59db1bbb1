"""The benchmark of preparing: its files are the sample's, its clock tells steps apart, what it stores is read back."""

import csv
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks.prepare_million import GENERATED_AT_ONCE, STEPS, Clock, prepare_and_store, read_stored, write_comments
from pipeline import data
from pipeline.config import DataConfig
from pipeline.sample import generate_comments
from pipeline.tokens import Tokens

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="the system does not tell the peak of memory"
)


def test_the_file_is_the_sample(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.prepare_million.GENERATED_AT_ONCE", 700)
    write_comments(tmp_path / "c.csv", 1500, seed=3)
    with (tmp_path / "c.csv").open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    frame = generate_comments(1500, 3)
    assert header == list(frame.columns)
    assert rows == frame.astype(str).to_numpy().tolist()
    assert GENERATED_AT_ONCE % 1024 == 0, "whole blocks of the generator"


def test_the_clock_tells_inner_steps_apart_and_their_peaks_count_for_the_outer():
    clock = Clock()
    started, started_cpu = time.perf_counter(), time.process_time()
    with clock.step("outer"):
        time.sleep(0.03)
        with clock.step("inner"):
            held = np.ones(20_000_000)  # 153 MiB
            time.sleep(0.06)
            del held
        with clock.step("small"):
            pass
    inner, small, outer = clock.steps
    assert [step["step"] for step in clock.steps] == ["inner", "small", "outer"]
    assert outer["seconds"] >= 0.03 and inner["seconds"] >= 0.06
    assert sum(step["seconds"] for step in clock.steps) <= time.perf_counter() - started, "nothing counts twice"
    assert 0 < sum(step["cpu_seconds"] for step in clock.steps) <= time.process_time() - started_cpu
    assert inner["peak_mb"] > small["peak_mb"] + 140
    assert outer["peak_mb"] == inner["peak_mb"]


def test_what_is_stored_is_the_study_s_data_with_its_tokens(tmp_path):
    write_comments(tmp_path / "c.csv", 1500, seed=0)
    read_rows = data.read_rows
    figures = prepare_and_store(tmp_path / "c.csv", tmp_path / "stored")
    assert data.read_rows is read_rows
    assert {step["step"] for step in figures["steps"]} >= set(STEPS.values())
    expected = data.prepare(DataConfig(path=str(tmp_path / "c.csv")))
    stored = data.load_data(tmp_path / "stored")
    assert stored.fingerprint == expected.fingerprint
    total = 0
    for name, part in expected.splits.items():
        tokens = Tokens.load(tmp_path / "stored", name)
        assert len(tokens) == len(part) and tokens.lengths.min() > 2
        total += sum(map(len, part.texts)) + int(part.labels.sum(dtype=int)) + int(tokens.ids.max())
    assert read_stored(tmp_path / "stored", threading.Barrier(1))["read"] == total
