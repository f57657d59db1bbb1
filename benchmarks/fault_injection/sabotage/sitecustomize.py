"""Loaded by every Python process that has this folder on its PYTHONPATH: carries out one order, once.

The file that `PARETO_SABOTAGE` names holds `hang KEY` or `allocate KEY GIGABYTES`. The first process that writes a file
of the artifact KEY, while it builds it, takes the order and then sleeps without end, or allocates without end (at least
as far as GIGABYTES, where it gives up and says so: a machine without limits shall survive the benchmark too).
"""

import os
import sys
import time

ORDER = os.environ.get("PARETO_SABOTAGE", "")
BLOCK_MB = 32


def watch(event, arguments):
    """An audit hook: told every file that Python opens."""
    if event != "open" or not isinstance(arguments[0], str) or "/.building/" not in arguments[0]:
        return
    try:
        with open(ORDER) as file:
            deed, key, *limit = file.read().split()
        if f"{key}/" not in arguments[0]:
            return
        os.rename(ORDER, f"{ORDER}.taken")
    except FileNotFoundError:
        return
    if deed == "hang":
        time.sleep(1e6)
    hoard = []
    while len(hoard) * BLOCK_MB < 1024 * float(limit[0]):
        hoard.append(b"x" * (BLOCK_MB << 20))
        time.sleep(0.02)
    os.mkdir(f"{ORDER}.unlimited")


if ORDER:
    sys.addaudithook(watch)
