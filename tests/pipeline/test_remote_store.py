"""The store of a cluster: nodes with folders of their own, one S3 server behind them; processes that die, wires cut."""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from pipeline.artifact import Artifact, Stage
from pipeline.cache import MANIFEST, BeingBuilt, Store
from pipeline.config import ClassicalConfig
from pipeline.lease import FOLDER as LEASES
from pipeline.remote import Remote, RemoteRefused, RemoteUnreachable
from pipeline.remote_store import RemoteStore
from pipeline.storage import copy_folder, open_store

ROOT = Path(__file__).resolve().parents[2]
KEY = "k" * 64
DATA = Artifact("d" * 64, "data", Path("data"), {"parents": [], "notes": {}, "seconds": 0.0})


class Counted:
    """A build function that writes two files and knows how often it ran."""

    def __init__(self):
        self.calls = 0

    def __call__(self, *arguments):
        folder = next(one for one in arguments if isinstance(one, Path))
        self.calls += 1
        (folder / "sub").mkdir()
        (folder / "sub" / "weights.npy").write_bytes(b"weights" * 100)
        (folder / "facts.json").write_text(json.dumps({"run": self.calls}))
        return {"run": self.calls}


@pytest.fixture
def url(s3):
    """Of an empty store."""
    return s3.bucket() + "/store"


@pytest.fixture
def node(url, tmp_path):
    """Opens the store as a node of that name has it."""
    return lambda name, patience=30.0: Store(tmp_path / name, remote=RemoteStore(Remote(url, patience), 0.3, 3.0))


def names(url):
    """Files of the store that belong to artifacts."""
    return [name for name in Remote(url).list() if not name.startswith(".")]


def test_what_one_node_builds_the_others_fetch(url, node):
    build = Counted()
    stage = Stage("toy", 1, build)
    made = node("a").run(stage, ClassicalConfig(), DATA)
    there = node("b").run(stage, ClassicalConfig(), DATA)
    assert build.calls == 1 and (made.cache_hit, there.cache_hit) == (False, True)
    assert there.manifest == made.manifest and there.path != made.path
    files = {path.relative_to(made.path).as_posix() for path in made.path.rglob("*") if path.is_file()}
    assert files == {"sub/weights.npy", "facts.json", MANIFEST}
    for name in files:
        assert (there.path / name).read_bytes() == (made.path / name).read_bytes()
        assert Remote(url).read_bytes(f"toy/{made.key}/{name}") == (made.path / name).read_bytes()
    assert node("c").find("toy", made.key).notes == {"run": 1}
    assert node("c").find("toy", "other") is None
    assert Remote(url).list(LEASES) == {}


def test_what_is_here_needs_no_store(url, node, wire):
    store = node("a", patience=0.0)
    store.add("toy", KEY, Counted())
    wire.cut()
    assert store.find("toy", KEY) is not None and store.add("toy", KEY, Counted()).cache_hit
    with pytest.raises(RemoteUnreachable):
        store.find("toy", "other")


def test_a_failure_leaves_nothing_anywhere(url, node, tmp_path):
    def fail(folder):
        (folder / "half.npy").write_bytes(b"half")
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError):
        node("a").add("toy", KEY, fail)
    assert Remote(url).list() == {}
    assert list(tmp_path.rglob("half.npy")) == []
    assert node("b").add("toy", KEY, Counted()).cache_hit is False


def flip(remote, place):
    content = bytearray(remote.read_bytes(f"{place}/sub/weights.npy"))
    content[350] ^= 1
    remote.write_bytes(f"{place}/sub/weights.npy", bytes(content))


def shorten(remote, place):
    remote.write_bytes(f"{place}/sub/weights.npy", b"weights" * 99)


def lose(remote, place):
    remote.delete(f"{place}/facts.json")


def halve_manifest(remote, place):
    remote.write_bytes(f"{place}/{MANIFEST}", remote.read_bytes(f"{place}/{MANIFEST}")[:100])


def rename_manifest(remote, place):
    change_manifest(remote, place, lambda manifest: manifest.update(key="another"))


def point_outside(remote, place):
    change_manifest(remote, place, lambda manifest: name_file(manifest, "../../../../outside.txt"))


def point_to_root(remote, place):
    change_manifest(remote, place, lambda manifest: name_file(manifest, "/tmp/outside.txt"))


def change_manifest(remote, place, change):
    manifest = json.loads(remote.read_bytes(f"{place}/{MANIFEST}"))
    change(manifest)
    remote.write_bytes(f"{place}/{MANIFEST}", json.dumps(manifest).encode())


def name_file(manifest, name):
    manifest["files"][name] = manifest["files"]["facts.json"]


DAMAGES = [flip, shorten, lose, halve_manifest, rename_manifest, point_outside, point_to_root]


@pytest.mark.parametrize("damage", DAMAGES)
def test_an_artifact_that_is_damaged_there_is_set_aside_there_and_built_again(url, node, tmp_path, caplog, damage):
    build, remote = Counted(), Remote(url)
    node("a").add("toy", KEY, build)
    damage(remote, f"toy/{KEY}")
    left = {name.removeprefix(f"toy/{KEY}/"): remote.read_bytes(name) for name in names(url)}
    with caplog.at_level(logging.WARNING):
        assert node("b").find("toy", KEY) is None
    (record,) = (record for record in caplog.records if record.name.startswith("pipeline"))
    assert f"{url}/toy/{KEY}" in record.getMessage() and f"{url}/.damaged/toy-{KEY}-" in record.getMessage()
    aside = {name.split("/", 2)[2]: remote.read_bytes(name) for name in remote.list(".damaged")}
    assert aside == left and names(url) == []
    again = node("b").add("toy", KEY, build)
    assert build.calls == 2 and again.cache_hit is False
    assert node("c").add("toy", KEY, build).notes == {"run": 2}, "what the others now fetch is whole"
    assert not list(tmp_path.rglob("outside.txt")) and not Path("/tmp/outside.txt").exists()


def test_a_damaged_copy_is_fetched_again(url, node, caplog):
    build = Counted()
    made = node("a").add("toy", KEY, build)
    (made.path / "facts.json").write_text("{}")
    with caplog.at_level(logging.WARNING):
        again = node("a").add("toy", KEY, build)
    assert build.calls == 1 and again.cache_hit and json.loads((again.path / "facts.json").read_text()) == {"run": 1}
    assert "is fetched or built again" in caplog.text
    assert len(list((again.path.parents[1] / ".damaged").iterdir())) == 1


@pytest.mark.parametrize("name", ["../outside.txt", "/tmp/outside.txt", "a/../../outside.txt"])
def test_a_local_manifest_that_points_outside_is_damaged(tmp_path, name):
    made = Store(tmp_path / "store").add("toy", KEY, Counted())
    manifest = json.loads((made.path / MANIFEST).read_text())
    name_file(manifest, name)
    (made.path / MANIFEST).write_text(json.dumps(manifest))
    assert Store(tmp_path / "store").find("toy", KEY) is None


BUILD = """
import sys, time
from pathlib import Path
from pipeline.cache import Store
from pipeline.remote import Remote
from pipeline.remote_store import RemoteStore

url, root, key, me, hang, at_once = sys.argv[1:]

def build(folder):
    print("building", flush=True)
    time.sleep(float(hang))
    (folder / "who.txt").write_text(me)
    return {}

store = Store(Path(root), lambda stage: print("waiting", flush=True), RemoteStore(Remote(url), 0.3, 3.0))
if not int(at_once):
    print("ready", flush=True)
    sys.stdin.readline()
made = store.add("toy", key, build)
print("done", made.cache_hit, (made.path / "who.txt").read_text(), flush=True)
"""


def process(url, root, me, hang=0.0, at_once=True):
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", BUILD, url, str(root), KEY, me, str(hang), str(int(at_once))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def test_nodes_that_ask_for_one_key_build_it_once(url, tmp_path):
    workers = [process(url, tmp_path / f"node{i}", f"worker{i}", 2.0, at_once=False) for i in range(3)]
    for worker in workers:
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        worker.stdin.write("go\n")
        worker.stdin.flush()
    said = [worker.communicate(timeout=60)[0].split() for worker in workers]
    (builder,) = (words[-1] for words in said if "building" in words)
    assert sorted(words[-2:] for words in said) == sorted([["False", builder], ["True", builder], ["True", builder]])


def test_who_does_not_want_to_wait_is_told_that_another_node_builds(url, node, tmp_path):
    builder = process(url, tmp_path / "a", "builder", 3.0)
    assert builder.stdout.readline() == "building\n"
    with pytest.raises(BeingBuilt):
        node("b").add("toy", KEY, Counted(), wait=False)
    assert builder.communicate(timeout=60)[0].split() == ["done", "False", "builder"]
    assert node("b").add("toy", KEY, Counted(), wait=False).cache_hit
    assert Remote(url).list(LEASES) == {}


def test_another_node_takes_over_from_a_builder_that_is_killed(url, tmp_path):
    builder = process(url, tmp_path / "a", "killed", 120)
    assert builder.stdout.readline() == "building\n"
    waiter = process(url, tmp_path / "b", "waiter")
    assert waiter.stdout.readline() == "waiting\n"
    builder.send_signal(signal.SIGKILL)
    builder.communicate(timeout=30)
    assert waiter.communicate(timeout=60)[0].split() == ["building", "done", "False", "waiter"]
    assert Store(tmp_path / "c", remote=RemoteStore(Remote(url))).find("toy", KEY) is not None


def test_a_store_that_is_away_when_an_artifact_is_finished_is_waited_for(url, node, wire, tmp_path):
    def build(folder):
        wire.cut()
        threading.Timer(2.0, wire.mend).start()
        return Counted()(folder)

    made = node("a").add("toy", KEY, build)
    assert made.path.is_dir() and node("b").find("toy", KEY).manifest == made.manifest


def test_an_upload_that_fails_leaves_nothing_that_reads_as_whole(s3, url, node, wire, monkeypatch):
    """The wire is cut for good when one of the two files is there."""
    put = Remote.put

    def cut_after_one(self, file, name):
        put(self, file, name)
        if name.endswith("facts.json"):
            wire.cut()

    monkeypatch.setattr(Remote, "put", cut_after_one)
    with pytest.raises(RemoteUnreachable):
        node("a", patience=1.0).add("toy", KEY, Counted())
    monkeypatch.undo()
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.url)
    assert names(url) == [f"toy/{KEY}/facts.json"]
    assert not (node("a").root / "toy").exists(), "what is here is there"
    assert node("b").find("toy", KEY) is None
    build = Counted()
    assert node("b").add("toy", KEY, build).notes == {"run": 1}
    assert node("c").find("toy", KEY) is not None


CHECKPOINTED = """
import sys, time
from pathlib import Path
import torch
from pipeline.cache import Store
from pipeline.checkpoints import Checkpoint, next_place
from pipeline.remote import Remote
from pipeline.remote_store import RemoteStore

url, root, key, last = sys.argv[1:]

def build(folder):
    place = next_place()
    found = place.load("training")
    epoch = found.facts["epoch"] if found else 0
    print("from", epoch, flush=True)
    while epoch < int(last):
        epoch += 1
        place.save(Checkpoint({"epoch": epoch}, {"weights": torch.full((3,), float(epoch))}), "training")
    print("at", epoch, flush=True)
    time.sleep(120 if int(last) < 5 else 0)
    (folder / "epoch.txt").write_text(str(epoch))
    return {}

Store(Path(root), remote=RemoteStore(Remote(url), 0.3, 3.0)).add("toy", key, build)
"""


def test_training_goes_on_on_another_node_where_the_first_one_died(url, tmp_path):
    def train(root, last):
        return subprocess.Popen(
            [sys.executable, "-c", CHECKPOINTED, url, str(tmp_path / root), KEY, str(last)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )

    first = train("a", 3)
    assert [first.stdout.readline() for _ in range(2)] == ["from 0\n", "at 3\n"]
    first.send_signal(signal.SIGKILL)
    first.communicate(timeout=30)
    assert [name.rpartition("/")[2] for name in Remote(url).list(".checkpoints")] == ["000.safetensors"]
    second = train("b", 5)
    assert second.communicate(timeout=60)[0] == "from 3\nat 5\n"
    assert Remote(url).list(".checkpoints") == {} and not (tmp_path / "b" / ".checkpoints" / KEY).exists()
    again = Store(tmp_path / "a", remote=RemoteStore(Remote(url))).find("toy", KEY)
    assert (again.path / "epoch.txt").read_text() == "5"
    assert not (tmp_path / "a" / ".checkpoints" / KEY).exists(), "what is finished needs no checkpoint"


def test_made_from_finds_what_other_nodes_have_made(node):
    build = Counted()
    model = Artifact("m" * 64, "distil", Path("m"), {"parents": [], "notes": {}, "seconds": 0.0})
    other = Artifact("o" * 64, "distil", Path("o"), {"parents": [], "notes": {}, "seconds": 0.0})
    stage = Stage("predictions", 1, build)
    made = {node("a").run(stage, ClassicalConfig(seed=seed), DATA, model).key for seed in range(2)}
    made.add(node("b").run(stage, ClassicalConfig(seed=2), DATA, model).key)
    node("a").run(stage, ClassicalConfig(), DATA, other)
    node("a").run(stage, ClassicalConfig(), DATA, model, other)
    for name in ("a", "b", "c"):
        assert {artifact.key for artifact in node(name).made_from("predictions", model.key)} == made
    assert list(node("a").made_from("prune", model.key)) == []


def test_each_url_has_a_folder_of_its_own_on_this_node(url, s3, tmp_path, monkeypatch):
    monkeypatch.setenv("PARETO_CACHE", str(tmp_path / "cache"))
    open_store(url).add("toy", KEY, Counted())
    assert open_store(url + "/").find("toy", KEY) is not None
    assert open_store(url).root == copy_folder(url) and copy_folder(url).parent == tmp_path / "cache"
    assert open_store(s3.bucket()).find("toy", KEY) is None
    here = copy_folder(url)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    assert copy_folder(url) != here, "the same name somewhere else"
    monkeypatch.delenv("PARETO_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert copy_folder(url).parent == tmp_path / "xdg" / "pareto-compression"
    assert open_store(tmp_path / "folder").root == tmp_path / "folder"
    with pytest.raises(RemoteRefused, match="gs:// is no store"):
        open_store("gs://bucket")


def test_a_bucket_that_is_not_there_is_told_and_no_artifact(tmp_path, monkeypatch, s3):
    monkeypatch.setenv("PARETO_CACHE", str(tmp_path))
    started = time.monotonic()
    with pytest.raises(RemoteRefused, match="there is no such bucket"):
        open_store("s3://no-such-bucket/p").add("toy", KEY, Counted())
    assert time.monotonic() - started < 5


def test_an_array_comes_back_as_it_was(node):
    def build(folder):
        np.save(folder / "logits.npy", np.arange(1_000_000, dtype=np.float32))
        return {}

    node("a").add("toy", KEY, build)
    there = node("b").find("toy", KEY)
    assert np.array_equal(np.load(there.path / "logits.npy", allow_pickle=False), np.arange(1_000_000))
