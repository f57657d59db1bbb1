"""Start a local Ray session, or join a cluster that runs, and check that the study fits on it."""

from __future__ import annotations

import json
import math
import os
import re
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from cluster.nodes import NODE_IDS, Node, alive_nodes, blind_nodes

ROOT = Path(__file__).resolve().parent.parent
"""Folder that holds our packages: a checkout, an uploaded working directory, or site-packages."""
PACKAGES = ("pipeline", "evaluation", "cluster", "search")

QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # the trials' logs have them
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
JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""What Ray sets in the driver of a `ray job submit` job, and nowhere else: metadata and runtime environment as JSON."""
AUTH_MODE = "RAY_AUTH_MODE"
CLUSTERS = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""With 0 Ray takes 127.0.0.1 for the address of its node, on Linux too, and listens there."""
_NO_ENTRY = "AuthenticationError|InvalidAuthToken|[Uu]nauthenticated|ray client connection timeout"
TOKEN_REMEDY = (
    "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN (or RAY_AUTH_TOKEN_PATH) to what the cluster was started with, "
    "here as on every node"
)

_COMES = "where nodes come when they are asked for, say how long to wait for one: resources.node_minutes=20"


class ClusterError(RuntimeError):
    """The cluster cannot be reached, or the study does not fit on it."""


@dataclass(frozen=True)
class Session:
    """A Ray session that is up."""

    cpus: float
    """Processors of the largest node."""
    gpus: float
    """GPUs of the node that has most."""
    nodes: int
    dashboard_url: str | None
    sizes: tuple[tuple[float, float], ...] = ()
    """Processors and GPUs of every node."""
    memory_gb: float = math.inf
    """Memory of the node that has most, in GB of 2**30 bytes."""

    @classmethod
    def of(cls, nodes: Sequence[Node], dashboard_url: str | None) -> Self:
        """With these nodes."""
        sizes = tuple((node.cpus, node.gpus) for node in nodes)
        cpus, gpus = (max(size) for size in zip(*sizes, strict=True))
        return cls(cpus, gpus, len(nodes), dashboard_url, sizes, max(node.memory_gb for node in nodes))


@contextmanager
def session(address: str, shared: Path | None = None) -> Iterator[Session]:
    """Ray while the block runs: `local` starts one node here, `auto` or `host:port` joins a cluster.

    A local node listens on the loopback interface alone, with every port that Ray opens. Where a token is there
    (`RAY_AUTH_TOKEN`, `RAY_AUTH_TOKEN_PATH` or the file that `ray get-auth-token --generate` writes) it is asked for,
    unless `RAY_AUTH_MODE` says otherwise. Where there is none a local node runs without, open to the users of this
    machine: the dashboard takes a token only from whoever types it in, and one made for the session would have to be
    printed.

    Args:
        address: where.
        shared: a folder that every node must see; None when there is none, as with an object store.

    Raises:
        ClusterError: no cluster under the address, one that refuses our token, one that can be reached through Ray's
            client alone, or a node that does not see `shared`.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    with _closed_to_others(address):
        if address != "local" and os.environ.get(AUTH_MODE) == "token" and not _token_is_there():
            raise ClusterError(f"--address {address}: RAY_AUTH_MODE=token, but there is no token; {TOKEN_REMEDY}")
        import ray

        try:
            _knock(address)
            context = ray.init(**_options(address))
        except Exception as error:  # a plain one when a node of our own does not come up in time
            if _refused_token(error):
                raise ClusterError(
                    f"--address {address}: the cluster there does not let us in; {TOKEN_REMEDY}"
                ) from error
            what = f"--address {address}: no Ray session there ({error}); start one, or take --address local"
            raise ClusterError(what) from error
        try:
            if address.startswith("ray://"):
                raise ClusterError(
                    f"--address {address}: Ray Tune cannot search through Ray's client; submit the study as a job: "
                    "ray job submit --address http://HEAD:8265 --working-dir . -- python search/pareto.py STUDY.yaml"
                )
            nodes = alive_nodes()
            if shared is not None and len(nodes) > 1:
                _check_shared(shared, nodes)
            url = context.dashboard_url
            yield Session.of(nodes, f"http://{url}" if url else None)
        finally:
            ray.shutdown(wait_for_processes=True)  # else one that dies slowly outlives the session


def check_fit(up: Session, cpus: float, gpus: float, memory_gb: float | None = None) -> int:
    """Whole processors, at least 1, of the largest node on which a trial fits: what the teacher's training can have.

    Args:
        up: the session.
        cpus: processors of one trial.
        gpus: GPUs of one trial.
        memory_gb: memory of one trial, in GB of 2**30 bytes, where it is limited.

    Raises:
        ClusterError: not even one trial finds what it needs.
    """
    largest = ((cpus, up.cpus, "cpus"), (gpus, up.gpus, "gpus"), (memory_gb or 0.0, up.memory_gb, "memory_gb"))
    for asked, there, name in largest:
        if asked > there:
            raise ClusterError(
                f"resources.{name}_per_trial={asked:g}: no node has more than {there:.3g}; "
                f"ask for at most that, or join a cluster with larger nodes; {_COMES}"
            )
    sizes = up.sizes or ((up.cpus, up.gpus),)
    fitting = [node_cpus for node_cpus, node_gpus in sizes if node_cpus >= cpus and node_gpus >= gpus]
    if not fitting:
        raise ClusterError(
            f"resources.cpus_per_trial={cpus:g}, resources.gpus_per_trial={gpus:g}: no node has both; "
            f"ask for less of one, or join a cluster with larger nodes; {_COMES}"
        )
    return max(1, int(max(fitting)))


def default_address() -> str:
    """Where trials run when nobody says: on the cluster that a job was submitted to, else on a node of our own."""
    return "auto" if JOB in os.environ else "local"


def passing_folder() -> Path | None:
    """The folder that was uploaded for a `ray job submit` job and vanishes with it; None outside of such a job."""
    environment: dict[str, Any] = json.loads(os.environ.get(JOB) or "{}").get("runtime_env") or {}
    return Path.cwd() if environment.get("working_dir") else None


def _check_shared(folder: Path, nodes: list[Node]) -> None:
    """Raise ClusterError when not all nodes see the folder."""
    from ray.exceptions import RayError

    remedy = "name a bucket with --set storage=s3://BUCKET/PREFIX, or a folder that all of them share"
    try:
        blind = blind_nodes(folder, nodes)
    except (OSError, RayError) as error:
        raise ClusterError(f"storage={folder}: cannot tell whether all nodes see it ({error}); {remedy}") from error
    if blind:
        raise ClusterError(
            f"storage={folder}: of {len(nodes)} nodes {len(blind)} do not see this folder: "
            f"{', '.join(map(str, blind))}; {remedy}"
        )


def _knock(address: str) -> None:
    """Raise OSError when nothing listens under `[ray://]host:port`: Ray itself would try for one to three minutes.

    And AuthenticationError when a cluster there refuses our token, which Ray would offer for 20 s.
    """
    from ray._raylet import GcsClient  # type: ignore[attr-defined]  # compiled
    from ray.exceptions import AuthenticationError

    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), KNOCK_SECONDS).close()
        if not address.startswith("ray://"):
            try:
                GcsClient(address=address)
            except AuthenticationError:
                raise
            except Exception:  # told better by ray.init
                return


def _refused_token(error: BaseException | None) -> bool:
    """Whether the cluster knows another token: Ray says so in the text of a cause alone, and its client not at all."""
    while error is not None:
        if re.search(_NO_ENTRY, f"{type(error).__name__}: {error}"):
            return True
        error = error.__cause__ or error.__context__
    return False


def _options(address: str) -> dict[str, Any]:
    environment: dict[str, Any] = {"env_vars": dict(WORKER_ENVIRONMENT)}
    common: dict[str, Any] = {"runtime_env": environment, "log_to_driver": False, "logging_level": "ERROR"}
    if address == "local":
        environment["env_vars"]["PYTHONPATH"] = _python_path()
        here = {
            "address": "local",
            "num_cpus": os.cpu_count(),
            "include_dashboard": True,
            "dashboard_host": "127.0.0.1",
        }
        return common | here
    environment["env_vars"][NODE_IDS] = "1"
    if passing_folder() != ROOT:  # else every worker has it from the job
        environment |= {
            "py_modules": [str(ROOT / package) for package in PACKAGES],
            "excludes": ["__pycache__", "*.pyc"],
        }
    return common | {"address": address}


def _python_path() -> str:
    inherited = os.environ.get("PYTHONPATH")
    return os.pathsep.join([str(ROOT), *([inherited] if inherited else [])])


@contextmanager
def _closed_to_others(address: str) -> Iterator[None]:
    """Settings of Ray that processes of a local session inherit, each where the environment names none.

    The mode of authentication: with a token file alone Ray names none, and its own processes do not get in. And, for a
    local session, the loopback interface: Ray would open its ports on all of them.
    """
    settings = {}
    if _token_is_there() or address == "local":
        settings[AUTH_MODE] = "token" if _token_is_there() else "disabled"
    if address == "local":
        settings[CLUSTERS] = "0"
    ours = {name: value for name, value in settings.items() if name not in os.environ}
    os.environ.update(ours)
    _read_settings_again()
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name, None)
        _read_settings_again()


def _token_is_there() -> bool:
    """In one of the places where Ray looks for it."""
    file = os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token"
    return bool(os.environ.get("RAY_AUTH_TOKEN")) or Path(file).is_file()


def _read_settings_again() -> None:
    """Ray reads them from the environment once, when it is first imported."""
    if "ray" in sys.modules:
        from ray._private import ray_constants
        from ray._raylet import Config  # type: ignore[attr-defined]  # compiled

        Config.initialize("")
        ray_constants.ENABLE_RAY_CLUSTER = os.environ.get(CLUSTERS, "1") != "0"
