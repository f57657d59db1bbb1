"""Limits of a process on itself, tried out in processes that hang or take all the memory they get."""

from __future__ import annotations

import mmap
import resource
import subprocess
import sys
import time

import pytest

from cluster.limits import GIGABYTE, PROCESS_STATUS, memory_limit

SLEEPS = "time.sleep(60)"
HOLDS_THE_LOCK_OF_PYTHON = "re.match('(a+)+$', 'a' * 60 + 'b')"
only_where_enforced = pytest.mark.skipif(not PROCESS_STATUS.is_file(), reason="limits need /proc")


def process(code: str) -> tuple[int, str, float]:
    """Exit status, standard error and seconds of a new Python that runs this."""
    started = time.monotonic()
    prelude = "import re, time\nfrom cluster.limits import CLOCK, memory_limit\n"
    ran = subprocess.run([sys.executable, "-c", prelude + code], capture_output=True, text=True, timeout=50)
    return ran.returncode, ran.stderr, time.monotonic() - started


@pytest.mark.parametrize("hang", [SLEEPS, HOLDS_THE_LOCK_OF_PYTHON])
def test_a_hang_ends_the_process_which_says_where_it_was(hang: str) -> None:
    code = f"def stage():\n    {hang}\nwith CLOCK.limited(1 / 60):\n    stage()\n"
    status, said, seconds = process(code)
    assert status == 1 and seconds < 30
    assert "in stage" in said


def test_each_stage_has_the_whole_time_and_what_is_stopped_has_more() -> None:
    in_time = "with CLOCK.limited(1 / 30):\n    for _ in range(4):\n        CLOCK.start()\n        time.sleep(0.6)\n"
    stopped = "    CLOCK.stop()\n    time.sleep(2.3)\n    CLOCK.start()\n"
    after = "CLOCK.start()\ntime.sleep(2.3)\nwith CLOCK.limited(None):\n    time.sleep(2.3)\nraise SystemExit(7)\n"
    assert process(in_time + stopped + after)[0] == 7


@only_where_enforced
def test_memory_without_end_is_an_error_of_the_one_that_asks() -> None:
    code = """
import numpy as np
taken = []
try:
    with memory_limit(0.5):
        while True:
            taken.append(np.ones(2**22))
except MemoryError:
    megabytes = 32 * len(taken)
    more = np.ones(2**27)  # the limit is gone
    raise SystemExit(3 if 350 <= megabytes <= 512 else f'{megabytes} MB')
"""
    status, said, _ = process(code)
    assert status == 3, said


@only_where_enforced
def test_what_is_shared_or_only_reserved_does_not_count() -> None:
    """An object store maps more than a trial may have; and a worker's threads have stacks that they do not use."""
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with mmap.mmap(-1, 2 * GIGABYTE, mmap.MAP_PRIVATE) as reserved, memory_limit(1.0):
        with mmap.mmap(-1, 4 * GIGABYTE, mmap.MAP_SHARED) as shared:
            shared[0] = reserved[0] = 1
        assert len(bytearray(GIGABYTE // 4)) == GIGABYTE // 4
        with pytest.raises(MemoryError):
            bytearray(2 * GIGABYTE)
    assert resource.getrlimit(resource.RLIMIT_DATA) == before


def test_no_limit_is_none() -> None:
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with memory_limit(None):
        assert resource.getrlimit(resource.RLIMIT_DATA) == before
