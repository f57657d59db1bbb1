"""Mapped arrays against the arrays that were saved."""

import numpy as np
import pytest

from pipeline.arrays import map_array


@pytest.mark.parametrize("shape", [(5,), (4, 3), (0,), (0, 3)])
def test_a_mapped_array_is_the_saved_one_and_cannot_be_written_to(tmp_path, shape):
    saved = np.arange(np.prod(shape), dtype=np.int32).reshape(shape)
    np.save(tmp_path / "a.npy", saved)
    mapped = map_array(tmp_path / "a.npy")
    assert type(mapped) is np.ndarray and mapped.dtype == np.int32 and mapped.shape == shape
    np.testing.assert_array_equal(mapped, saved)
    with pytest.raises(ValueError, match="read-only"):
        mapped[...] = 1


def test_it_is_the_file_and_no_copy(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros(4, dtype=np.uint8))
    mapped = map_array(tmp_path / "a.npy")
    with (tmp_path / "a.npy").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x07")
    assert mapped.tolist() == [0, 0, 0, 7]


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"PAR1 torn", b"cut"])
def test_a_torn_file_is_named(tmp_path, content):
    file = tmp_path / "a.npy"
    np.save(file, np.arange(1000))
    file.write_bytes(file.read_bytes()[:-1] if content == b"cut" else content)
    with pytest.raises(OSError, match=r"a\.npy: not a whole array"):
        map_array(file)


def test_objects_are_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(OSError, match="not a whole array"):
        map_array(tmp_path / "a.npy")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.npy"):
        map_array(tmp_path / "gone.npy")
