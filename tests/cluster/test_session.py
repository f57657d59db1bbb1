"""Ray sessions: one of our own, one that is joined, one that is not there, and what fits into them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from contextlib import suppress
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


def listening(pids: list[int]) -> set[str]:
    """IPv4 addresses on which these processes wait for TCP connections, those in IPv6 clothes included."""
    sockets = set()
    for pid in pids:
        for file in Path(f"/proc/{pid}/fd").glob("*"):
            with suppress(OSError):
                sockets.add(os.readlink(file))
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
                found.add(socket.inet_ntoa(bytes.fromhex(fields[1].partition(":")[0][-8:])[::-1]))
    return found


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
    assert time.monotonic() - started < 60
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
            [sys.executable, "-c", _JOIN, address], capture_output=True, text=True, cwd=ROOT, check=False, timeout=120
        )
        assert joined.stdout.split() == [str(up.cpus), "1"], joined.stderr
        assert "raylet" in descendants(os.getpid()).values()
        assert listening([os.getpid(), *descendants(os.getpid()).keys() - before.keys()]) == {"127.0.0.1"}
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
    remedy = "ask for at most that, or join a cluster with larger nodes; where nodes come when they are asked for, "
    assert str(refused.value) == told + remedy + "say how long to wait for one: resources.node_minutes=20"


def test_the_teacher_gets_the_largest_node_that_can_run_trials() -> None:
    """Not the head without processors, and not the largest node when the GPU is on another."""
    up = Session(
        cpus=64.0, gpus=1.0, nodes=4, dashboard_url=None, sizes=((0.0, 0.0), (64.0, 0.0), (8.0, 1.0), (4, 1.0))
    )
    assert check_fit(up, 1.0, 0.0) == 64
    assert check_fit(up, 0.5, 0.25) == 8
    with pytest.raises(ClusterError) as refused:
        check_fit(up, 16.0, 1.0)
    assert "resources.cpus_per_trial=16, resources.gpus_per_trial=1: no node has both" in str(refused.value)
    assert check_fit(Session(0.5, 0.0, 1, None, ((0.5, 0.0),)), 0.5, 0.0) == 1, "whole ones, at least one"


_GUARDED = """
import os, urllib.error, urllib.request
from cluster.session import session
with session("local") as up:
    import ray
    mode = os.environ["RAY_AUTH_MODE"]
    statuses = []
    for headers in ({}, {"Authorization": "Bearer " + os.environ.get("RAY_AUTH_TOKEN", "")}):
        try:
            request = urllib.request.Request(up.dashboard_url + "/api/jobs/", headers=headers)
            statuses.append(urllib.request.urlopen(request).status)
        except urllib.error.HTTPError as error:
            statuses.append(error.code)
    print(mode, *statuses, ray.get(ray.remote(lambda: 7).remote()))
print(os.environ.get("RAY_AUTH_MODE"))
"""


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({"RAY_AUTH_TOKEN": "5" * 64}, ["token", "401", "200", "7", "None"]),
        ({}, ["disabled", "200", "200", "7", "None"]),
    ],
    ids=["a token", "none"],
)
def test_a_session_of_its_own_asks_for_the_token_that_is_there(
    environment: dict[str, str], told: list[str], tmp_path: Path
) -> None:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-c", _GUARDED],
        env={**inherited, "HOME": str(tmp_path), "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.split() == told, done.stderr
    assert not (tmp_path / ".ray").exists(), "no token is left behind"
