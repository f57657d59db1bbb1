"""The nodes of a cluster: what each has, whether all see a folder, and the name that tells them apart."""

from __future__ import annotations

import os
import platform
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

PROBE_SECONDS = 60.0
"""How long the nodes may take to look for a file: the first task on a node starts a worker there."""
NODE_IDS = "PARETO_NODE_IDS"
"""Set in the environment of workers whose node is one of several."""


@dataclass(frozen=True)
class Node:
    """One raylet that is alive."""

    id: str
    """Ray's, in hex digits."""
    host: str
    cpus: float
    gpus: float
    memory_gb: float
    """What Ray may give away, in GB of 2**30 bytes."""

    def __str__(self) -> str:
        return f"{self.host}/{self.id[:8]}"


def alive_nodes() -> list[Node]:
    """The nodes of the session that is up, those without processors included."""
    import ray

    found = ray.nodes()  # type: ignore[no-untyped-call]
    return [
        Node(
            one["NodeID"],
            one["NodeManagerHostname"],
            one["Resources"].get("CPU", 0.0),
            one["Resources"].get("GPU", 0.0),
            one["Resources"].get("memory", 0.0) / 2**30,
        )
        for one in found
        if one["Alive"]
    ]


def blind_nodes(folder: Path, nodes: Sequence[Node]) -> list[Node]:
    """Those of `nodes` that have processors and do not see a folder of this machine, which need not exist yet.

    A file of random name lies in the folder, or in the nearest one above it that exists, while one small task on each
    node looks for it.

    Raises:
        OSError: the file cannot be written here.
        TimeoutError: a node does not answer within `PROBE_SECONDS`.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    folder = folder.absolute()
    place = next(path for path in (folder, *folder.parents) if path.is_dir())
    text = uuid.uuid4().hex
    file = place / f".{text}.seen"
    file.write_text(text, encoding="utf-8")
    try:
        task = ray.remote(sees)
        looking = {}
        for node in nodes:
            if node.cpus:
                there = NodeAffinitySchedulingStrategy(node.id, soft=False)
                looking[task.options(num_cpus=0, scheduling_strategy=there).remote(str(file), text)] = node
        _, late = ray.wait(list(looking), num_returns=len(looking), timeout=PROBE_SECONDS) if looking else ([], [])
        if late:
            told = ", ".join(str(looking[one]) for one in late)
            raise TimeoutError(f"no answer within {PROBE_SECONDS:.0f} s from {told}")
        return [node for one, node in looking.items() if not ray.get(one)]
    finally:
        file.unlink()


def sees(file: str, text: str) -> bool:
    """Whether the file is here, with this text in it."""
    try:
        return Path(file).read_text(encoding="utf-8") == text
    except OSError:
        return False


@cache
def node_name() -> str:
    """This host's name; for a worker on a cluster followed by the start of Ray's node id: raylets may share a host."""
    host = platform.node()
    if NODE_IDS not in os.environ:
        return host
    import ray

    return f"{host}/{ray.get_runtime_context().get_node_id()[:8]}"
