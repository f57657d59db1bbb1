"""Clusters whose nodes come when they are asked for: until one is there, a study would be told that it fits on none."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

from cluster.nodes import alive_nodes
from cluster.session import ClusterError, Session, check_fit

LOOK_SECONDS = 2.0
"""Between two looks at the nodes that are there."""


def with_fitting_node(
    up: Session, minutes: float, say: Callable[[str], None], cpus: float, gpus: float, memory_gb: float | None
) -> Session:
    """The session when a node is there on which a trial fits, asked for from Ray's autoscaler if none is.

    Where none comes within so many minutes it is the session of then, which `check_fit` refuses.

    Args:
        up: the session.
        minutes: to wait at most; 0 for not at all.
        say: told that it is waited for.
        cpus: processors of one trial.
        gpus: GPUs of one trial.
        memory_gb: memory of one trial, as `check_fit` takes it.
    """
    if not minutes or _fits(up, cpus, gpus, memory_gb):
        return up
    from ray.autoscaler.sdk import request_resources

    say(f"no node is there yet on which a trial fits: one is asked for, {minutes:g} minutes at most (Ctrl-C ends it)")
    request_resources(bundles=[{"CPU": cpus, "GPU": gpus} if gpus else {"CPU": cpus}])
    try:
        end = time.monotonic() + 60.0 * minutes
        while time.monotonic() < end and not _fits(up, cpus, gpus, memory_gb):
            time.sleep(LOOK_SECONDS)
            up = Session.of(alive_nodes(), up.dashboard_url)
        return up
    finally:
        request_resources(bundles=[])  # from now on the trials ask


def _fits(up: Session, cpus: float, gpus: float, memory_gb: float | None) -> bool:
    with suppress(ClusterError):
        check_fit(up, cpus, gpus, memory_gb)
        return True
    return False
