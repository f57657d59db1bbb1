"""What a store of someone else's making may not do: run code, write outside, or pass for what it is not."""

import io
import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.arrays import map_array
from pipeline.manifest import SEAL, DamagedArtifact, facts_of_files, read_manifest, sealed
from pipeline.runtime import EagerClassifier, load_classifier

KEY = "k" * 64
MANIFEST_FIELDS: dict[str, Any] = {"stage": "toy", "parents": [], "config": {}, "notes": {"size": {"mb": 1.5}}}


class Bomb:
    """What a hostile pickle does when it is loaded."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self):
        return os.mkdir, (str(self.canary),)


def test_any_flipped_byte_of_a_manifest_is_noticed(tmp_path):
    (tmp_path / "weights.npy").write_bytes(b"weights")
    text = sealed({**MANIFEST_FIELDS, "key": KEY, "seconds": 12.5, "files": facts_of_files(tmp_path)})
    content = text.encode()
    assert read_manifest(content, KEY, "here")["seconds"] == 12.5
    unnoticed = []
    for place in range(len(content)):
        flipped = bytearray(content)
        flipped[place] ^= 1 << (place % 7)
        try:
            found = read_manifest(bytes(flipped), KEY, "here")
        except DamagedArtifact:
            continue
        unnoticed.append(found)
    # White space between the fields may become other white space.
    assert all({**one, SEAL: None} == {**json.loads(text), SEAL: None} for one in unnoticed)


@pytest.mark.parametrize("name", ["weights.pkl", "weights.pt", "pytorch_model.bin", "sub/model.PICKLE", "setup.py"])
def test_files_that_run_code_are_refused_whatever_their_digest(tmp_path, name):
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(pickle.dumps(Bomb(tmp_path / "canary")))
    text = sealed({**MANIFEST_FIELDS, "key": KEY, "seconds": 1.0, "files": facts_of_files(tmp_path)})
    with pytest.raises(DamagedArtifact, match="may run code"):
        read_manifest(text.encode(), KEY, "here")


def pickled(canary: Path) -> bytes:
    return pickle.dumps(Bomb(canary))


def pickled_array(canary: Path) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.array([Bomb(canary)], dtype=object), allow_pickle=True)
    return stream.getvalue()


def pickled_archive(canary: Path) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, allow_pickle=True, coefficients=np.array([Bomb(canary)], dtype=object))
    return stream.getvalue()


@pytest.mark.parametrize("content", [pickled, pickled_array, pickled_archive])
@pytest.mark.parametrize(
    ("fixture", "file", "load"),
    [
        ("tiny_teacher", "model.onnx", load_classifier),
        ("tiny_teacher", "model.safetensors", EagerClassifier),
        ("tiny_ngram", "bag.safetensors", load_classifier),
        ("tiny_classical", "coefficients.npz", load_classifier),
    ],
)
def test_a_pickle_under_the_name_of_weights_is_not_run(request, tmp_path, fixture, file, load, content):
    folder = shutil.copytree(request.getfixturevalue(fixture).path, tmp_path / "model")
    canary = tmp_path / "canary"
    assert load(folder).predict_logits(["ক"]).shape[0] == 1
    assert (folder / file).is_file()
    (folder / file).write_bytes(content(canary))
    with pytest.raises(Exception):  # noqa: B017, PT011  (each library has its own)
        load(folder).predict_logits(["ক"])
    assert not canary.exists()


@pytest.mark.parametrize("content", [pickled, pickled_array])
def test_pickled_comments_and_logits_are_not_read(tmp_path, content):
    (tmp_path / "array.npy").write_bytes(content(tmp_path / "canary"))
    with pytest.raises(OSError, match="not a whole array"):
        map_array(tmp_path / "array.npy")
    with pytest.raises(ValueError, match="allow_pickle"):
        np.load(tmp_path / "array.npy", allow_pickle=False)
    assert not (tmp_path / "canary").exists()


def test_the_pickles_of_these_tests_do_act(tmp_path):
    pickle.loads(pickled(tmp_path / "canary"))
    assert (tmp_path / "canary").is_dir()
