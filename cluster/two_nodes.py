"""A cluster for trying it: a head without trial slots and two workers, all on this machine.

    python cluster/two_nodes.py [--nodes N] [--cpus N]

Each node is a raylet of its own, with ports of its own. The dashboard, which takes jobs, is on loopback; the nodes'
other ports are where Ray puts them, on the machine's own address. Nobody gets in without the token, which is made for
the occasion and lies in a folder that only its owner can read. Ctrl-C (or SIGTERM) stops every process that was
started, and removes the folder.
"""

from __future__ import annotations

import argparse
import os
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from types import FrameType

HOST = "127.0.0.1"
PORTS = range(10_240, 32_768)
"""Below those that a system gives to any connection (Linux from 32,768 on): one that is free stays so until, seconds
later, a node listens on it."""
OBJECT_STORE_BYTES = 200 * 2**20
START_SECONDS, STOP_SECONDS = 120.0, 15.0
"""How long the nodes may take to come up, and to end before they are killed."""
TRIES = 3
"""Starts of one worker: Ray gives each 30 s, and ends it when the machine is too busy for that."""
READY = "Ray runtime started"
MARK = "PARETO_NODES"
"""Variable that the nodes hand down to all that they start, and no client has."""


@dataclass
class Nodes:
    """Nodes that run, the head first."""

    folder: Path
    """Holds token, logs and Ray's session; readable by its owner alone."""
    gcs_port: int
    dashboard_port: int
    client_port: int
    environment: Mapping[str, str]
    started: list[tuple[str, subprocess.Popen[bytes]]] = field(default_factory=list)

    @property
    def client_environment(self) -> dict[str, str]:
        """What a client needs in its environment."""
        return {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.folder / "token"),
            "RAY_API_SERVER_ADDRESS": f"http://{HOST}:{self.dashboard_port}",
        }

    def log(self, name: str) -> Path:
        """What a node's `ray start` printed."""
        return self.folder / f"{name}.log"


class NodeError(RuntimeError):
    """A node did not come up, or ended by itself."""


def prepare() -> Nodes:
    """A folder with a fresh token, and free ports."""
    folder = Path(tempfile.mkdtemp(prefix="pareto-nodes-"))  # mode 700
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32), encoding="utf-8")
    theirs = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])  # a job's `python`
    ours = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), MARK: str(folder), "PATH": path}
    gcs_port, dashboard_port, client_port = free_ports(3)
    return Nodes(folder, gcs_port, dashboard_port, client_port, theirs | ours)


def free_ports(count: int) -> list[int]:
    """Different ports of the loopback interface that nobody has; OSError if there are not so many."""
    order = secrets.SystemRandom().sample(PORTS, len(PORTS))
    ports = list(islice(filter(_is_free, order), count))
    if len(ports) < count:
        raise OSError(f"{len(ports)} of {count} ports are free among {PORTS.start} to {PORTS.stop - 1}")
    return ports


def _is_free(port: int) -> bool:
    with socket.socket() as one:
        try:
            one.bind((HOST, port))
        except OSError:
            return False
    return True


def start(nodes: Nodes, workers: int, cpus: int) -> None:
    """Start the head, then the workers, and wait for each.

    Raises:
        NodeError: one did not come up.
    """
    # Two raylets of one machine would hand out the same default ports: 0 has the system choose.
    common = (
        f"--node-ip-address={HOST}",
        f"--temp-dir={nodes.folder / 'ray'}",
        f"--object-store-memory={OBJECT_STORE_BYTES}",
        "--num-gpus=0",
        "--min-worker-port=0",
        "--max-worker-port=0",
        "--dashboard-agent-listen-port=0",
        "--disable-usage-stats",
        "--block",
    )
    head = (
        "--head",
        "--num-cpus=0",
        f"--port={nodes.gcs_port}",
        f"--dashboard-host={HOST}",
        f"--dashboard-port={nodes.dashboard_port}",
        f"--ray-client-server-port={nodes.client_port}",
        "--include-dashboard=true",
    )
    ray_start(nodes, "head", (*head, *common))
    wait_until_up(nodes)
    for number in range(1, workers + 1):
        join = (f"--address={HOST}:{nodes.gcs_port}", f"--num-cpus={cpus}", *common)
        for tries_left in reversed(range(TRIES)):
            ray_start(nodes, f"worker-{number}", join)
            try:
                wait_until_up(nodes)  # one by one, as two at once on a busy machine may be too slow for Ray
                break
            except NodeError:
                if not tries_left:
                    raise
                nodes.started.pop()


def ray_start(nodes: Nodes, name: str, options: Sequence[str]) -> None:
    """Start one node, in a session of its own: Ctrl-C is for this program alone, which stops the nodes in order."""
    command = [str(Path(sys.executable).with_name("ray")), "start", *options]
    with nodes.log(name).open("wb") as log:
        process = subprocess.Popen(
            command, env=nodes.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    nodes.started.append((name, process))


def wait_until_up(nodes: Nodes) -> None:
    """Return once every node that was started says that it runs.

    Raises:
        NodeError: one ended, or took too long.
    """
    until = time.monotonic() + START_SECONDS
    for name, _ in nodes.started:
        while READY not in nodes.log(name).read_text(encoding="utf-8", errors="replace"):
            check(nodes)
            if time.monotonic() > until:
                raise NodeError(f"{name} is not up after {START_SECONDS:g} s:\n{tail(nodes.log(name))}")
            time.sleep(0.2)


def check(nodes: Nodes) -> None:
    """Raise NodeError when a node has ended."""
    for name, process in nodes.started:
        if process.poll() is not None:
            raise NodeError(f"{name} ended with status {process.returncode}:\n{tail(nodes.log(name))}")


def tail(log: Path) -> str:
    """The last lines of a log."""
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])


def stop(nodes: Nodes) -> None:
    """End every process that was started, workers first, and remove the folder."""
    known = processes(nodes)
    for _, process in reversed(nodes.started):
        process.terminate()
    until = time.monotonic() + STOP_SECONDS
    while known := processes(nodes, known):
        if time.monotonic() > until:
            for pid in known:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)
    for _, process in nodes.started:
        process.wait()
    shutil.rmtree(nodes.folder, ignore_errors=True)


def processes(nodes: Nodes, known: Collection[int] = ()) -> set[int]:
    """Ids of the nodes' processes that run, and of all that these started, jobs too.

    They are known by descent, as some of Ray's write over their environment, and by the mark in it, as others outlive
    their parents. `known` are those found before: one of them may by now have lost both.
    """
    mark, started = f"{MARK}={nodes.folder}".encode(), {process.pid for _, process in nodes.started}
    parents, marked = dict[int, int](), set[int]()
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # ended meanwhile, or another user's
            state, parent = (place / "stat").read_text(errors="replace").rpartition(")")[2].split()[:2]
            if state in "ZX":  # ended, and not yet collected
                continue
            parents[int(place.name)] = int(parent)
            if mark in (place / "environ").read_bytes().split(b"\0"):
                marked.add(int(place.name))
    found = (started | marked | set(known)) & parents.keys()
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def usage(nodes: Nodes, workers: int, cpus: int) -> str:
    """What to do with the cluster: lines for another shell."""
    exports = " ".join(f"{name}={shlex.quote(value)}" for name, value in nodes.client_environment.items())
    return "\n".join(
        [
            f"up: a head without trial slots and {workers} workers with {cpus} CPU each. In another shell:",
            f"  export {exports}",
            "  ray job submit --working-dir . -- python search/pareto.py search/studies/smoke.yaml"
            ' --address auto --set storage="$HOME/pareto-store"',
            "Ctrl-C stops it and removes the token.",
        ]
    )


def main() -> int:
    """Run until a signal comes: status 0; 1 when a node failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--nodes", type=int, default=2, metavar="N", help="workers beside the head (default 2)")
    parser.add_argument("--cpus", type=int, default=1, metavar="N", help="trial slots of each worker (default 1)")
    options = parser.parse_args()
    for name, value in (("--nodes", options.nodes), ("--cpus", options.cpus)):
        if value < 1:
            parser.error(f"{name}={value}: must be at least 1")

    def interrupted(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupted)
    nodes = prepare()
    try:
        start(nodes, options.nodes, options.cpus)
        print(usage(nodes, options.nodes, options.cpus), flush=True)
        while True:
            check(nodes)
            time.sleep(1)
    except KeyboardInterrupt:
        return 0
    except NodeError as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second signal must not leave processes behind
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        stop(nodes)


if __name__ == "__main__":
    sys.exit(main())
