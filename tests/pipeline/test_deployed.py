"""Exported folders: sums as coreutils checks them, and every kind of damage named."""

import json
import shutil
import subprocess

import numpy as np
import pytest
from scipy.special import expit

from pipeline.deployed import Decisions, altered_files, load_deployed, write_sums
from pipeline.errors import InputError
from pipeline.runtime import load_classifier

LABELS = ("bully", "sexual", "threat")
DECISIONS = Decisions(LABELS, (0.5, 0.25, 0.4), "threat")


def written(artifact, folder, decisions=DECISIONS):
    """A store artifact's files with decisions and sums."""
    shutil.copytree(artifact.path, folder)
    decisions.save(folder)
    write_sums(folder)
    return folder


@pytest.fixture
def folder(tiny_ngram, tmp_path):
    return written(tiny_ngram, tmp_path / "model")


def test_it_answers_and_decides_as_its_files_say(folder, tiny_ngram, tiny_comments):
    deployed, texts = load_deployed(folder), tiny_comments.test.texts
    expected = expit(load_classifier(tiny_ngram.path).predict_logits(texts).astype(float))
    probabilities = deployed.probabilities(texts)
    np.testing.assert_allclose(probabilities, expected, atol=1e-12)
    assert deployed.decide(probabilities).tolist() == (expected >= [0.5, 0.25, 0.4]).astype(int).tolist()
    assert deployed.decide(np.array([[0.5, 0.2499, 0.4]])).tolist() == [[1, 0, 1]]
    assert deployed.probabilities([]).shape == (0, 3) and deployed.batch == 32


def test_a_model_that_depends_on_the_batch_answers_one_at_a_time(tiny_int8, tiny_comments, tmp_path):
    deployed, texts = load_deployed(written(tiny_int8, tmp_path / "int8")), tiny_comments.test.texts[:20]
    assert deployed.batch == 1
    alone = np.concatenate([deployed.probabilities([text]) for text in texts])
    assert (deployed.probabilities(texts) == alone).all()


def test_sums_are_those_of_sha256sum_over_every_file(folder):
    (folder / "huggingface").mkdir()
    (folder / "huggingface" / "config.json").write_text("{}")
    write_sums(folder)
    done = subprocess.run(
        ["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=folder, capture_output=True, text=True
    )
    checked = {line.removesuffix(": OK") for line in done.stdout.splitlines()}
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert done.returncode == 0 and checked == there - {"SHA256SUMS"}


def test_each_missing_and_altered_file_is_named(folder):
    assert altered_files(folder) == []
    (folder / "hashing.json").unlink()
    weights = folder / "bag.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(InputError) as refused:
        load_deployed(folder)
    missing, altered = refused.value.problems
    assert "hashing.json: missing" in missing and "bag.safetensors: not as it was exported" in altered


def test_what_was_never_exported_is_refused(tmp_path, tiny_ngram):
    for place in (tmp_path, tmp_path / "nowhere", tiny_ngram.path):
        with pytest.raises(InputError, match="SHA256SUMS is missing"):
            load_deployed(place)


def test_a_list_without_the_deciding_files_is_refused(folder):
    sums = (folder / "SHA256SUMS").read_text().splitlines(keepends=True)
    (folder / "SHA256SUMS").write_text("".join(line for line in sums if "decisions.json" not in line))
    with pytest.raises(InputError, match="does not list decisions.json"):
        load_deployed(folder)
    (folder / "SHA256SUMS").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="SHA256SUMS is missing"):
        load_deployed(folder)


@pytest.mark.parametrize(
    "decisions",
    [
        Decisions(LABELS, (0.5, 0.5), "threat"),
        Decisions(LABELS, (0.5, 1.5, 0.5), "threat"),
        Decisions(LABELS, (0.5, float("nan"), 0.5), "threat"),
        Decisions(LABELS, (0.5, 0.5, 0.5), "spam"),
        Decisions(("bully", "threat", "sexual"), (0.5, 0.5, 0.5), "threat"),
    ],
)
def test_decisions_that_do_not_fit_the_model_are_refused(tiny_ngram, tmp_path, decisions):
    with pytest.raises(InputError, match="do not fit together|different labels"):
        load_deployed(written(tiny_ngram, tmp_path / "model", decisions))


def test_labels_of_any_script_survive(tiny_ngram, tmp_path):
    labels = ("হুমকি", 'a"b|c', "x")
    folder = tmp_path / "model"
    shutil.copytree(tiny_ngram.path, folder)
    facts = json.loads((folder / "deploy.json").read_text())
    (folder / "deploy.json").write_text(json.dumps({**facts, "labels": labels}))
    Decisions(labels, (0.1, 0.2, 0.3), "হুমকি").save(folder)
    write_sums(folder)
    assert load_deployed(folder).decisions == Decisions(labels, (0.1, 0.2, 0.3), "হুমকি")
