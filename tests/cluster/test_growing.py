"""A cluster whose nodes come when they are asked for: Ray's own autoscaler, with nodes that are processes here."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from cluster.growing import with_fitting_node
from cluster.session import ROOT, Session

PORT, MARK = 6379, "PARETO_GROWING"
RAY = str(Path(sys.executable).with_name("ray"))
CONFIG = {
    "cluster_name": "growing",
    "max_workers": 2,
    "upscaling_speed": 1.0,
    "idle_timeout_minutes": 5,
    "provider": {"type": "fake_multinode", "disable_node_updaters": True, "disable_launch_config_check": True},
    "available_node_types": {
        "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "worker": {"resources": {"CPU": 2}, "node_config": {}, "min_workers": 0, "max_workers": 2},
    },
    "head_node_type": "ray.head.default",
    "file_mounts_sync_continuously": False,
    **{name: {} for name in ("auth", "docker", "file_mounts")},
    **{f"{name}_commands": [] for name in ("initialization", "setup", "head_setup", "worker_setup")},
    **{f"{name}_start_ray_commands": [] for name in ("head", "worker")},
    **{name: [] for name in ("cluster_synced_files", "rsync_exclude", "rsync_filter")},
}
ASK = """
import sys
from cluster.growing import with_fitting_node
from cluster.session import check_fit, session
with session(sys.argv[1]) as up:
    print(up.cpus)
    grown = with_fitting_node(up, 2.0, print, 1.0, 0.0, None)
    print(check_fit(grown, 1.0, 0.0))
    print(with_fitting_node(grown, 0.05, print, 4.0, 0.0, None).cpus)
"""


@pytest.fixture
def address() -> Iterator[str]:
    """Of a head without processors, which starts nodes of two when they are asked for."""
    with socket.socket() as taken:
        if taken.connect_ex(("127.0.0.1", PORT)) == 0:
            pytest.skip(f"port {PORT}, where such nodes look for their head, is taken")
    with TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:
        config, log = Path(folder, "cluster.json"), Path(folder, "log.txt")
        config.write_text(json.dumps(CONFIG), encoding="utf-8")
        command = [RAY, "start", "--head", "--block", "--num-cpus=0", f"--port={PORT}", "--include-dashboard=false"]
        command += [f"--temp-dir={folder}", f"--autoscaling-config={config}"]
        ours = {"RAY_AUTH_MODE": "disabled", "AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_FAKE_CLUSTER": "1", MARK: folder}
        with log.open("w", encoding="utf-8") as told:
            head = subprocess.Popen(command, stdout=told, stderr=told, env=os.environ | ours)
        try:
            deadline = time.monotonic() + 90
            while "Ray runtime started" not in log.read_text("utf-8"):
                assert head.poll() is None and time.monotonic() < deadline, log.read_text("utf-8")
                time.sleep(0.2)
            yield f"127.0.0.1:{PORT}"
        finally:
            for pid in started_with(folder):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            head.wait()


def started_with(folder: str) -> list[int]:
    """Processes with this folder in their command line or environment."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if folder.encode() in (place / "cmdline").read_bytes() + (place / "environ").read_bytes():
                found.append(int(place.name))
    return found


def test_a_node_is_asked_for_and_waited_for(address: str) -> None:
    environment = os.environ | {"RAY_AUTH_MODE": "disabled"}
    command = [sys.executable, "-c", ASK, address]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False, timeout=200)
    before, asked, cpus, asked_again, largest = done.stdout.splitlines()
    assert (before, cpus, largest) == ("0.0", "2", "2.0"), done.stderr
    assert asked == asked_again.replace("0.05", "2") and "no node is there yet on which a trial fits" in asked


def test_where_a_trial_fits_or_nobody_waits_none_is_asked_for() -> None:
    """Ray is not even up."""
    up = Session(cpus=2.0, gpus=0.0, nodes=1, dashboard_url=None)
    assert with_fitting_node(up, 60.0, pytest.fail, 2.0, 0.0, None) is up
    assert with_fitting_node(up, 0.0, pytest.fail, 3.0, 0.0, None) is up
