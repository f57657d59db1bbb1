"""Start a local Ray session, or join a cluster that runs, and check that the study fits on it."""

from __future__ import annotations

import os
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
WORKER_ENVIRONMENT = {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "PYTHONWARNINGS": "ignore"}


class ClusterError(RuntimeError):
    """The cluster cannot be reached, or the study does not fit on it."""


@dataclass(frozen=True)
class Session:
    """A Ray session that is up."""

    cpus: float
    gpus: float
    nodes: int
    dashboard_url: str | None


@contextmanager
def session(address: str, storage_is_local: bool = True) -> Iterator[Session]:
    """Ray while the block runs: `local` starts one node here, `auto` or `ray://host:port` joins a cluster.

    A local node listens on the loopback interface alone, and runs without token authentication; a cluster's mode is the one
    that `RAY_AUTH_MODE` names.

    Raises:
        ClusterError: no cluster under the address, or several nodes with a store that only this one sees.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    if address == "local":
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    import ray

    try:
        context = ray.init(**_options(address))
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ClusterError(f"--address {address}: no Ray session there ({error}); start one, or take --address local") from error
    try:
        nodes = [node for node in ray.nodes() if node["Alive"]]
        if len(nodes) > 1 and storage_is_local:
            raise ClusterError(
                f"the cluster has {len(nodes)} nodes, but storage is a folder of this machine: "
                "name a folder that all of them share, with --set storage=FOLDER"
            )
        resources = ray.cluster_resources()
        url = context.dashboard_url
        yield Session(resources.get("CPU", 0.0), resources.get("GPU", 0.0), len(nodes), f"http://{url}" if url else None)
    finally:
        ray.shutdown()


def check_fit(up: Session, cpus: float, gpus: float) -> None:
    """Raise ClusterError when not even one trial finds its processors."""
    for asked, there, name in ((cpus, up.cpus, "cpus"), (gpus, up.gpus, "gpus")):
        if asked > there:
            raise ClusterError(
                f"resources.{name}_per_trial={asked:g}: the Ray session has {there:g}; ask for at most that, or join a larger one"
            )


def _options(address: str) -> dict[str, Any]:
    environment = {"env_vars": WORKER_ENVIRONMENT | {"PYTHONPATH": _python_path()}}
    common: dict[str, Any] = {"runtime_env": environment, "log_to_driver": False, "logging_level": "ERROR"}
    if address == "local":
        return common | {"address": "local", "num_cpus": os.cpu_count(), "include_dashboard": True, "dashboard_host": "127.0.0.1"}
    return common | {"address": address}


def _python_path() -> str:
    inherited = os.environ.get("PYTHONPATH")
    return os.pathsep.join([str(ROOT), *([inherited] if inherited else [])])
