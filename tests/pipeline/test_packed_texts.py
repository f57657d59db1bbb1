"""Packed texts against the list that they were packed from."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import packed_texts
from pipeline.packed_texts import PackedTexts

TEXTS = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=9) | st.just("মন্তব্য ✓ 🎉"), max_size=20)
BOUNDS = st.none() | st.integers(-25, 25)


@given(TEXTS, BOUNDS, BOUNDS, st.none() | st.integers(-4, 4).filter(bool))
def test_every_way_of_reading_is_that_of_the_list(texts, start, stop, step):
    packed = PackedTexts.of(iter(texts))
    assert len(packed) == len(texts)
    assert list(packed) == texts
    assert [packed[i] for i in range(-len(texts), len(texts))] == texts + texts
    assert packed[start:stop:step] == texts[start:stop:step]
    assert [packed[row] for row in np.arange(len(texts))] == texts
    assert packed.encoded.tobytes() == "".join(texts).encode()
    assert PackedTexts.of(packed) is packed


@settings(max_examples=30)
@given(TEXTS)
def test_saved_texts_come_back(texts):
    with tempfile.TemporaryDirectory() as folder:
        PackedTexts.of(texts).save(Path(folder), "some")
        loaded = PackedTexts.load(Path(folder), "some")
        assert list(loaded) == texts
        loaded.save(Path(folder), "again")
        assert list(PackedTexts.load(Path(folder), "again")) == texts


def test_more_texts_than_are_decoded_at_once():
    texts = [f"নম্বর {number}" for number in range(2 * packed_texts._DECODED_AT_ONCE + 3)]
    packed = PackedTexts.of(texts)
    assert list(packed) == texts
    assert texts[-1] in packed and "x" not in packed


@pytest.mark.parametrize("row", [3, -4])
def test_outside_of_the_texts(row):
    with pytest.raises(IndexError, match=f"{row}: there are 3 texts"):
        PackedTexts.of(["a", "b", "c"])[row]


def test_only_whole_numbers_and_slices_are_places():
    with pytest.raises(TypeError):
        PackedTexts.of(["a"])[0.0]


def test_files_that_are_gone(tmp_path):
    PackedTexts.of(["a"]).save(tmp_path, "some")
    (tmp_path / "some_text_offsets.npy").unlink()
    with pytest.raises(FileNotFoundError, match="some_text_offsets"):
        PackedTexts.load(tmp_path, "some")
