"""The measuring protocol: turns by classifiers whose time is told by a clock of ours, which passes only while they
answer; real clocks by classifiers that sleep or compute, neighbours and a slot by processes."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

from evaluation.latency import (
    BATCH,
    BLOCK,
    PANEL,
    clock,
    measure_latency,
    node_slot,
    panel,
    single_requests,
    throughput,
)
from evaluation.speedup import paired_speedup
from pipeline.runtime import EagerClassifier, load_classifier

ROOT = Path(__file__).resolve().parents[2]
TEXTS = ["x" * i for i in range(1, 61)]
BLOCKS = PANEL // BLOCK


class VirtualTime:
    """Passes while someone sleeps, and at no other time: what a busy machine does to a test does not show."""

    passed = 0.0

    def sleep(self, seconds):
        self.passed += seconds

    def wall(self):
        return self.passed

    def now(self):
        return round(self.passed * 1e9)


class Sleeper:
    """A classifier that takes a known time for each comment and writes down when it was asked what."""

    def __init__(self, name, seconds, asked, slow=(), sleep=time.sleep):
        self.name, self.seconds, self.asked, self.slow, self.answered = name, seconds, asked, slow, 0
        self.sleep = sleep

    def predict_logits(self, texts, batch_size=32):
        self.asked.append((self.name, list(texts)))
        self.sleep(self.seconds * len(texts) * (3 if self.answered in self.slow else 1))
        self.answered += 1
        return np.zeros((len(texts), 1), dtype=np.float32)


class Worker:
    """A classifier that computes, so many loops for every comment."""

    def __init__(self, loops):
        self.loops = loops

    def predict_logits(self, texts, batch_size=32):
        for _ in texts:
            for _ in range(self.loops):
                pass
        return np.zeros((len(texts), 1), dtype=np.float32)


def measured(seconds_each=(0.008, 0.006, 0.005), slow=(), **protocol):
    """Three models, the first one the baseline: what was found, the requests of every round, the time it took."""
    asked, virtual = [], VirtualTime()
    models = {
        name: Sleeper(name, each, asked, sleep=virtual.sleep) for name, each in zip("abc", seconds_each, strict=True)
    }
    models["a"].slow = slow
    found = measure_latency(models, TEXTS, baseline="a", now=virtual.now, wall=virtual.wall, **protocol)
    warm = 3 * (PANEL + 1)
    repeats = {name: times.shape[1] for name, times in found.times_ms.items()}
    size = BLOCKS * sum(1 + BLOCK * each for each in repeats.values())
    rounds = [asked[i : i + size] for i in range(warm, len(asked), size)]
    return found, rounds, repeats, virtual.passed


def requests_of_round(index):
    """Which of all requests to a model that answers once are in this round: each turn has one that is not timed."""
    size = BLOCKS * (BLOCK + 1)
    return range(PANEL + 1 + index * size, PANEL + 1 + (index + 1) * size)


def turns(asked):
    """Consecutive requests to one model that answers once; the first one of a turn only warms the caches."""
    found = []
    for name, texts in asked:
        if not found or found[-1][0] != name or len(found[-1][1]) == 1 + BLOCK:
            found.append((name, []))
        found[-1][1].append(texts)
    return [(name, texts[1:]) for name, texts in found]


def test_every_round_asks_every_model_the_same_comments_in_an_order_that_changes():
    found, rounds, repeats, _ = measured(seconds=0.01, requests=12 * PANEL - 3, seed=3)
    assert repeats == {"a": 1, "b": 1, "c": 1}
    assert len(rounds) == found.times_ms["a"].shape[0] == 12 and found.repeated == 0
    orders, comments = [], []
    for asked in rounds:
        taken = turns(asked)
        assert len(taken) == 3 * BLOCKS, "one model answers a whole block"
        for block in range(BLOCKS):
            three = taken[3 * block : 3 * block + 3]
            orders.append(tuple(name for name, _ in three))
            assert sorted(orders[-1]) == ["a", "b", "c"]
            assert three[0][1] == three[1][1] == three[2][1], "the same comments in the same order"
            assert all(len(texts) == 1 for texts in three[0][1]), "single requests"
        comments.append([texts[0] for name, block in taken if name == "a" for texts in block])
        assert sorted(comments[-1]) == sorted(panel(TEXTS)), "the whole panel, each comment once"
    assert len(set(orders)) == 6 and len(set(map(tuple, comments))) == len(rounds)


def test_times_are_those_of_the_model_and_comment_they_are_named_after():
    class ByLength(Sleeper):
        def predict_logits(self, texts, batch_size=32):
            self.sleep(self.seconds * len(texts[0]))
            return np.zeros((1, 1), dtype=np.float32)

    virtual = VirtualTime()
    models = {name: ByLength(name, each, [], sleep=virtual.sleep) for name, each in (("slow", 4e-4), ("fast", 1e-4))}
    clocks = {"now": virtual.now, "wall": virtual.wall}
    found = measure_latency(models, TEXTS, baseline="slow", seconds=0, requests=PANEL, seed=0, **clocks)
    lengths = np.array([len(text) for text in panel(TEXTS)])
    for name, each in (("slow", 0.4), ("fast", 0.1)):
        expected = np.broadcast_to(each * lengths, found.times_ms[name].shape)
        assert found.times_ms[name] == pytest.approx(expected, abs=1e-5), "milliseconds"
    speedup, low, high = paired_speedup(found.times_ms["slow"], found.times_ms["fast"])
    assert speedup == pytest.approx(4.0) and low < speedup < high


def test_a_fast_model_answers_several_times_in_its_turn():
    found, rounds, repeats, _ = measured((0.008, 0.001, 0.00001), seconds=0.01, requests=PANEL, seed=0)
    assert repeats == {"a": 1, "b": 5, "c": 100}
    assert all(sum(name == "b" for name, _ in asked) == repeats["b"] * PANEL + BLOCKS for asked in rounds)
    for name, each in (("a", 8), ("b", 1), ("c", 0.01)):
        assert found.times_ms[name] == pytest.approx(each, abs=1e-5)


def test_rounds_go_on_for_the_shortest_time():
    found, rounds, _, elapsed = measured((0.001, 0.001, 0.001), seconds=0.61, requests=20, seed=1)
    assert 0.61 <= elapsed < 1 and len(rounds) == len(found.times_ms["a"]) + found.repeated
    timed = sum(times.sum() for times in found.times_ms.values()) / 1000
    assert 0.5 * elapsed < timed < elapsed, "rounds are timed, their first requests are not"


def test_the_seed_decides_the_orders():
    rounds = [measured((0.006, 0.006, 0.006), seconds=0, requests=20, seed=seed)[1][:3] for seed in (5, 5, 6)]
    assert rounds[0] == rounds[1] != rounds[2]


def test_a_round_in_which_the_baseline_departs_is_thrown_away_and_repeated():
    disturbed = requests_of_round(1)
    found, rounds, _, _ = measured(slow=disturbed, seconds=0, requests=5 * PANEL, seed=0)
    assert found.repeated == 1 and len(rounds) == 6 and len(found.times_ms["a"]) == 5
    assert found.times_ms["a"] == pytest.approx(8), "none of those kept took three times as long"


def test_rounds_slower_than_the_machine_is_known_to_be_do_not_count():
    slow_first = [request for round_ in range(6) for request in requests_of_round(round_)]
    usual = np.full(PANEL, 8.0)
    alone, rounds, _, _ = measured(slow=slow_first, seconds=0, requests=4 * PANEL, seed=0)
    assert np.median(alone.times_ms["a"]) == pytest.approx(24) and len(rounds) == 4, "takes the slow ones for typical"
    found, rounds, _, _ = measured(slow=slow_first, seconds=0, requests=4 * PANEL, seed=0, usual_ms=usual)
    assert len(rounds) == 10 and found.repeated == 6 and not found.changed
    assert found.times_ms["a"] == pytest.approx(8) and found.usual_ms == pytest.approx(usual)


def test_a_machine_that_stays_slower_has_changed():
    usual = np.full(PANEL, 2.0)
    found, rounds, _, _ = measured(seconds=0, requests=4 * PANEL, seed=0, usual_ms=usual, longest_wait=1.0)
    assert found.changed and len(found.times_ms["a"]) == len(rounds) >= 4 and found.usual_ms == pytest.approx(8)


def test_a_machine_that_never_rests_is_measured_all_the_same():
    random = np.random.default_rng(0)
    slow = [request for round_ in range(40) if random.random() < 0.5 for request in requests_of_round(round_)]
    found, rounds, _, _ = measured((0.002, 0.002, 0.002), slow=slow, seconds=0, requests=5 * PANEL, seed=0)
    assert len(rounds) <= 2 * 5 and len(found.times_ms["a"]) >= len(rounds) / 2


def test_a_request_during_which_the_clock_stood_still_is_made_again():
    asked, last = [], [0]

    def now():
        """Stands still during every seventh request."""
        if len(asked) % 7:
            last[0] = time.perf_counter_ns()
        return last[0]

    models = {name: Sleeper(name, 0.002, asked) for name in "ab"}
    found = measure_latency(models, TEXTS, baseline="a", now=now, seconds=0.01, requests=3 * PANEL, seed=0)
    assert all((times > 0).all() for times in found.times_ms.values())
    with pytest.raises(RuntimeError, match="stood still"):
        single_requests(Sleeper("a", 0.0, []), TEXTS, seconds=0.0, requests=1, now=lambda: 5, seed=0)


def test_the_panel_has_the_lengths_of_the_comments():
    random = np.random.default_rng(0)
    texts = ["y" * int(length) for length in random.lognormal(3.5, 0.8, 2000) + 1]
    lengths = [len(text) for text in panel(texts)]
    expected = np.quantile([len(text) for text in texts], (np.arange(PANEL) + 0.5) / PANEL)
    assert lengths == pytest.approx(expected, abs=1.5)
    assert panel(texts) == panel(texts) and set(panel(texts)) <= set(texts)
    assert panel(["only one"]) == ["only one"] * PANEL


SPIN = "import os; os.sched_setaffinity(0, {int(os.environ['CORE'])})\nwhile True: pass"


@pytest.fixture
def crowded_core():
    """This thread and a process that never rests, on one core."""
    allowed = os.sched_getaffinity(0)
    core = max(allowed)
    with subprocess.Popen([sys.executable, "-c", SPIN], env={**os.environ, "CORE": str(core)}) as spinning:
        os.sched_setaffinity(0, {core})
        try:
            yield
        finally:
            os.sched_setaffinity(0, allowed)
            spinning.kill()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processes cannot be put on one core here")
def test_neighbours_on_the_core_do_not_change_the_ratio(crowded_core):
    """Roughly: what a host takes from a virtual machine counts as the thread's own time. How well, a benchmark says."""
    models = {"slow": Worker(60_000), "fast": Worker(3_000)}
    ratios = []
    for seed in range(3):
        found = measure_latency(models, TEXTS, baseline="slow", seconds=0.3, requests=20, now=clock(1), seed=seed)
        assert found.waited > 0.25, "half of the time"
        ratios.append(paired_speedup(found.times_ms["slow"], found.times_ms["fast"])[0])
    assert 10 < np.median(ratios) < 40, ratios


def test_the_clock_of_one_thread_counts_its_own_work_alone():
    assert clock(2) is clock(8) is time.perf_counter_ns
    begin = clock(1)()
    time.sleep(0.05)
    assert clock(1)() - begin < 20e6, "sleep is no work"
    begin, started = clock(1)(), time.thread_time()
    Worker(1_000_000).predict_logits(["a"])
    assert clock(1)() - begin == pytest.approx((time.thread_time() - started) * 1e9, rel=0.1)


@pytest.mark.parametrize("fixture", ["tiny_teacher", "tiny_int8", "tiny_half", "tiny_classical", "eager"])
def test_no_runtime_hides_work_in_other_threads(request, fixture):
    """Else the calling thread's clock would flatter it."""
    eager = fixture == "eager"
    folder = request.getfixturevalue("tiny_teacher" if eager else fixture).path
    model = EagerClassifier(folder) if eager else load_classifier(folder, threads=1)
    model.predict_logits(["a"])
    whole, own = time.process_time(), time.thread_time()
    for text in TEXTS * 3:
        model.predict_logits([text])
    own, whole = time.thread_time() - own, time.process_time() - whole
    assert own > 0.9 * whole


def test_single_requests_are_of_comments_drawn_at_random():
    asked = []
    now = time.perf_counter_ns
    times = single_requests(Sleeper("a", 0.002, asked), TEXTS, seconds=0.0, requests=80, now=now, seed=0)
    assert times.shape == (80,) and 2.0 <= times.min() < 10, "milliseconds"
    assert all(len(texts) == 1 for _, texts in asked) and len({texts[0] for _, texts in asked}) > 30
    assert len(single_requests(Sleeper("a", 0.002, []), TEXTS, seconds=0.3, requests=1, now=now, seed=0)) > 10


def test_throughput_counts_comments_in_batches_of_32():
    asked = []
    per_second = throughput(Sleeper("a", 0.0005, asked), TEXTS, seconds=0.2, threads=2, seed=0)
    assert {len(texts) for _, texts in asked} == {BATCH} and BATCH == 32
    assert 200 < per_second <= 1 / 0.0005
    computing = throughput(Sleeper("a", 0.0005, []), TEXTS, seconds=0.2, threads=1, seed=0)
    assert computing > 2 / 0.0005, "with one thread its work is counted, and sleep is none"


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
