"""Trainings that are killed after an epoch and go on in another process: real processes, real SIGKILLs.

A coordinator with nothing but imports behind it forks a process for every attempt at a training: one undisturbed, one
that kills itself right after its n-th checkpoint, one that goes on from what that one left.
"""

import json
import logging
import os
import resource
import signal
import subprocess
import sys
import time
import traceback
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.optim.optimizer import register_optimizer_step_post_hook

from pipeline import checkpoints
from pipeline.cache import Store
from pipeline.checkpoints import Checkpoint, checkpointing, next_place
from pipeline.config import DataConfig, DistilConfig, PruneConfig, TeacherConfig
from pipeline.data import prepare
from pipeline.distil import student_of
from pipeline.models import build_scratch
from pipeline.ngram_student import NgramBag
from pipeline.objective import Examples, Recipe
from pipeline.prune.masks import Masks, drop_smallest, magnitude_scores, matrices_in
from pipeline.prune.stage import _fine_tune
from pipeline.quantize.calibration import activation_ranges
from pipeline.quantize.qat import fake_quantization, holding_zeros
from pipeline.stages import train_teacher
from pipeline.teacher import freeze
from pipeline.tokens import Tokens
from pipeline.training import TrainingDiverged, seeded, train

ROOT = Path(__file__).resolve().parents[2]
VOCABULARY = 30
RECIPE = Recipe(epochs=3, learning_rate=1e-2, batch_size=8, seed=0)


def drawn(count, seed):
    """Comments of 2 to 7 tokens; label 0 holds where token 5 occurs, label 1 where token 6 does; a made-up teacher."""
    random = np.random.default_rng(seed)
    lengths = random.integers(2, 8, count)
    ids = random.integers(5, 12, lengths.sum(), dtype=np.int32)
    tokens = Tokens(ids, np.concatenate([[0], np.cumsum(lengths)]))
    parts = np.split(ids, tokens.offsets[1:-1])
    labels = np.array([[5 in part, 6 in part] for part in parts], dtype=np.float32)
    return Examples(tokens, labels, random.normal(0, 2, (count, 2)).astype(np.float32))


def encoder(seed=0):
    config = TeacherConfig(
        scratch_layers=2, scratch_width=16, scratch_heads=2, max_tokens=16, encoder_dropout=0.1, pooling="max"
    )
    with seeded(seed):
        return build_scratch(config, 2, VOCABULARY)


def fitted(model, recipe=RECIPE, **extra):
    """Train the model on drawn comments; its state and the history."""
    with seeded(1):
        history = train(model, drawn(60, 1), drawn(40, 2), recipe, **extra)
    return model.state_dict(), history


def plain_encoder():
    """With its lowest layer frozen, a rate of the head's own and weights of the classes."""
    model = encoder()
    freeze(model, 1)
    return fitted(model, replace(RECIPE, head_learning_rate=3e-2, class_weights=True, schedule="cosine"))


def early_stopping():
    """What it is taught is the opposite of what validation asks for, so that the first epochs stay the best."""
    model, examples = encoder(), drawn(60, 1)
    with seeded(1):
        opposite = Examples(examples.tokens, 1.0 - examples.labels)
        history = train(model, opposite, drawn(40, 2), replace(RECIPE, epochs=9, patience=2, loss="focal"))
    assert 3 <= len(history) < 9
    return model.state_dict(), history


def ngram_bag():
    config = DistilConfig(method="logit", student="ngram", buckets=256, dimension=8, hidden_width=6, ngram_dropout=0.3)
    with seeded(0):
        student = NgramBag(config, 2)
    return fitted(student, replace(RECIPE, alpha=0.5, temperature=2.0))


def matching_losses():
    student, matching = student_of(encoder(), DistilConfig(method="multi_level", layers=1, width=0))
    weights, history = fitted(student, replace(RECIPE, alpha=0.5), matching=matching)
    assert history[0]["matching_loss"] > 0
    return weights | {f"matching.{name}": tensor for name, tensor in matching.state_dict().items()}, history


def pruned(**settings):
    model, examples = encoder(), replace(drawn(60, 1))
    masks = Masks(model)
    config = PruneConfig(epochs=3, learning_rate=1e-2, batch_size=8, **settings)
    if "magnitude" in config.methods:
        masks.add(drop_smallest(magnitude_scores(matrices_in(model, "ffn")), 0.2, "layer"))
    history = _fine_tune(model, masks, config, examples, drawn(40, 2))
    return model.state_dict() | {f"mask.{name}": mask for name, mask in masks.dropped.items()}, history


def masked_fine_tuning():
    return pruned(method="magnitude")


def gradual_pruning():
    return pruned(method="magnitude+gradual", sparsity=0.8, frequency=2, end_fraction=0.95)


def quantization_aware():
    model = encoder()
    ranges = activation_ranges(model, drawn(60, 1).tokens)
    with fake_quantization(model, ranges, per_channel=True) as trained_ranges:
        _, history = fitted(model, after_step=holding_zeros(model))
        ends = {f"range.{name}": torch.tensor(ends) for name, ends in trained_ranges().items()}
    return model.state_dict() | ends, history


def two_trainings():
    """Three checkpoints of the first, then those of the second."""
    first, history = fitted(encoder())
    second, later = fitted(encoder(5), replace(RECIPE, seed=5))
    return {f"first.{k}": v for k, v in first.items()} | {f"second.{k}": v for k, v in second.items()}, history + later


CASES = {
    case.__name__: case
    for case in (
        plain_encoder,
        early_stopping,
        ngram_bag,
        matching_losses,
        masked_fine_tuning,
        gradual_pruning,
        quantization_aware,
        two_trainings,
    )
}
DEATHS = dict.fromkeys(CASES, (1, 3)) | {
    "plain_encoder": (1, 2, 3),
    "early_stopping": (2, 3),
    "gradual_pruning": (1, 2, 3),
    "two_trainings": (2, 3, 5),
}
"""After which checkpoint the process dies; a training of three epochs writes two on its way and one at its end."""


def in_child(work, *arguments):
    """The exit code of a forked process that does this; -9 if it was killed by SIGKILL."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        try:
            work(*arguments)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def counted_steps():
    """A list that grows with every step of any optimiser in this process."""
    steps = []
    register_optimizer_step_post_hook(lambda *_: steps.append(1))
    return steps


def attempt(case, out, folder=None, dies_at=None, largest_file=None):
    """Train, with checkpoints below `folder` if it is given, and write what came out."""
    steps, checkpoints_written = counted_steps(), []
    out.mkdir(parents=True, exist_ok=True)

    def saved(where):
        assert where == folder and list(where.glob("*.partial")) == []
        checkpoints_written.append(1)
        if len(checkpoints_written) == dies_at:
            (out / "steps.json").write_text(json.dumps(len(steps)))
            os.kill(os.getpid(), signal.SIGKILL)

    if largest_file:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, resource.RLIM_INFINITY))
    with checkpointing(folder, saved, interval=0) if folder else nullcontext():
        tensors, history = CASES[case]()
    if largest_file:
        assert not list(folder.iterdir()) and not checkpoints_written
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, out / "result.safetensors")
    (out / "history.json").write_text(json.dumps(history))
    (out / "steps.json").write_text(json.dumps(len(steps)))


def attempt_all(root):
    """Every case undisturbed, and for each death a killed one and one that goes on; with exit codes."""
    torch.set_num_threads(1)
    for case in CASES:
        codes = [in_child(attempt, case, root / case / "undisturbed")]
        for death in DEATHS[case]:
            folder, out = root / case / f"checkpoints-{death}", root / case / str(death)
            codes.append(in_child(attempt, case, out / "killed", folder, death))
            codes.append(in_child(attempt, case, out / "resumed", folder))
        (root / case / "codes.json").write_text(json.dumps(codes))
    full = root / "full_disk"
    codes = [in_child(attempt, "plain_encoder", full / "result", full / "checkpoints", None, 2000)]
    (full / "codes.json").write_text(json.dumps(codes))


def coordinated(function, *arguments):
    """Run a function of this file in a fresh process."""
    program = "import runpy, sys; from pathlib import Path; runpy.run_path(sys.argv[1])[sys.argv[2]](Path(sys.argv[3]))"
    command = [sys.executable, "-W", "error", "-c", program, __file__, function, *map(str, arguments)]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def attempts(tmp_path_factory):
    """The folder where `attempt_all` left what came out, and what the processes logged."""
    root = tmp_path_factory.mktemp("attempts")
    return root, coordinated("attempt_all", root).stderr


def outcome(folder):
    return load_file(folder / "result.safetensors"), json.loads((folder / "history.json").read_text())


def steps_in(folder):
    return json.loads((folder / "steps.json").read_text())


def without_seconds(history):
    return [{key: value for key, value in entry.items() if key != "seconds"} for entry in history]


def assert_same(one, other):
    (weights, history), (expected_weights, expected_history) = one, other
    assert set(weights) == set(expected_weights)
    for name, tensor in weights.items():
        assert tensor.dtype == expected_weights[name].dtype
        assert tensor.numpy().tobytes() == expected_weights[name].numpy().tobytes(), name
    assert without_seconds(history) == without_seconds(expected_history)


@pytest.mark.parametrize("case", CASES)
def test_a_training_killed_after_any_epoch_comes_to_the_same_end(attempts, case):
    root, errors = attempts
    expected = [0] + [-signal.SIGKILL, 0] * len(DEATHS[case])
    assert json.loads((root / case / "codes.json").read_text()) == expected, errors
    undisturbed = outcome(root / case / "undisturbed")
    steps = steps_in(root / case / "undisturbed")
    for death in DEATHS[case]:
        killed, resumed = root / case / str(death) / "killed", root / case / str(death) / "resumed"
        assert_same(outcome(resumed), undisturbed)
        assert not (killed / "result.safetensors").exists() and steps_in(killed) > 0
        assert steps_in(killed) + steps_in(resumed) == steps, "no step twice, none left out"


def test_a_full_disk_costs_the_checkpoints_and_nothing_else(attempts):
    root, errors = attempts
    assert json.loads((root / "full_disk" / "codes.json").read_text()) == [0], errors
    assert "training goes on without this checkpoint" in errors
    assert_same(outcome(root / "full_disk" / "result"), outcome(root / "plain_encoder" / "undisturbed"))


STAGE = TeacherConfig(
    epochs=3,
    folds=2,
    learning_rate=5e-3,
    max_tokens=16,
    class_weights=True,
    patience=2,
    encoder_dropout=0.1,
    scratch_layers=1,
    scratch_width=16,
    scratch_heads=2,
    scratch_vocabulary=200,
)


def run_stage(root, dies_at=None):
    """Build the teacher in the store at `root`; it dies when it would put its n-th checkpoint in place."""
    checkpoints.INTERVAL_SECONDS = 0.0
    steps, marks = counted_steps(), []

    def watch(event, arguments):
        if event == "os.rename" and str(arguments[1]).endswith(checkpoints.SUFFIX):
            marks.append(len(steps))
            (root / "marks.json").write_text(json.dumps(marks))
            if len(marks) == dies_at:
                os.kill(os.getpid(), signal.SIGKILL)

    store = Store(root)
    data = prepare(DataConfig(sample_rows=200, label_columns=("bully", "threat"))).add_to(store)
    sys.addaudithook(watch)
    store.run(train_teacher, STAGE, data)
    (root / "steps.json").write_text(json.dumps(len(steps)))


def run_stages(root):
    """An undisturbed store, and one whose builder dies in the last epoch but one of the second fold."""
    torch.set_num_threads(1)
    logging.basicConfig(level=logging.INFO)
    for folder in ("undisturbed", "disturbed"):
        (root / folder).mkdir()
    codes = [in_child(run_stage, root / "undisturbed")]
    last = len(json.loads((root / "undisturbed" / "marks.json").read_text()))
    codes += [in_child(run_stage, root / "disturbed", last - 1)]
    left = sorted(str(file.relative_to(root)) for file in root.rglob(".checkpoints/*/*"))
    marks = json.loads((root / "disturbed" / "marks.json").read_text())
    codes += [in_child(run_stage, root / "disturbed")]
    (root / "facts.json").write_text(json.dumps({"codes": codes, "left": left, "marks": marks}))


def test_a_stage_killed_in_its_last_fold_trains_only_what_is_left(tmp_path):
    errors = coordinated("run_stages", tmp_path).stderr
    facts = json.loads((tmp_path / "facts.json").read_text())
    assert facts["codes"] == [0, -signal.SIGKILL, 0], errors
    left = ["000.safetensors", "001.safetensors", "002.partial", "002.safetensors"]
    assert [Path(file).name for file in facts["left"]] == left, "it died while it wrote"
    manifests = {}
    for store in ("undisturbed", "disturbed"):
        (file,) = (tmp_path / store / "teacher").glob("*/manifest.json")
        manifests[store] = json.loads(file.read_text())
        assert not list((tmp_path / store).rglob(".checkpoints/*")), "gone once the artifact is in its place"
    assert manifests["undisturbed"]["key"] == manifests["disturbed"]["key"]
    assert manifests["undisturbed"]["files"] == manifests["disturbed"]["files"]
    notes, expected = manifests["disturbed"]["notes"], manifests["undisturbed"]["notes"]
    for name in ("history", "folds"):
        assert without_seconds(notes[name]) == without_seconds(expected[name])
    assert notes["teaching_f1_macro"] == expected["teaching_f1_macro"]
    done, total = facts["marks"][-2], steps_in(tmp_path / "undisturbed")
    assert total > done > total / 2
    assert steps_in(tmp_path / "disturbed") == total - done


def trained_below(folder, recipe=RECIPE, model=None):
    with checkpointing(folder, interval=0):
        return fitted(model or encoder(), recipe)


def test_outside_of_checkpointing_there_is_no_place():
    assert next_place() is None


def test_places_are_numbered_anew_in_every_stage(tmp_path):
    for stage in ("one", "two"):
        with checkpointing(tmp_path / stage):
            assert [next_place().file for _ in range(2)] == [tmp_path / stage / f"00{i}.safetensors" for i in (0, 1)]
    assert next_place() is None
    assert list(tmp_path.iterdir()) == [], "nothing is made before there is something to write"


@pytest.mark.parametrize("change", [{"learning_rate": 2e-2}, {"epochs": 4}, {"seed": 1}, {"alpha": 0.5}])
def test_a_checkpoint_of_another_recipe_is_ignored(tmp_path, caplog, change):
    trained_below(tmp_path)
    expected = fitted(encoder(), replace(RECIPE, **change))
    caplog.clear()
    assert_same(trained_below(tmp_path, replace(RECIPE, **change)), expected)
    assert "000.safetensors: it is of another training; the checkpoint is ignored" in caplog.text


def test_a_checkpoint_of_a_model_of_another_shape_is_ignored(tmp_path, caplog):
    trained_below(tmp_path)
    config = TeacherConfig(scratch_layers=2, scratch_width=24, scratch_heads=2, max_tokens=16)

    def wider():
        with seeded(0):
            return build_scratch(config, 2, VOCABULARY)

    expected = fitted(wider())
    assert_same(trained_below(tmp_path, model=wider()), expected)
    assert "it is of another training" in caplog.text


def small_checkpoint(folder):
    """The file of a tiny checkpoint of the training `a`, and what is in it."""
    tensors = {"one": torch.arange(6.0).reshape(2, 3), "flag": torch.tensor([True, False]), "x": torch.tensor(2.5)}
    facts = {"history": [{"epoch": 1, "val_loss": 0.1 + 0.2}]}
    with checkpointing(folder, interval=0):
        place = next_place()
        place.save(Checkpoint(facts, tensors), "a")
    return place, facts, tensors


def test_a_checkpoint_is_read_as_it_was_written(tmp_path):
    place, facts, tensors = small_checkpoint(tmp_path)
    found = place.load("a")
    assert found.facts == {"identity": "a", **facts}
    assert found.tensors.keys() == tensors.keys()
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in tensors.items())
    assert [file.name for file in tmp_path.iterdir()] == ["000.safetensors"]
    assert place.load("b") is None


def test_no_flipped_byte_goes_unnoticed(tmp_path):
    place, facts, tensors = small_checkpoint(tmp_path)
    whole = place.file.read_bytes()
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 1
        place.file.write_bytes(damaged)
        found = place.load("a")
        if found is not None:  # a byte that says nothing, such as white space in the header
            assert found.facts == {"identity": "a", **facts}
            assert all(torch.equal(found.tensors[name], tensor) for name, tensor in tensors.items()), position


@pytest.mark.parametrize("content", [b"", b"\x80\x04K\x01.", b"{}", b"\x08\0\0\0\0\0\0\0{}      "])
def test_what_is_no_checkpoint_is_ignored_and_replaced(tmp_path, caplog, content):
    expected = fitted(encoder())
    (tmp_path / "000.safetensors").write_bytes(content)
    assert_same(trained_below(tmp_path), expected)
    assert "the checkpoint is ignored and training starts anew" in caplog.text
    with checkpointing(tmp_path):
        assert len((tmp_path / "000.safetensors").read_bytes()) > 1000


def test_half_a_checkpoint_is_ignored(tmp_path, caplog):
    expected = trained_below(tmp_path)
    file = tmp_path / "000.safetensors"
    os.truncate(file, file.stat().st_size // 2)
    assert_same(trained_below(tmp_path), expected)
    assert "the checkpoint is ignored" in caplog.text


def test_between_two_checkpoints_lies_the_interval_and_the_end_needs_a_third_of_it(tmp_path):
    with checkpointing(tmp_path, interval=30.0):
        place = next_place()
        begun = place._work.safe_at
        due = {}
        for passed in (0, 11, 31):
            place._work.safe_at = begun - passed
            due[passed] = (place.is_due(finished=False), place.is_due(finished=True))
    assert due == {0: (False, False), 11: (False, True), 31: (True, True)}
    with checkpointing(tmp_path, interval=0.0):
        assert next_place().is_due(finished=False)


def test_a_training_of_moments_leaves_no_checkpoint(tmp_path):
    with checkpointing(tmp_path):
        fitted(encoder(), replace(RECIPE, epochs=1))
    assert list(tmp_path.iterdir()) == []


def test_where_writing_is_slow_checkpoints_are_rarer(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "AFFORDABLE_SECONDS", 0.01)
    with checkpointing(tmp_path, saved=lambda _folder: time.sleep(0.1), interval=30.0):
        place = next_place()
        place.save(Checkpoint({}, {"one": torch.zeros(1)}), "a")
        place._work.safe_at -= 299
        assert not place.is_due(finished=False), "ten times what is affordable: ten intervals"


def test_a_store_that_cannot_take_a_checkpoint_does_not_end_the_training(tmp_path, caplog):
    def unreachable(_folder):
        raise OSError("the store does not answer")

    expected = fitted(encoder())
    with checkpointing(tmp_path, unreachable, interval=0):
        assert_same(fitted(encoder()), expected)
    assert "the store does not answer; training goes on without this checkpoint" in caplog.text


@pytest.mark.parametrize(
    ("error", "kept"),
    [
        (TrainingDiverged("the loss is not finite"), False),
        (ValueError("too many layers"), False),
        (OSError("no space left"), True),
        (RuntimeError("out of memory"), True),
        (KeyboardInterrupt(), True),
    ],
)
def test_a_stage_that_would_fail_again_leaves_no_checkpoints(tmp_path, error, kept):
    def build(_folder):
        next_place().save(Checkpoint({}, {"one": torch.zeros(1)}), "a")
        raise error

    with pytest.raises(type(error)):
        Store(tmp_path).add("toy", "k" * 64, build)
    assert [file.name for file in tmp_path.rglob("*.safetensors")] == ["000.safetensors"] * kept
