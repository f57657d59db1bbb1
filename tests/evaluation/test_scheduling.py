"""Long slices: asked of the kernel, and read back from what it tells elsewhere."""

import re
from pathlib import Path

import pytest

from evaluation.scheduling import SLICE_NS, long_slices, slice_ns

TOLD = Path("/proc/thread-self/sched")


def kernels_slice():
    """The calling thread's slice in nanoseconds, by the kernel's own table."""
    found = re.search(r"se\.slice\s*:\s*(\d+)", TOLD.read_text()) if TOLD.is_file() else None
    return int(found[1]) if found else None


@pytest.mark.skipif(kernels_slice() is None, reason="this kernel has no slices to be asked for")
def test_slices_are_long_for_as_long_as_is_measured():
    before = kernels_slice()
    assert slice_ns() == before < SLICE_NS
    with long_slices() as granted:
        assert granted and kernels_slice() == SLICE_NS
    assert kernels_slice() == before


def test_slices_are_taken_back_after_an_error():
    before = slice_ns()
    with pytest.raises(KeyError), long_slices():
        raise KeyError
    assert slice_ns() == before


def test_nothing_but_the_slice_is_changed():
    import os

    before = os.sched_getscheduler(0), os.getpriority(os.PRIO_PROCESS, 0), os.sched_getaffinity(0)
    with long_slices():
        assert before == (os.sched_getscheduler(0), os.getpriority(os.PRIO_PROCESS, 0), os.sched_getaffinity(0))
