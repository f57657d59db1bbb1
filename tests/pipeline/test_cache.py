"""The store: keys, hits, failures, builders that die, workers that meet, files that rot; real processes and signals."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.artifact import Artifact, Stage
from pipeline.cache import MANIFEST, BeingBuilt, DamagedArtifact, Store, artifact_key
from pipeline.config import ClassicalConfig, DistilConfig, PruneConfig, QuantizeConfig, TeacherConfig

ROOT = Path(__file__).resolve().parents[2]
KEY = "k" * 64
DATA = Artifact("d" * 64, "data", Path("data"), {"parents": [], "notes": {}, "seconds": 0.0})


class Counted:
    """A build function that writes two files and knows how often it ran."""

    def __init__(self, content="weights"):
        self.calls, self.content = 0, content

    def __call__(self, *arguments):
        folder = next(one for one in arguments if isinstance(one, Path))
        self.calls += 1
        (folder / "sub").mkdir()
        (folder / "sub" / "weights.npy").write_bytes(self.content.encode() * 100)
        (folder / "facts.json").write_text(json.dumps({"run": self.calls}))
        return {"history": [{"epoch": 1, "loss": 0.5}], "run": self.calls}


def python(program, *arguments, **environment):
    """A process of its own that runs `program` with the project on its path."""
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", program, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stdin=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )


def key_of(config=None, *, name="toy", version=1, parents=(), data="d"):
    return artifact_key(Stage(name, version, Counted()), config or ClassicalConfig(), list(parents), data)


def test_everything_that_decides_changes_the_key():
    keys = [
        key_of(),
        key_of(ClassicalConfig(seed=1)),
        key_of(ClassicalConfig(inverse_regularization=4.5)),
        key_of(name="toy2"),
        key_of(version=2),
        key_of(data="e"),
        key_of(data=None),
        key_of(parents=["p"]),
        key_of(parents=["q"]),
        key_of(parents=["p", "q"]),
        key_of(parents=["q", "p"]),
        key_of(parents=["pq"]),
    ]
    assert len(set(keys)) == len(keys)
    assert all(len(key) == 64 and set(key) <= set("0123456789abcdef") for key in keys)
    assert key_of(ClassicalConfig(smallest_ngram=2)) == keys[0], "a default said aloud is the same config"


PRINT_KEY = """
from pipeline.artifact import Stage
from pipeline.cache import artifact_key
from pipeline.config import ClassicalConfig
print(artifact_key(Stage("toy", 1, dict), ClassicalConfig(), [], "d"))
"""


def test_the_key_is_the_same_in_every_process_and_another_with_another_torch(tmp_path):
    info = tmp_path / "torch-999.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 999.0\n")
    here = python(PRINT_KEY, PYTHONHASHSEED="7")
    upgraded = python(PRINT_KEY, PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}")
    assert here.communicate(timeout=60)[0].strip() == key_of()
    other = upgraded.communicate(timeout=60)[0].strip()
    assert len(other) == 64 and other != key_of()


FINE_TUNING = "epochs learning_rate batch_size alpha temperature seed"
TAUGHT = "student teacher_logits alpha temperature loss class_weights seed"
ENCODER = "epochs learning_rate batch_size schedule warmup_fraction"
OF_LAYERS = f"{TAUGHT} {ENCODER} layers layer_choice width"
OF_NGRAMS = (
    f"{TAUGHT} buckets dimension hidden_width smallest_ngram longest_ngram word_ngrams"
    " ngram_epochs ngram_learning_rate ngram_dropout"
)
MASKED = f"{FINE_TUNING} scope sparsity granularity"
STRUCTURED = "structures ratio importance heads_left calibration_rows"
CHANGED = {
    **{"student": "ngram", "layer_choice": "last", "teacher_logits": "out_of_fold", "loss": "focal"},
    **{"schedule": "cosine", "scope": "ffn", "granularity": "row", "gradual_schedule": "linear"},
    **{"structures": "ffn", "importance": "activation", "calibration": "entropy", "model": "m", "model_digest": "d"},
    **{"class_weights": True, "per_channel": False},
}
"""Another value than the default; of numbers it is made from the default."""


def another(name, default):
    if name in CHANGED:
        return CHANGED[name]
    return default + 1 if isinstance(default, int) else default / 2 + 0.01


@pytest.mark.parametrize(
    ("config", "used"),
    [
        (DistilConfig(method="none"), ""),
        (DistilConfig(method="logit"), OF_LAYERS),
        (DistilConfig(method="hidden"), f"{OF_LAYERS} hidden_weight"),
        (DistilConfig(method="attention"), f"{OF_LAYERS} attention_weight"),
        (DistilConfig(method="multi_level"), f"{OF_LAYERS} hidden_weight attention_weight"),
        (DistilConfig(method="logit", student="encoder", model="a"), f"{TAUGHT} {ENCODER} model model_digest"),
        (DistilConfig(method="logit", student="encoder", model_digest="a"), f"{TAUGHT} {ENCODER} model_digest"),
        (DistilConfig(method="none", width=64, layers=3), ""),
        (PruneConfig(method="none"), ""),
        (PruneConfig(method="magnitude"), MASKED),
        (PruneConfig(method="wanda"), f"{MASKED} calibration_rows"),
        (
            PruneConfig(method="gradual"),
            f"{MASKED} gradual_schedule initial_sparsity begin_fraction end_fraction frequency",
        ),
        (PruneConfig(method="structured"), f"{FINE_TUNING} {STRUCTURED}"),
        (PruneConfig(method="structured", structures="heads"), f"{FINE_TUNING} {STRUCTURED}"),
        (PruneConfig(method="vocabulary"), f"{FINE_TUNING} minimum_count"),
        (PruneConfig(method="vocabulary+structured+wanda"), f"{MASKED} {STRUCTURED} minimum_count"),
        (QuantizeConfig(method="fp16"), ""),
        (QuantizeConfig(method="int8_dynamic"), "per_channel"),
        (QuantizeConfig(method="int8_static"), "per_channel calibration calibration_rows seed"),
        (QuantizeConfig(method="int8_qat"), f"per_channel calibration_rows {FINE_TUNING}"),
        (QuantizeConfig(method="int4"), "block_size"),
    ],
    ids=lambda value: f"{type(value).__name__}-{value.method}" if hasattr(value, "method") else "",
)
def test_a_setting_counts_only_where_it_is_used(config, used):
    for name in set(type(config).model_fields) - {"method"}:
        changed = config.model_copy(update={name: another(name, getattr(config, name))})
        assert changed != config, name
        assert (key_of(changed) != key_of(config)) == (name in used.split()), name


def test_an_ngram_student_has_settings_of_its_own():
    ngram = DistilConfig(method="logit", student="ngram")
    assert set(ngram.key_fields()) == {"method", *OF_NGRAMS.split()}
    focal = ngram.model_copy(update={"loss": "focal"})
    assert set(focal.key_fields()) == {*ngram.key_fields(), "focal_gamma"}


def test_where_no_heads_are_removed_none_are_counted():
    feed_forward = PruneConfig(method="structured", structures="ffn")
    assert set(feed_forward.key_fields()) == {"method", *FINE_TUNING.split(), *STRUCTURED.split()} - {"heads_left"}


def test_a_chain_of_methods_keeps_its_order():
    there, back = (PruneConfig(method=method) for method in ("vocabulary+wanda", "wanda+vocabulary"))
    assert there.methods == back.methods[::-1] == ["vocabulary", "wanda"]
    assert key_of(there) != key_of(back)


def test_the_method_is_always_part_of_the_key():
    configs = [QuantizeConfig(method=method) for method in ("none", "fp16", "int8_dynamic")]
    configs += [PruneConfig(method=method) for method in ("none", "magnitude", "wanda")]
    assert len({key_of(config) for config in configs}) == 5, "`none` of one stage reads as `none` of the other"


def test_the_teachers_folder_is_no_part_of_the_key_when_its_content_is():
    here = TeacherConfig(model="/here/model", model_digest="a" * 64)
    assert key_of(here) == key_of(TeacherConfig(model="/there/model", model_digest="a" * 64))
    assert key_of(here) != key_of(TeacherConfig(model="/here/model", model_digest="b" * 64))
    assert key_of(here) == key_of(here.model_copy(update={"scratch_layers": 9})), "it is not built from scratch"
    assert key_of(TeacherConfig()) != key_of(TeacherConfig(scratch_layers=9))


def test_none_passes_the_model_on(tmp_path):
    store, build = Store(tmp_path), Counted()
    student = Artifact("s" * 64, "distil", tmp_path, {"parents": ["t"], "notes": {}, "seconds": 1.0})
    teacher = Artifact("t" * 64, "teacher", tmp_path, {"parents": [], "notes": {}, "seconds": 1.0})
    assert store.run(Stage("prune", 1, build), PruneConfig(method="none"), DATA, student, teacher) is student
    assert build.calls == 0
    assert (
        store.run(Stage("prune", 1, build), PruneConfig(method="wanda"), DATA, student, teacher).parent_key == "s" * 64
    )


def test_the_second_run_is_a_hit_and_does_not_call_the_stage(tmp_path):
    build = Counted()
    toy = Stage("toy", 3, build)
    first = Store(tmp_path).run(toy, ClassicalConfig(), DATA)
    again = Store(tmp_path).run(toy, ClassicalConfig(), DATA)
    assert build.calls == 1
    assert (first.cache_hit, again.cache_hit) == (False, True)
    assert (first.key, first.path, first.notes, first.seconds) == (again.key, again.path, again.notes, again.seconds)
    assert again.notes == {"history": [{"epoch": 1, "loss": 0.5}], "run": 1}
    manifest = json.loads((again.path / MANIFEST).read_text())
    assert manifest["version"] == 3 and manifest["data"] == DATA.key and manifest["config"]["seed"] == 0
    assert set(manifest["files"]) == {"sub/weights.npy", "facts.json"}
    assert Store(tmp_path).run(toy, ClassicalConfig(seed=1), DATA).key != first.key
    assert build.calls == 2


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), KeyboardInterrupt()])
def test_a_failure_is_never_stored(tmp_path, error):
    store = Store(tmp_path)

    def fail(folder):
        (folder / "half.npy").write_bytes(b"half")
        raise error

    with pytest.raises(type(error)):
        store.add("toy", KEY, fail)
    assert store.find("toy", KEY) is None
    assert [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".lock"] == []
    assert store.add("toy", KEY, Counted()).cache_hit is False


BUILD_AND_HANG = """
import sys, time
from pathlib import Path
from pipeline.cache import Store

def hang(folder):
    (folder / "partial.npy").write_bytes(b"partial")
    print("building", flush=True)
    time.sleep(120)

Store(Path(sys.argv[1])).add("toy", sys.argv[2], hang)
"""


def hanging_builder(root):
    builder = python(BUILD_AND_HANG, root, KEY)
    assert builder.stdout.readline() == "building\n"
    return builder


def kill(process):
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)
    assert process.returncode == -signal.SIGKILL


def test_a_builder_killed_in_mid_build_leaves_nothing_findable_and_the_next_run_takes_over(tmp_path):
    kill(hanging_builder(tmp_path))
    assert list(tmp_path.rglob("partial.npy")), "it died in the middle of its work"
    store, build = Store(tmp_path), Counted()
    assert store.find("toy", KEY) is None
    assert store.add("toy", KEY, build).notes["run"] == 1
    assert list(tmp_path.rglob("partial.npy")) == []
    assert Store(tmp_path).find("toy", KEY) is not None


WAIT_AND_BUILD = """
import sys, time
from pathlib import Path
from pipeline.cache import Store

root, key, me, others = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
log = root / "log"

def build(folder):
    with (root / "builds").open("a") as file:
        file.write(me + "\\n")
    deadline = time.monotonic() + 30
    while len(list(root.glob("waiting-*"))) < others and time.monotonic() < deadline:
        time.sleep(0.01)
    (folder / "who.txt").write_text(me)
    return {}

store = Store(root / "store", waiting=lambda stage: (root / f"waiting-{me}").write_text(stage))
print("ready", flush=True)
sys.stdin.readline()
made = store.add("toy", key, build)
print(made.cache_hit, (made.path / "who.txt").read_text())
"""


def test_workers_that_ask_for_one_key_build_it_once(tmp_path):
    workers = [python(WAIT_AND_BUILD, tmp_path, KEY, f"worker{i}", 2) for i in range(3)]
    for worker in workers:
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        worker.stdin.write("go\n")
        worker.stdin.flush()
    answers = [worker.communicate(timeout=60)[0].split() for worker in workers]
    (builder,) = (tmp_path / "builds").read_text().splitlines()
    assert sorted(answers) == sorted([["False", builder], ["True", builder], ["True", builder]])
    waiting = {path.name: path.read_text() for path in tmp_path.glob("waiting-*")}
    assert waiting == {f"waiting-worker{i}": "toy" for i in range(3) if f"worker{i}" != builder}


def test_who_does_not_want_to_wait_is_told_that_another_process_builds(tmp_path):
    process = hanging_builder(tmp_path)
    try:
        with pytest.raises(BeingBuilt, match=f"toy {KEY[:12]} is being built") as told:
            Store(tmp_path).add("toy", KEY, Counted(), wait=False)
        assert (told.value.stage, told.value.key) == ("toy", KEY)
    finally:
        kill(process)
    assert not Store(tmp_path).add("toy", KEY, Counted(), wait=False).cache_hit, "nobody builds it now"
    assert Store(tmp_path).add("toy", KEY, Counted(), wait=False).cache_hit


def test_a_worker_that_waits_takes_over_when_the_builder_dies(tmp_path):
    builder = hanging_builder(tmp_path / "store")
    waiter = python(WAIT_AND_BUILD, tmp_path, KEY, "waiter", 0)
    waiter.stdin.write("go\n")
    waiter.stdin.flush()
    deadline = time.monotonic() + 60
    while not (tmp_path / "waiting-waiter").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not (tmp_path / "builds").exists(), "it does not build while the other lives"
    kill(builder)
    assert waiter.communicate(timeout=60)[0].split() == ["ready", "False", "waiter"]


def flip_byte(path):
    content = bytearray((path / "sub/weights.npy").read_bytes())
    content[350] ^= 1
    (path / "sub/weights.npy").write_bytes(content)


def truncate(path):
    os.truncate(path / "sub/weights.npy", 699)


def lose(path):
    (path / "facts.json").unlink()


def halve_manifest(path):
    os.truncate(path / MANIFEST, (path / MANIFEST).stat().st_size // 2)


def replace_manifest(path):
    (path / MANIFEST).write_text("[1, 2]")


def rename_manifest(path):
    manifest = json.loads((path / MANIFEST).read_text()) | {"key": "another"}
    (path / MANIFEST).write_text(json.dumps(manifest))


def lose_manifest(path):
    (path / MANIFEST).unlink()


DAMAGES = [flip_byte, truncate, lose, halve_manifest, replace_manifest, rename_manifest, lose_manifest]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_artifact_is_set_aside_reported_and_built_again(tmp_path, caplog, damage):
    build = Counted()
    made = Store(tmp_path).add("toy", KEY, build)
    damage(made.path)
    left = {path.name: path.read_bytes() for path in made.path.rglob("*") if path.is_file()}
    store = Store(tmp_path)
    with caplog.at_level(logging.WARNING):
        again = store.add("toy", KEY, build)
    assert build.calls == 2 and again.cache_hit is False and again.notes["run"] == 2
    assert (again.path / "sub/weights.npy").read_bytes() == b"weights" * 100
    (aside,) = (tmp_path / ".damaged").iterdir()
    assert {path.name: path.read_bytes() for path in aside.rglob("*") if path.is_file()} == left
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert str(made.path) in caplog.text and str(aside) in caplog.text
    assert Store(tmp_path).add("toy", KEY, build).cache_hit is True
    assert build.calls == 2


def test_find_sets_aside_too_and_does_not_build(tmp_path):
    flip_byte(Store(tmp_path).add("toy", KEY, Counted()).path)
    assert Store(tmp_path).find("toy", KEY) is None
    assert len(list((tmp_path / ".damaged").iterdir())) == 1
    assert not (tmp_path / "toy" / KEY).exists()


@pytest.mark.parametrize("damage", [truncate, lose, halve_manifest])
def test_a_store_that_has_verified_an_artifact_still_sees_lost_bytes(tmp_path, damage):
    store, build = Store(tmp_path), Counted()
    made = store.add("toy", KEY, build)
    assert store.find("toy", KEY) is not None
    damage(made.path)
    assert store.find("toy", KEY) is None
    assert store.add("toy", KEY, build).notes["run"] == 2


def test_digests_are_checked_again_after_an_artifact_was_set_aside(tmp_path):
    store, build = Store(tmp_path), Counted()
    truncate(store.add("toy", KEY, build).path)
    assert store.find("toy", KEY) is None
    flip_byte(Store(tmp_path).add("toy", KEY, build).path)  # another process built it, and it rotted
    assert store.find("toy", KEY) is None


def test_nothing_is_stored_that_was_computed_of_an_input_that_changed_meanwhile(tmp_path, caplog):
    store, counted = Store(tmp_path), Counted()
    parent = store.run(Stage("parent", 1, counted), ClassicalConfig())

    def flip_and_build(config, folder, *inputs):
        flip_byte(inputs[0].path)
        (folder / "wrong.json").write_text("1")
        return {}

    with pytest.raises(DamagedArtifact, match=r"weights\.npy: content differs"):
        store.run(Stage("child", 1, flip_and_build), ClassicalConfig(), parent)
    assert list(tmp_path.glob("child/*")) == []
    assert "it was moved to" in caplog.text
    again = store.run(Stage("parent", 1, counted), ClassicalConfig())
    assert counted.calls == 2 and (again.path / "sub/weights.npy").read_bytes() == b"weights" * 100
    child = store.run(Stage("child", 1, counted), ClassicalConfig(), again)
    assert child.parent_key == parent.key


def test_what_fails_of_a_damaged_input_is_told_as_damage(tmp_path):
    store = Store(tmp_path)
    parent = store.run(Stage("parent", 1, Counted()), ClassicalConfig())

    def fails(config, folder, *inputs):
        flip_byte(inputs[0].path)
        raise ValueError("no such tensor")

    with pytest.raises(DamagedArtifact) as caught:
        store.run(Stage("child", 1, fails), ClassicalConfig(), parent)
    assert isinstance(caught.value.__context__, ValueError)
    assert store.find("parent", parent.key) is None
