"""Long turns on the processor while measuring: fewer requests are cut in two by a neighbour's slice."""

from __future__ import annotations

import ctypes
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager

SLICE_NS = 100_000_000
"""The longest that Linux grants."""
CALLS = {"x86_64": (314, 315), "aarch64": (274, 275)}
"""Numbers of sched_setattr and sched_getattr, which the C library does not wrap."""
NORMAL = 0


class SchedulingAttributes(ctypes.Structure):
    """`struct sched_attr` of Linux, sched_setattr(2)."""

    _fields_ = (
        ("size", ctypes.c_uint32),
        ("policy", ctypes.c_uint32),
        ("flags", ctypes.c_uint64),
        ("nice", ctypes.c_int32),
        ("priority", ctypes.c_uint32),
        ("runtime", ctypes.c_uint64),
        ("deadline", ctypes.c_uint64),
        ("period", ctypes.c_uint64),
        ("util_min", ctypes.c_uint32),
        ("util_max", ctypes.c_uint32),
    )


@contextmanager
def long_slices() -> Iterator[bool]:
    """Ask for slices of 100 ms for the calling thread; yields whether they were granted, and takes them back.

    The thread gets no more of the processor than before, only in longer pieces, of which it waits longer for the next.
    Linux 6.12 and later do so for threads of the normal policy; elsewhere nothing is changed.
    """
    before = attributes()
    if before is None or before.policy != NORMAL:
        yield False
        return
    usual = before.runtime
    before.runtime = SLICE_NS
    granted = _set(before)
    try:
        yield granted and slice_ns() == SLICE_NS
    finally:
        before.runtime = usual
        _set(before)


def slice_ns() -> int:
    """The calling thread's slice in nanoseconds, 0 where it is not known."""
    found = attributes()
    return 0 if found is None else int(found.runtime)


def attributes() -> SchedulingAttributes | None:
    """Of the calling thread; None where the system has no such call."""
    if sys.platform != "linux" or platform.machine() not in CALLS:
        return None
    found = SchedulingAttributes()
    number = CALLS[platform.machine()][1]
    failed = ctypes.CDLL(None).syscall(number, 0, ctypes.byref(found), ctypes.sizeof(found), 0)
    return None if failed else found


def _set(wanted: SchedulingAttributes) -> bool:
    wanted.size, wanted.flags = ctypes.sizeof(wanted), 0
    failed: int = ctypes.CDLL(None).syscall(CALLS[platform.machine()][0], 0, ctypes.byref(wanted), 0)
    return failed == 0
