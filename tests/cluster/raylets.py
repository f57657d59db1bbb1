"""A real cluster for tests: nodes of their own on this machine, with a token, as `cluster/two_nodes.py` starts them."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from cluster import two_nodes

OBJECT_STORE_BYTES = 100 * 2**20


class Raylets:
    """A head without processors; workers are added."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        """Start the head; every node gets `environment` beside ours."""
        self.nodes = two_nodes.prepare()
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # `python` of a job
        self.nodes.environment = {**self.nodes.environment, "PATH": path, **environment}
        try:
            two_nodes.start(self.nodes, workers=0, cpus=0)
        except BaseException:
            two_nodes.stop(self.nodes)
            raise

    @property
    def address(self) -> str:
        """Of the cluster itself, for `ray start --address` and `ray.init`."""
        return f"{two_nodes.HOST}:{self.nodes.gcs_port}"

    @property
    def dashboard(self) -> str:
        """URL of the dashboard, which takes jobs too."""
        return f"http://{two_nodes.HOST}:{self.nodes.dashboard_port}"

    @property
    def token(self) -> str:
        """What it takes to get in."""
        return (self.nodes.folder / "token").read_text(encoding="utf-8")

    def client_environment(self, home: Path, **more: str) -> dict[str, str]:
        """Our environment without anything of Ray's, for a user whose home is empty."""
        ours = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        return {**ours, "PATH": self.nodes.environment["PATH"], "HOME": str(home), **more}

    def worker_options(self, temporary: Path) -> tuple[str, ...]:
        """Options of `ray start` for a worker with one processor and this folder for what Ray writes."""
        return (
            f"--address={self.address}",
            "--num-cpus=1",
            "--num-gpus=0",
            f"--node-ip-address={two_nodes.HOST}",
            f"--temp-dir={temporary}",
            f"--object-store-memory={OBJECT_STORE_BYTES}",
            "--min-worker-port=0",
            "--max-worker-port=0",
            "--dashboard-agent-listen-port=0",
            "--disable-usage-stats",
            "--block",
        )

    def add_worker(self, folder: Path, **environment: str) -> None:
        """Start a worker with one processor in `folder`, with more in its environment."""
        common, number = self.nodes.environment, len(self.nodes.started)
        self.nodes.environment = {**common, **environment}
        with contextlib.chdir(folder):  # a name for its sockets must be short, and a folder its own: they start at once
            two_nodes.ray_start(self.nodes, f"worker-{number}", self.worker_options(self.nodes.folder / f"{number}"))
        self.nodes.environment = common


@contextlib.contextmanager
def raylets(**environment: str) -> Iterator[Raylets]:
    """The head, while the block runs; at its end every process of the cluster is gone."""
    running = Raylets(environment)
    try:
        yield running
    finally:
        two_nodes.stop(running.nodes)
    assert not two_nodes.processes(running.nodes)
