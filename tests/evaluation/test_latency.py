"""The measuring protocol: intervals by simulation and SciPy, turns by classifiers that sleep, a slot by processes."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, quantile_test

from evaluation.latency import (
    BATCH,
    BLOCK,
    WARM_UP,
    measure_latency,
    node_slot,
    paired_speedup,
    peak_memory_mb,
    summarise,
    throughput,
)
from pipeline.config import TeacherConfig
from pipeline.encoder_artifact import save_encoder
from pipeline.models import build_scratch

ROOT = Path(__file__).resolve().parents[2]


def drifting_times(random, rounds, ratio):
    """Baseline and candidate on a machine that slows down and speeds up, comments of many lengths, a noisy clock."""
    mood = 1.0 + 0.5 * np.sin(np.linspace(0, 3 * np.pi, rounds) + random.uniform(0, 6))
    comment = random.lognormal(0.0, 0.8, rounds)
    noise = np.exp(random.laplace(0.0, 0.2, (2, rounds)))
    return ratio * comment * mood * noise[0], comment * mood * noise[1]


@pytest.mark.parametrize("ratio", [0.4, 1.0, 3.0])
@pytest.mark.parametrize("rounds", [21, 100])
def test_the_interval_covers_the_true_ratio_as_often_as_it_says(ratio, rounds):
    random = np.random.default_rng(rounds)
    covered, below, above, trials = 0, 0, 0, 2000
    for _ in range(trials):
        median, low, high = paired_speedup(*drifting_times(random, rounds, ratio))
        assert low <= median <= high
        covered, below, above = covered + (low <= ratio <= high), below + (high < ratio), above + (low > ratio)
    rank = int(binom.ppf(0.025, rounds, 0.5))
    exact = 1 - 2 * binom.cdf(rank - 1, rounds, 0.5)
    tolerance = 4 * np.sqrt(exact * (1 - exact) / trials)
    assert exact >= 0.95
    assert covered / trials == pytest.approx(exact, abs=tolerance)
    assert below / trials < 0.05 and above / trials < 0.05


def test_pairing_is_much_sharper_than_the_ratio_of_medians():
    random = np.random.default_rng(0)
    paired, unpaired = [], []
    for _ in range(300):
        baseline, candidate = drifting_times(random, 100, 2.0)
        paired.append(np.log(paired_speedup(baseline, candidate)[0] / 2.0))
        unpaired.append(np.log(np.median(baseline) / np.median(random.permutation(candidate)[:50]) / 2.0))
    assert np.std(paired) < 0.4 * np.std(unpaired)
    assert abs(np.mean(paired)) < 0.01


@given(st.integers(8, 200), st.sampled_from([0.8, 0.9, 0.95, 0.99]), st.integers(0, 2**32 - 1))
def test_the_interval_is_scipys_distribution_free_one_of_the_median(rounds, confidence, seed):
    random = np.random.default_rng(seed)
    baseline, candidate = random.lognormal(size=(2, rounds))
    median, low, high = paired_speedup(baseline, candidate, confidence)
    ratios = baseline / candidate
    expected = quantile_test(ratios, q=1.0, p=0.5).confidence_interval(confidence)
    assert np.log(median) == pytest.approx(np.median(np.log(ratios)), abs=1e-9)
    if np.isfinite([expected.low, expected.high]).all():
        assert (low, high) == pytest.approx((expected.low, expected.high))
    else:
        assert (low, high) == pytest.approx((ratios.min(), ratios.max()))


@given(st.integers(1, 60), st.integers(0, 2**32 - 1))
def test_swapping_the_models_inverts_the_speed_up(rounds, seed):
    baseline, candidate = np.random.default_rng(seed).lognormal(size=(2, rounds))
    median, low, high = paired_speedup(baseline, candidate)
    assert paired_speedup(candidate, baseline) == pytest.approx((1 / median, 1 / high, 1 / low))
    assert paired_speedup(7.0 * baseline, candidate) == pytest.approx((7 * median, 7 * low, 7 * high))


class Sleeper:
    """A classifier that takes a known time for each comment and writes down when it was asked what."""

    def __init__(self, name, seconds, asked):
        self.name, self.seconds, self.asked = name, seconds, asked

    def predict_logits(self, texts, batch_size=32):
        self.asked.append((self.name, list(texts)))
        time.sleep(self.seconds * len(texts))
        return np.zeros((len(texts), 1), dtype=np.float32)


TEXTS = [f"comment {i}" for i in range(40)]


def measured(**protocol):
    asked = []
    models = {name: Sleeper(name, seconds, asked) for name, seconds in (("a", 0.008), ("b", 0.002), ("c", 0.0))}
    started = time.perf_counter()
    times = measure_latency(models, TEXTS, **protocol)
    elapsed = time.perf_counter() - started
    warm, rounds = asked[: WARM_UP * 3], asked[WARM_UP * 3 :]
    size = 3 * BLOCK
    return times, warm, [rounds[i : i + size] for i in range(0, len(rounds), size)], elapsed


def test_every_round_asks_every_model_the_same_comments_in_an_order_that_changes():
    times, warm, rounds, _ = measured(seconds=0.01, requests=24 * BLOCK - 3, seed=3)
    assert len(warm) == 3 * WARM_UP and len(rounds) == 24, "the fewest rounds, as the time is over long before"
    orders = []
    for asked in rounds:
        turns = [asked[i : i + BLOCK] for i in range(0, 3 * BLOCK, BLOCK)]
        assert all(len({name for name, _ in turn}) == 1 for turn in turns), "one model answers the whole block"
        orders.append(tuple(turn[0][0] for turn in turns))
        assert sorted(orders[-1]) == ["a", "b", "c"]
        assert len({tuple(texts[0] for _, texts in turn) for turn in turns}) == 1, "the same comments in the same order"
        assert all(len(texts) == 1 for _, texts in asked), "single requests"
    assert len(set(orders)) == 6
    assert all(2 <= sum(order[0] == name for order in orders) <= 16 for name in "abc")
    assert len({texts[0] for asked in rounds for _, texts in asked}) == len(TEXTS), "many different comments"
    assert {name: len(values) for name, values in times.items()} == dict.fromkeys("abc", 24 * BLOCK)


def test_times_are_those_of_the_model_they_are_named_after():
    times, _, _, _ = measured(seconds=0.0, requests=40, seed=0)
    assert times["a"].min() >= 8.0 and times["b"].min() >= 2.0
    assert np.median(times["c"]) < 2.0 < np.median(times["b"]) < 8.0 < np.median(times["a"]) < 80.0, "milliseconds"
    speedup, low, _ = paired_speedup(times["a"], times["b"])
    assert low > 1.0 and 1.5 < speedup < 4.1


def test_rounds_go_on_for_the_shortest_time():
    times, _, rounds, elapsed = measured(seconds=0.4, requests=5, seed=1)
    assert elapsed >= 0.4 and len(rounds) * BLOCK == len(times["a"]) > 5
    assert sum(values.sum() for values in times.values()) <= elapsed * 1000


def test_the_seed_decides_comments_and_orders():
    rounds = [measured(seconds=0.0, requests=12, seed=seed)[1:3] for seed in (5, 5, 6)]
    assert rounds[0] == rounds[1] != rounds[2]


def test_throughput_counts_comments_in_batches_of_32():
    asked = []
    per_second = throughput(Sleeper("a", 0.0005, asked), TEXTS, seconds=0.2, seed=0)
    assert {len(texts) for _, texts in asked} == {BATCH} and BATCH == 32
    assert 200 < per_second <= 1 / 0.0005


def test_summarise_is_the_mean_and_percentiles_between_ranks():
    times = np.random.default_rng(0).lognormal(size=997)
    ordered = np.sort(times)
    found = summarise(times)
    assert found["latency_mean_ms"] == pytest.approx(sum(times) / 997)
    ranks = [0.50 * 996, 0.95 * 996, 0.99 * 996]
    expected = [ordered[int(r)] + (r - int(r)) * (ordered[int(r) + 1] - ordered[int(r)]) for r in ranks]
    assert [found[f"latency_p{p}_ms"] for p in (50, 95, 99)] == pytest.approx(expected)


HOLD = """
import sys, time
from evaluation.latency import node_slot
with node_slot():
    print("held", flush=True)
    sys.stdin.readline()
    time.sleep(0.3)
    print(time.monotonic(), flush=True)
"""


@pytest.fixture
def slot_holder(tmp_path, monkeypatch):
    """Another process in the slot, of a machine of our own: the temporary folder is the test's."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)},
    )
    assert holder.stdout.readline() == "held\n"
    yield holder
    if holder.poll() is None:
        holder.kill()
    holder.communicate(timeout=30)


def test_the_slot_waits_for_the_other_process(slot_holder):
    slot_holder.stdin.write("leave\n")
    slot_holder.stdin.flush()
    with node_slot():
        entered = time.monotonic()
    left = float(slot_holder.stdout.readline())
    assert 0 <= entered - left < 30


def test_the_slot_of_a_killed_process_is_free(slot_holder):
    slot_holder.send_signal(signal.SIGKILL)
    with node_slot():
        assert slot_holder.wait(timeout=30) == -signal.SIGKILL


def encoder_folder(folder, tokenizer, vocabulary):
    """A deployable folder with random weights and `vocabulary` embeddings of 128 numbers."""
    folder.mkdir()
    (folder / "tokenizer.json").write_bytes(tokenizer.read_bytes())
    torch.manual_seed(0)
    config = TeacherConfig(scratch_layers=1, scratch_width=128, scratch_heads=2, max_tokens=48)
    save_encoder(build_scratch(config, 3, vocabulary), folder, ("a", "b", "c"), 48)
    return folder


def test_peak_memory_grows_with_the_model(tmp_path, tiny_teacher):
    tokenizer = tiny_teacher.path / "tokenizer.json"
    small, large = (
        peak_memory_mb(encoder_folder(tmp_path / str(vocabulary), tokenizer, vocabulary), TEXTS[:4], 1)
        for vocabulary in (400, 80_000)
    )
    weights_mb = (80_000 - 400) * 128 * 4 / 2**20  # 39 MiB
    assert 0 < small < 60
    assert 0.9 * weights_mb < large - small < 4 * weights_mb


def test_peak_memory_of_a_folder_that_cannot_be_loaded_is_an_error_that_names_it(tmp_path):
    with pytest.raises(RuntimeError, match=rf"{tmp_path}.*deploy\.json"):
        peak_memory_mb(tmp_path, ["a"], 1)
