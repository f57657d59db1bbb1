"""What a machine is known to take: kept between measurements, of one model in one setting."""

import os
import tempfile

import numpy as np
import pytest

from evaluation.usual import name_of, remember, usual_times


@pytest.fixture
def node(tmp_path, monkeypatch):
    """A machine of our own, on which nothing was ever measured, with a model's folder."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "model").mkdir()
    return tmp_path


def test_the_shorter_times_are_kept_unless_the_machine_has_changed(node):
    name = name_of(node / "model", "a processor", ["x", "y"])
    assert usual_times(name) is None
    remember(name, np.array([2.0, 5.0]), changed=False)
    remember(name, np.array([3.0, 4.0]), changed=False)
    assert usual_times(name).tolist() == [2.0, 4.0]
    remember(name, np.array([9.0, 9.0]), changed=True)
    assert usual_times(name).tolist() == [9.0, 9.0]


def test_times_hold_for_one_model_on_one_machine_asked_the_same(node):
    folder = node / "model"
    name = name_of(folder, "a processor", ["x"])
    remember(name, np.array([1.0]), changed=False)
    others = [
        name_of(folder, "another", ["x"]),
        name_of(folder, "a processor", ["z"]),
        name_of(node, "a processor", "x"),
    ]
    os.utime(folder, (1, 1))
    others.append(name_of(folder, "a processor", ["x"]))
    assert len({name, *others}) == 5 and all(usual_times(other) is None for other in others)
    assert usual_times(name).tolist() == [1.0], "what is remembered of one is not lost with the others"


@pytest.mark.parametrize("damage", [b"", b"{", b"[1]", b"\xff\xfe"])
def test_a_damaged_memory_is_an_empty_one(node, damage):
    name = name_of(node / "model", "a processor", [])
    remember(name, np.array([1.0]), changed=False)
    (memory,) = node.glob("*.json")
    memory.write_bytes(damage)
    assert usual_times(name) is None
    remember(name, np.array([2.0]), changed=False)
    assert usual_times(name).tolist() == [2.0]
