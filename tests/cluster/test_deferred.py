"""Jobs beside the program: their order, what is kept after a failure, and that nobody waits for them."""

from __future__ import annotations

import threading
import time
from functools import partial

import pytest

from cluster.deferred import Deferred


class Place:
    """Somewhere that jobs write to, which may be down; `refused` are numbers that it never takes."""

    def __init__(self, refused: set[int]) -> None:
        self.up = True
        self.refused = refused
        self.written: list[int] = []
        self.tried: list[int] = []

    def write(self, number: int) -> None:
        self.tried.append(number)
        if not self.up:
            raise ConnectionError("down")
        if number in self.refused:
            raise ValueError(f"refused {number}")
        self.written.append(number)


def deferred(told: list[Exception]) -> Deferred:
    return Deferred("jobs", lambda error: isinstance(error, ConnectionError), told.append)


def settle(jobs: Deferred) -> None:
    """Until the jobs so far have been tried."""
    reached = threading.Event()
    jobs.put(reached.set)
    assert reached.wait(30)


def test_jobs_are_done_in_order() -> None:
    told: list[Exception] = []
    place, jobs = Place(set()), deferred(told)
    for number in range(100):
        jobs.put(partial(place.write, number))
    assert jobs.close(30)
    assert place.written == list(range(100)) and told == []


def test_what_is_put_while_the_place_is_down_is_tried_once_more_at_the_end() -> None:
    told: list[Exception] = []
    place, jobs = Place(set()), deferred(told)
    jobs.put(lambda: place.write(0))
    settle(jobs)
    place.up = False
    for number in (1, 2, 3):
        jobs.put(partial(place.write, number))
    while not told:
        time.sleep(0.01)
    place.up = True
    assert jobs.close(30)
    assert place.written == [0, 1, 2, 3]
    assert place.tried == [0, 1, 1, 2, 3], "nothing is tried while it is known to be down"
    assert [str(error) for error in told] == ["down"]


def test_a_place_that_stays_down_is_tried_twice_in_all() -> None:
    told: list[Exception] = []
    place, jobs = Place(set()), deferred(told)
    place.up = False
    for number in range(50):
        jobs.put(partial(place.write, number))
    assert not jobs.close(30)
    assert place.tried == [0, 0] and len(told) == 1


def test_a_refused_job_holds_up_no_other() -> None:
    told: list[Exception] = []
    place, jobs = Place({1}), deferred(told)
    for number in range(4):
        jobs.put(partial(place.write, number))
    assert not jobs.close(30)
    assert place.written == [0, 2, 3] and place.tried == [0, 1, 2, 3, 1]
    assert [str(error) for error in told] == ["refused 1"]


def test_nobody_waits_for_a_job_that_hangs() -> None:
    told: list[Exception] = []
    jobs, hang = deferred(told), threading.Event()
    jobs.put(lambda: None if hang.wait(30) else None)
    started = time.perf_counter()
    jobs.put(lambda: None)
    assert time.perf_counter() - started < 5
    assert not jobs.close(0.3)
    assert 0.3 <= time.perf_counter() - started < 10
    hang.set()


@pytest.mark.parametrize("count", [0, 1])
def test_an_empty_queue_ends_at_once(count: int) -> None:
    jobs = deferred([])
    for _ in range(count):
        jobs.put(lambda: None)
    started = time.perf_counter()
    assert jobs.close(60)
    assert time.perf_counter() - started < 30
