"""Ray sessions: one of our own, one that is joined, one that is not there, and what fits into them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from cluster.session import ROOT, ClusterError, Session, check_fit, session

OUR_MODULES = {"cluster", "evaluation", "pipeline", "search"}


def descendants(pid: int) -> dict[int, str]:
    """Processes below `pid` with their names, from /proc."""
    parents, names = {}, {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = status.read_text()
        except OSError:
            continue
        one = int(status.parent.name)
        names[one], parents[one] = text.split("(", 1)[1].rpartition(")")[0], int(text.rpartition(")")[2].split()[1])
    found = [pid]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return {one: names[one] for one in found[1:]}


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("ray://127.0.0.1:1", "refused"),
        ("127.0.0.1:1", "refused"),
        ("ray://no-such-host.invalid:10001", ""),
        ("nowhere", "Invalid address format"),
    ],
)
def test_an_address_where_nothing_is(address: str, reason: str) -> None:
    before, started = descendants(os.getpid()), time.monotonic()
    with pytest.raises(ClusterError) as refused, session(address):
        pytest.fail("there is no such session")
    told = str(refused.value)
    assert told.startswith(f"--address {address}: no Ray session there (") and reason in told
    assert told.endswith("; start one, or take --address local")
    assert time.monotonic() - started < 15
    assert descendants(os.getpid()).keys() <= before.keys()


def test_a_session_of_its_own_can_be_joined_and_leaves_nothing() -> None:
    before = descendants(os.getpid())
    with session("local") as up:
        import ray

        assert (up.cpus, up.nodes) == (os.cpu_count(), 1)
        assert up.dashboard_url is None or urlsplit(up.dashboard_url).hostname == "127.0.0.1"
        task = ray.remote(_what_a_worker_sees())
        path, modules = ray.get(task.options(num_cpus=up.cpus).remote())
        assert str(ROOT) in path and modules >= OUR_MODULES
        address = ray.get_runtime_context().gcs_address
        joined = subprocess.run(
            [sys.executable, "-c", _JOIN, address], capture_output=True, text=True, cwd=ROOT, check=False, timeout=60
        )
        assert joined.stdout.split() == [str(up.cpus), "1"], joined.stderr
        assert "raylet" in descendants(os.getpid()).values()
    assert not ray.is_initialized()
    deadline = time.monotonic() + 20
    while left := descendants(os.getpid()).keys() - before.keys():
        assert time.monotonic() < deadline, f"still there: {left}"
        time.sleep(0.2)


_JOIN = """
import sys
from cluster.session import session
with session(sys.argv[1]) as up:
    print(up.cpus, up.nodes)
"""


def _what_a_worker_sees():  # type: ignore[no-untyped-def]
    def look() -> tuple[list[str], set[str]]:
        import importlib.util
        import sys

        names = ("cluster", "evaluation", "pipeline", "search")
        return sys.path, {name for name in names if importlib.util.find_spec(name)}

    return look


def test_what_fits_is_let_through() -> None:
    up = Session(cpus=2.0, gpus=0.0, nodes=1, dashboard_url=None)
    for cpus in (0.5, 1.0, 2.0):
        check_fit(up, cpus, 0.0)


@pytest.mark.parametrize(
    ("cpus", "gpus", "told"),
    [
        (3.0, 0.0, "resources.cpus_per_trial=3: no node has more than 2; "),
        (2.5, 1.0, "resources.cpus_per_trial=2.5: no node has more than 2; "),
        (1.0, 0.25, "resources.gpus_per_trial=0.25: no node has more than 0; "),
    ],
)
def test_what_does_not_fit_is_named_with_the_remedy(cpus: float, gpus: float, told: str) -> None:
    up = Session(cpus=2.0, gpus=0.0, nodes=1, dashboard_url=None)
    with pytest.raises(ClusterError) as refused:
        check_fit(up, cpus, gpus)
    assert str(refused.value) == told + "ask for at most that, or join a cluster with larger nodes"
