"""Start a local Ray session, or join a cluster that runs, and check that the study fits on it."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
"""Folder that holds our packages: a checkout, an uploaded working directory, or site-packages."""

QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}
WORKER_ENVIRONMENT = {
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "PYTHONWARNINGS": "ignore",
}
KNOCK_SECONDS = 10
"""How long a cluster may take to accept a connection."""


class ClusterError(RuntimeError):
    """The cluster cannot be reached, or the study does not fit on it."""


@dataclass(frozen=True)
class Session:
    """A Ray session that is up."""

    cpus: float
    """Processors of the largest node: what one trial, or the teacher's training, can have."""
    gpus: float
    """GPUs of the node that has most."""
    nodes: int
    dashboard_url: str | None


@contextmanager
def session(address: str, storage_is_local: bool = True) -> Iterator[Session]:
    """Ray while the block runs: `local` starts one node here, `auto` or `ray://host:port` joins a cluster.

    A local node listens on the loopback interface alone, and runs without token authentication; a cluster's mode is the
    one that `RAY_AUTH_MODE` names.

    Raises:
        ClusterError: no cluster under the address, or several nodes with a store that only this one sees.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    if address == "local":
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    import ray

    try:
        _knock(address)
        context = ray.init(**_options(address))
    except (OSError, OverflowError, RuntimeError, ValueError) as error:
        what = f"--address {address}: no Ray session there ({error}); start one, or take --address local"
        raise ClusterError(what) from error
    try:
        nodes: list[dict[str, Any]] = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
        if len(nodes) > 1 and storage_is_local:
            raise ClusterError(
                f"the cluster has {len(nodes)} nodes, but storage is a folder of this machine: "
                "name a folder that all of them share, with --set storage=FOLDER"
            )
        cpus, gpus = (max(node["Resources"].get(name, 0.0) for node in nodes) for name in ("CPU", "GPU"))
        url = context.dashboard_url
        yield Session(cpus, gpus, len(nodes), f"http://{url}" if url else None)
    finally:
        ray.shutdown()


def check_fit(up: Session, cpus: float, gpus: float) -> None:
    """Raise ClusterError when not even one trial finds its processors."""
    for asked, there, name in ((cpus, up.cpus, "cpus"), (gpus, up.gpus, "gpus")):
        if asked > there:
            raise ClusterError(
                f"resources.{name}_per_trial={asked:g}: no node has more than {there:g}; "
                "ask for at most that, or join a cluster with larger nodes"
            )


def _knock(address: str) -> None:
    """Raise OSError when nothing listens under `[ray://]host:port`: Ray itself would try for one to three minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), KNOCK_SECONDS).close()


def _options(address: str) -> dict[str, Any]:
    environment = {"env_vars": WORKER_ENVIRONMENT | {"PYTHONPATH": _python_path()}}
    common: dict[str, Any] = {"runtime_env": environment, "log_to_driver": False, "logging_level": "ERROR"}
    if address == "local":
        here = {
            "address": "local",
            "num_cpus": os.cpu_count(),
            "include_dashboard": True,
            "dashboard_host": "127.0.0.1",
        }
        return common | here
    return common | {"address": address}


def _python_path() -> str:
    inherited = os.environ.get("PYTHONPATH")
    return os.pathsep.join([str(ROOT), *([inherited] if inherited else [])])
