"""On a real cluster of three raylets: which nodes see a folder, what they are called, and who is let in."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster import two_nodes
from cluster.nodes import NODE_IDS, node_name
from cluster.session import ROOT
from tests.cluster.raylets import Raylets, raylets

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

OWN_FOLDER = "/proc/self/cwd/store"
"""One path, and another folder for every process that works in another place."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Raylets]:
    """A head, a worker in the folder `here`, and one in the folder `elsewhere`."""
    with raylets() as running:
        for name in ("here", "elsewhere"):
            folder = tmp_path_factory.mktemp(name, numbered=False)
            running.add_worker(folder)
        two_nodes.wait_until_up(running.nodes)
        yield running


@pytest.fixture
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the test's programs share with one worker."""
    return tmp_path_factory.getbasetemp() / "here"


def join(cluster: Raylets, folder: Path, program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program that joins the cluster, from `folder`."""
    environment = cluster.client_environment(folder, PYTHONPATH=str(ROOT), **environment)
    command = [sys.executable, "-c", program, cluster.address]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


def token_of(cluster: Raylets) -> dict[str, str]:
    return {"RAY_AUTH_TOKEN": cluster.token}


LOOK = """
import json, os, sys
from pathlib import Path
from cluster.nodes import alive_nodes, blind_nodes, node_name
from cluster.session import check_fit, session
with session(sys.argv[1]) as up:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
    @ray.remote(num_cpus=0)
    def look():
        import pipeline.errors
        return os.getcwd(), node_name(), pipeline.errors.__file__
    nodes = alive_nodes()
    told = {}
    for node in nodes:
        there = NodeAffinitySchedulingStrategy(node.id, soft=False)
        told[node.id] = [node.cpus, str(node), *ray.get(look.options(scheduling_strategy=there).remote())]
    blind = [node.id for node in blind_nodes(Path(FOLDER), nodes)]
    seen = [node.id for node in blind_nodes(Path(sys.argv[1]).absolute(), nodes)]
    print(json.dumps([up.cpus, up.nodes, check_fit(up, 1, 0), told, blind, seen, sorted(os.listdir("."))]))
"""


def test_nodes_that_see_a_folder_and_nodes_that_do_not(
    cluster: Raylets, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Asked of each node by itself: in which folder it works, and what it is called."""

    here = tmp_path_factory.getbasetemp() / "here"
    done = join(cluster, here, LOOK.replace("FOLDER", repr(OWN_FOLDER)), **token_of(cluster))
    assert done.returncode == 0, done.stderr
    cpus, count, largest, told, blind, unseen, left = json.loads(done.stdout)
    assert (cpus, count, largest) == (1, 3, 1)
    assert sorted(facts[0] for facts in told.values()) == [0, 1, 1], "the head has no processors"
    elsewhere = [one for one, facts in told.items() if facts[0] and not facts[2].endswith("/here")]
    assert blind == elsewhere and len(elsewhere) == 1
    assert unseen == []
    assert left == [], "nothing is left of the probe, and no folder was made"
    names = [facts[1] for facts in told.values()]
    assert len(set(names)) == 3 and names == [facts[3] for facts in told.values()]
    assert all(name.startswith(f"{platform.node()}/") for name in names)
    assert all(not facts[4].startswith(str(ROOT)) for facts in told.values()), "the nodes were sent our packages"


def test_a_node_has_its_hosts_name_where_it_is_the_only_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(NODE_IDS, raising=False)
    node_name.cache_clear()
    assert node_name() == platform.node()
    node_name.cache_clear()


ENTER = """
import sys
from pathlib import Path
from cluster.session import ClusterError, session
try:
    with session(sys.argv[1], Path(FOLDER)) as up:
        print(up.nodes)
except ClusterError as error:
    print(error)
"""


def test_a_storage_that_not_all_see_is_refused(cluster: Raylets, here: Path) -> None:
    refused = join(cluster, here, ENTER.replace("FOLDER", repr(OWN_FOLDER)), **token_of(cluster))
    assert refused.stdout.startswith(f"storage={OWN_FOLDER}: of 3 nodes 1 do not see this folder: "), refused
    assert f"{platform.node()}/" in refused.stdout
    assert "--set storage=s3://BUCKET/PREFIX, or a folder that all of them share" in refused.stdout
    joined = join(cluster, here, ENTER.replace("FOLDER", repr(str(here / "store"))), **token_of(cluster))
    assert joined.stdout.strip() == "3", joined.stderr
    assert not os.listdir(here)


@pytest.mark.parametrize(
    "environment",
    [{}, {"RAY_AUTH_MODE": "token"}, {"RAY_AUTH_TOKEN": "0" * 64}],
    ids=["nothing", "mode alone", "wrong token"],
)
def test_without_the_token_nobody_joins(environment: dict[str, str], cluster: Raylets, tmp_path: Path) -> None:
    started = time.monotonic()
    refused = join(cluster, tmp_path, ENTER.replace("FOLDER", repr(str(tmp_path))), **environment)
    assert refused.stdout.startswith(f"--address {cluster.address}: "), refused.stderr
    assert "RAY_AUTH_MODE=token" in refused.stdout and "RAY_AUTH_TOKEN" in refused.stdout
    assert len(refused.stdout.splitlines()) == 1 and "Traceback" not in refused.stderr
    assert time.monotonic() - started < 120
    assert not (tmp_path / ".ray").exists(), "no token is made"
