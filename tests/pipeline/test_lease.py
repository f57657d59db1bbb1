"""One builder at a time over a real S3 server: threads that meet, processes that die by signals or fall asleep."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pipeline.lease import FOLDER, Lease
from pipeline.remote import Remote

ROOT = Path(__file__).resolve().parents[2]
FAST = {"heartbeat_seconds": 0.3, "dead_after_seconds": 3.0}
SLOW = {"heartbeat_seconds": 15.0, "dead_after_seconds": 60.0}


@pytest.fixture(params=["s3", "folder"])
def url(request, tmp_path, s3):
    return s3.bucket() + "/p" if request.param == "s3" else str(tmp_path / "shared")


def never():
    return False


def test_owners_that_meet_build_one_after_the_other(url):
    """Four at once, each twice: no two inside at any moment, and each has its turns."""
    inside, overlaps, turns = [], [], []

    def build(owner):
        remote = Remote(url)
        for _ in range(2):
            with Lease(remote, "toy-key", owner, **FAST).held(never):
                inside.append(owner)
                overlaps.append(len(inside))
                time.sleep(0.02)
                inside.remove(owner)
                turns.append(owner)

    workers = [threading.Thread(target=build, args=(f"owner{i}",)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert set(overlaps) == {1}
    assert sorted(turns) == sorted(f"owner{i}" for i in range(4) for _ in range(2))
    assert Remote(url).list(FOLDER) == {}, "claims are removed at the end"


def test_different_things_are_built_at_the_same_time(url):
    with Lease(Remote(url), "toy-a", "one", **FAST).held(never), Lease(Remote(url), "toy-b", "two", **FAST).held(never):
        claims = list(Remote(url).list(FOLDER))
    assert claims == [f"{FOLDER}/toy-a~one", f"{FOLDER}/toy-b~two"]


def test_who_waits_says_so_once_and_stops_when_the_thing_is_there(url):
    there, told, entered = threading.Event(), [], threading.Event()

    def wait():
        with Lease(Remote(url), "toy-key", "waiter", **FAST).held(there.is_set, lambda: told.append("waiting")):
            entered.set()

    with Lease(Remote(url), "toy-key", "builder", **FAST).held(never):
        waiter = threading.Thread(target=wait)
        waiter.start()
        assert not entered.wait(1.2), "the builder lives"
        there.set()
        assert entered.wait(30), "it need not wait for the builder's end"
    waiter.join(60)
    assert told == ["waiting"]
    assert Remote(url).list(FOLDER) == {}


def test_an_error_inside_gives_the_lease_back(url):
    with pytest.raises(RuntimeError, match="out of memory"), Lease(Remote(url), "toy", "one", **SLOW).held(never):
        raise RuntimeError("out of memory")
    started = time.monotonic()
    with Lease(Remote(url), "toy", "two", **SLOW).held(never):
        assert time.monotonic() - started < 30


HOLD = """
import sys, time
from pipeline.lease import Lease
from pipeline.remote import Remote

url, owner = sys.argv[1:]
with Lease(Remote(url), "toy-key", owner, 0.3, 3.0).held(lambda: False):
    print("building", flush=True)
    time.sleep(120)
"""


def builder(url, owner):
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", HOLD, url, owner],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout.readline() == "building\n"
    return process


def end(process):
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)


def seconds_until_held(url, owner):
    started = time.monotonic()
    with Lease(Remote(url), "toy-key", owner, **FAST).held(never):
        return time.monotonic() - started


def test_the_claim_of_a_killed_builder_dies_too(s3):
    url = s3.bucket() + "/p"
    process = builder(url, "killed")
    threading.Timer(3.5, end, [process]).start()
    seconds = seconds_until_held(url, "waiter")
    # It lived longer than a claim does that is not written again; the store's clock counts whole seconds.
    assert 3.5 + 1.5 < seconds < 30
    assert Remote(url).list(FOLDER) == {}, "the dead claim is removed"


def test_the_next_process_of_the_same_owner_need_not_wait(s3):
    """Of one folder only one process at a time asks: the claim it finds under its own name is of one that died."""
    url = s3.bucket() + "/p"
    end(builder(url, "node"))
    assert seconds_until_held(url, "node") < 1.5


def test_a_store_that_was_away_makes_nobody_dead(s3, wire):
    """Builder and waiter live, but could not write their claims for longer than a claim lives: the turn stays."""
    remote, entered, left = Remote(s3.bucket() + "/p"), [], []

    def wait():
        with Lease(remote, "toy-key", "waiter", **FAST).held(never):
            entered.append(time.monotonic())

    with Lease(remote, "toy-key", "builder", **FAST).held(never):
        waiter = threading.Thread(target=wait)
        waiter.start()
        time.sleep(0.5)
        wire.cut()
        time.sleep(3.6)
        wire.mend()
        time.sleep(1.6)
        left.append(time.monotonic())
    waiter.join(20)
    assert entered[0] > left[0]
