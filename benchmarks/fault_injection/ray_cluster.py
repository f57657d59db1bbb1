"""A real Ray cluster on this machine: every node a raylet with processes of its own, started and killed one by one."""

from __future__ import annotations

import json
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from os import environ
from pathlib import Path

from cluster.two_nodes import free_ports

from .processes import Group, free_port, start, wait_until

RAY = str(Path(sys.executable).with_name("ray"))
START_SECONDS = 90.0
ATTEMPTS = 3
OBJECT_STORE_BYTES = 100_000_000
UP = "Ray runtime started"
NODES = """
import json, sys, ray
ray.init(address=sys.argv[1], logging_level="ERROR", log_to_driver=False)
print(json.dumps({name: node["NodeID"] for node in ray.nodes() for name in node["Resources"] if node["Alive"]}))
"""


@dataclass
class Node:
    """One raylet with its workers."""

    name: str
    """Also the name of a resource that only this node has."""
    group: Group

    def kill(self) -> None:
        """SIGKILL the raylet and everything of its."""
        self.group.kill()


@dataclass
class RayCluster:
    """A head without slots for trials, and workers of one processor each; token authentication is on."""

    folder: Path
    """For the nodes' output."""
    environment: dict[str, str]
    """Of all nodes, and so of the workers too."""
    port: int = field(default_factory=free_port)
    nodes: dict[str, Node] = field(default_factory=dict)
    _temporary: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp")))
    """Short: the path of a Unix socket below it has at most 107 bytes."""
    _token: str = field(default_factory=lambda: secrets.token_hex(32))
    _begun: int = 0

    @property
    def address(self) -> str:
        """For `--address`."""
        return f"127.0.0.1:{self.port}"

    @property
    def access(self) -> dict[str, str]:
        """The environment with which a process may join."""
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self._token}

    def start_head(self) -> Node:
        """Start the head; a second one after it was killed has the same address, and knows nothing of the first."""
        client_port, dashboard_port = free_ports(2)
        options = {
            "port": self.port,
            "num-cpus": 0,
            "ray-client-server-port": client_port,
            "dashboard-port": dashboard_port,
            "include-dashboard": False,
        }
        return self._start("head", ["--head", f"--temp-dir={self._temporary}"], options)

    def start_worker(self) -> Node:
        """Start a worker of one processor, and wait until it has joined."""
        self._begun += 1
        name = f"worker_{self._begun}"
        options = {"address": self.address, "num-cpus": 1, "resources": json.dumps({name: 1})}
        return self._start(name, [], options)

    def start_all(self, workers: int) -> None:
        """Start a head and its workers."""
        self.start_head()
        for _ in range(workers):
            self.start_worker()

    def workers(self) -> list[Node]:
        """All but the head."""
        return [node for name, node in self.nodes.items() if name != "head"]

    def kill(self, node: Node) -> None:
        """SIGKILL a node whole."""
        del self.nodes[node.name]
        node.kill()

    def kill_all(self) -> None:
        """SIGKILL every node."""
        for node in list(self.nodes.values()):
            self.kill(node)

    def stop(self) -> None:
        """Kill every node and remove what Ray wrote."""
        self.kill_all()
        shutil.rmtree(self._temporary, ignore_errors=True)

    def drain(self, node: Node, seconds: int) -> None:
        """Tell the cluster that the node will be gone in so many seconds, as a cloud does of a spot machine.

        Raises:
            subprocess.CalledProcessError: the cluster does not accept it.
        """
        known = self._asked([sys.executable, "-c", NODES, self.address])
        node_id = json.loads(known.splitlines()[-1])[node.name]
        told = ["--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=spot notice"]
        deadline = f"--deadline-remaining-seconds={seconds}"
        self._asked([RAY, "drain-node", f"--address={self.address}", f"--node-id={node_id}", *told, deadline])

    def _asked(self, command: list[str]) -> str:
        environment = {**environ, **self.access}
        return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout

    def _start(self, name: str, words: list[str], options: Mapping[str, object]) -> Node:
        listen, grpc, metrics = free_ports(3)
        common = {
            "node-ip-address": "127.0.0.1",
            "object-store-memory": OBJECT_STORE_BYTES,
            "min-worker-port": 0,
            "max-worker-port": 0,
            "dashboard-agent-listen-port": listen,
            "dashboard-agent-grpc-port": grpc,
            "metrics-export-port": metrics,
        }
        command = [RAY, "start", "--block", "--disable-usage-stats", *words]
        command += [f"--{option}={value}" for option, value in {**common, **options}.items()]
        # Nodes of different machines have a latency slot each, which is a lock in the folder for temporary files.
        own = self._temporary / name
        own.mkdir(exist_ok=True)
        for _ in range(ATTEMPTS):  # on a busy machine Ray gives a node up that is slow to start
            log = self.folder / f"{name}-{time.time_ns()}.log"
            group = start(command, log, {**self.environment, **self.access, "TMPDIR": str(own)})
            if wait_until(partial(_ready_or_gone, group), START_SECONDS) and group.process.poll() is None:
                return self.nodes.setdefault(name, Node(name, group))
            group.kill()
            last = log.read_text("utf-8").strip().rpartition("\n")[2]
        raise RuntimeError(f"{name} did not start in {ATTEMPTS} attempts: {last}")


def _ready_or_gone(group: Group) -> bool:
    return UP in group.log.read_text("utf-8", errors="replace") or group.process.poll() is not None
