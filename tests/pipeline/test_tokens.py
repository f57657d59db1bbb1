"""Tokens against plain Python lists, over random comments."""

import itertools
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import tokens as module
from pipeline.models import train_tokenizer
from pipeline.packed_texts import PackedTexts
from pipeline.tokens import Tokens, bucketed_batches, load_tokenizer, sorted_batches, tokenise

COMMENT = st.lists(st.integers(1, 2**31 - 1), max_size=12)
COMMENTS = st.lists(COMMENT, min_size=1, max_size=30)
LENGTHS = st.lists(st.integers(1, 60), max_size=400).map(lambda values: np.array(values, dtype=np.int64))
WORDS = ["তুমি", "খুব", "ভালো", "মানুষ", "নদী", "পাখি", "আকাশ", "hello", "WORLD", "123", "!"]


def tokens_of(comments):
    flat = [token for comment in comments for token in comment]
    return Tokens(np.array(flat, dtype=np.int32), np.cumsum([0, *map(len, comments)]))


@given(COMMENTS, st.data(), st.integers(0, 9))
def test_pad_fills_the_right_side_up_to_the_longest_of_the_rows(comments, data, pad_id):
    rows = data.draw(st.lists(st.integers(0, len(comments) - 1), min_size=1, max_size=10))
    ids, mask = tokens_of(comments).pad(np.array(rows), pad_id)
    longest = max(len(comments[row]) for row in rows)
    assert ids.tolist() == [comments[row] + [pad_id] * (longest - len(comments[row])) for row in rows]
    assert mask.tolist() == [[1] * len(comments[row]) + [0] * (longest - len(comments[row])) for row in rows]
    assert ids.dtype == mask.dtype == np.int64


@given(COMMENTS)
def test_lengths_and_count(comments):
    tokens = tokens_of(comments)
    assert len(tokens) == len(comments)
    assert tokens.lengths.tolist() == [len(comment) for comment in comments]


@given(LENGTHS, st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_bucketed_batches_hold_every_row_once(lengths, batch_size, seed):
    batches = bucketed_batches(lengths, batch_size, np.random.default_rng(seed))
    rows = [row for batch in batches for row in batch.tolist()]
    assert sorted(rows) == list(range(len(lengths)))
    budget = batch_size * np.mean(lengths) if len(lengths) else 0.0
    for batch in batches:
        assert len(batch) == 1 or len(batch) * lengths[batch].max() <= budget
    again = bucketed_batches(lengths, batch_size, np.random.default_rng(seed))
    assert [batch.tolist() for batch in again] == [batch.tolist() for batch in batches]


@given(LENGTHS, st.integers(8, 20), st.integers(0, 2**32 - 1))
def test_the_batches_of_a_bucket_are_neighbours_in_length_and_full(lengths, batch_size, seed):
    batches = bucketed_batches(lengths, batch_size, np.random.default_rng(seed))  # 400 comments make one bucket
    batches = sorted(batches, key=lambda batch: (lengths[batch].min(), lengths[batch].max()))
    budget = batch_size * np.mean(lengths) if len(lengths) else 0.0
    for batch, longer in itertools.pairwise(batches):
        assert lengths[batch].max() <= lengths[longer].min()
        assert (len(batch) + 1) * lengths[longer].min() > budget, "the next comment would have fitted"


def test_batches_come_in_random_order_and_differ_between_epochs():
    lengths = np.random.default_rng(0).integers(1, 60, 4000)
    generator = np.random.default_rng(1)
    first, second = (bucketed_batches(lengths, 16, generator) for _ in range(2))
    assert [batch.tolist() for batch in first] != [batch.tolist() for batch in second]
    means = np.array([lengths[batch].mean() for batch in first])
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.3
    padded = sum(len(batch) * lengths[batch].max() for batch in first)
    unsorted = sum(lengths[start : start + 16].max() * 16 for start in range(0, 4000, 16))
    assert padded < 1.1 * lengths.sum() < unsorted
    work = np.array([len(batch) * lengths[batch].max() for batch in first])
    assert np.median(work) > 0.9 * 16 * lengths.mean(), "equal work in every step"


@given(LENGTHS, st.integers(1, 9))
def test_sorted_batches_go_from_the_shortest_to_the_longest(lengths, batch_size):
    rows = [row for batch in sorted_batches(lengths, batch_size) for row in batch.tolist()]
    assert sorted(rows) == list(range(len(lengths)))
    assert lengths[rows].tolist() == sorted(lengths.tolist())


@given(LENGTHS, st.integers(1, 9), st.integers(1, 200))
def test_sorted_batches_within_a_budget_are_as_large_as_it_allows(lengths, batch_size, budget):
    order = np.argsort(lengths, kind="stable")
    batches = list(sorted_batches(lengths, batch_size, budget))
    assert [row for batch in batches for row in batch.tolist()] == order.tolist()
    taken = 0
    for batch in batches:
        taken += len(batch)
        assert 1 <= len(batch) <= batch_size
        assert len(batch) == 1 or len(batch) * lengths[batch].max() <= budget
        full = len(batch) == batch_size or taken == len(order)
        assert full or (len(batch) + 1) * lengths[order[taken]] > budget, "the next comment would have fitted"
    ample = batch_size * int(lengths.max(initial=0))
    plain = [order[start : start + batch_size].tolist() for start in range(0, len(order), batch_size)]
    assert [batch.tolist() for batch in sorted_batches(lengths, batch_size, ample)] == plain


@settings(max_examples=30)
@given(st.lists(COMMENT, max_size=9))
def test_saved_tokens_come_back(comments):
    tokens = tokens_of(comments)
    with tempfile.TemporaryDirectory() as folder:
        tokens.save(Path(folder), "train")
        loaded = Tokens.load(Path(folder), "train")
        assert loaded.ids.tolist() == tokens.ids.tolist() and loaded.offsets.tolist() == tokens.offsets.tolist()
        assert loaded.ids.dtype == np.int32 and not loaded.ids.flags.writeable
        if comments:
            rows = np.arange(len(comments))
            assert [one.tolist() for one in loaded.pad(rows, 0)] == [one.tolist() for one in tokens.pad(rows, 0)]


@pytest.fixture(scope="module")
def tokenizer_file(tmp_path_factory):
    file = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    tokenizer = train_tokenizer([" ".join(WORDS)] * 3, 200)
    tokenizer.enable_padding(length=64)  # files of the hub often come with padding and truncation switched on
    tokenizer.enable_truncation(3)
    tokenizer.save(str(file))
    return file


@settings(max_examples=50, deadline=None)
@given(
    texts=st.lists(st.lists(st.sampled_from(WORDS), max_size=9).map(" ".join), max_size=12), limit=st.integers(4, 12)
)
def test_tokenise_is_the_tokenizer_comment_by_comment_cut_at_the_limit(tokenizer_file, texts, limit):
    tokenizer = load_tokenizer(tokenizer_file, limit)
    tokens = tokenise(tokenizer, texts)
    assert len(tokens) == len(texts)
    whole = load_tokenizer(tokenizer_file, 512)
    for i, text in enumerate(texts):
        ids = tokens.ids[tokens.offsets[i] : tokens.offsets[i + 1]].tolist()
        full = whole.encode(text).ids
        # the separator at the end stays when a comment is cut
        assert ids == (full if len(full) <= limit else [*full[: limit - 1], full[-1]])


def test_comments_are_encoded_in_portions(tokenizer_file, monkeypatch):
    tokenizer = load_tokenizer(tokenizer_file, 20)
    texts = [" ".join(WORDS[: 1 + number % len(WORDS)]) for number in range(23)]
    whole = tokenise(tokenizer, texts)
    monkeypatch.setattr(module, "ENCODED_AT_ONCE", 5)
    parts = tokenise(tokenizer, PackedTexts.of(texts))
    assert parts.ids.tolist() == whole.ids.tolist() and parts.offsets.tolist() == whole.offsets.tolist()
