from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from pandas.testing import assert_frame_equal
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score

from pipeline.sample import NOTICE, SAMPLE_LABELS, generate_comments, write_sample

LABELS = list(SAMPLE_LABELS)


@pytest.fixture(scope="module")
def sample() -> pd.DataFrame:
    return generate_comments(6000, seed=0)


def test_columns_and_types(sample: pd.DataFrame) -> None:
    assert sample.columns.tolist() == ["comment", "bully", "sexual", "religious", "threat", "spam"]
    assert sample.index.equals(pd.RangeIndex(6000))
    assert all(sample[label].dtype == np.int8 for label in LABELS)
    assert set(np.unique(sample[LABELS])) == {0, 1}
    assert all(isinstance(comment, str) and comment == comment.strip() != "" for comment in sample["comment"])


def test_same_seed_same_rows_and_another_seed_other_rows(sample: pd.DataFrame) -> None:
    assert_frame_equal(generate_comments(6000, seed=0), sample)
    assert (generate_comments(6000, seed=1)["comment"] == sample["comment"]).mean() < 0.01


@pytest.mark.parametrize("sizes", [[100], [1, 99], [33, 0, 34, 33], [1023, 1, 1, 1024, 2500]])
def test_chunks_make_up_the_whole(sample: pd.DataFrame, sizes: list[int]) -> None:
    starts = np.cumsum(sizes) - sizes
    chunks = [generate_comments(size, seed=0, start=int(start)) for size, start in zip(sizes, starts, strict=True)]
    assert [len(chunk) for chunk in chunks] == sizes
    assert_frame_equal(pd.concat(chunks, ignore_index=True), sample.head(sum(sizes)))


def test_a_chunk_far_away_needs_nothing_before_it() -> None:
    far = generate_comments(10, seed=0, start=10**12)
    assert_frame_equal(far.iloc[3:].reset_index(drop=True), generate_comments(7, seed=0, start=10**12 + 3))


@pytest.mark.parametrize("setting", ["rows", "seed", "start"])
def test_negative_settings_are_refused_by_name(setting: str) -> None:
    with pytest.raises(ValueError, match=f"{setting}=-1: must be 0 or more"):
        generate_comments(**({"rows": 1, "seed": 0, "start": 0} | {setting: -1}))


def test_label_rates_and_co_occurrence(sample: pd.DataFrame) -> None:
    expected = {"bully": 0.50, "sexual": 0.16, "religious": 0.14, "threat": 0.15, "spam": 0.10}
    for label, rate in expected.items():
        assert sample[label].mean() == pytest.approx(rate, abs=0.02), label
    together = sample[LABELS].sum(axis=1)
    assert 0.2 < (together == 0).mean() < 0.4
    assert 0.2 < (together > 1).mean() < 0.4
    pairs = sample[LABELS].to_numpy(dtype=np.int64)
    assert (pairs.T @ pairs > 0).all(), "every two labels occur together"
    threat_if_bully = sample.groupby("bully")["threat"].mean()
    assert threat_if_bully[1] > 1.5 * threat_if_bully[0]


def test_comments_are_bangla_of_realistic_length_with_few_repeats(sample: pd.DataFrame) -> None:
    letters = sample["comment"].str.replace(r"\s", "", regex=True)
    bangla = letters.str.count("[\u0980-\u09ff]").sum() / letters.str.len().sum()
    assert bangla > 0.9
    words = sample["comment"].str.split().str.len()
    assert 9 < words.mean() < 14
    assert words.mean() > words.median() and words.max() > 3 * words.median()
    assert 0.005 < sample["comment"].duplicated().mean() < 0.03


def test_words_are_misspelt(sample: pd.DataFrame) -> None:
    counts = sample["comment"].str.split().explode().value_counts()
    assert len(counts) > 800
    assert 0.02 < counts[counts < 30].sum() / counts.sum() < 0.2


def test_words_alone_fall_short_of_words_crossed_with_tone(sample: pd.DataFrame) -> None:
    train, test = slice(0, 4500), slice(4500, None)
    vectorizers = (TfidfVectorizer(token_pattern=r"\S+", sublinear_tf=True, min_df=2), _CrossedWithTone())
    by_words, by_words_and_tone = (
        _macro_f1(vectorizer.fit_transform(sample["comment"]), sample[LABELS].to_numpy(), train, test)
        for vectorizer in vectorizers
    )
    assert 0.5 < by_words < 0.75
    assert by_words_and_tone > by_words + 0.1


class _CrossedWithTone:
    """An oracle that is told of the interaction: counts words apart in wry and in earnest comments."""

    def fit_transform(self, comments: pd.Series):  # type: ignore[no-untyped-def,type-arg]
        wry = comments.str.contains("বাহ|আহা|সাবাস|[\U0001f602\U0001f61c\U0001f923]")
        crossed = [" ".join(f"{word}{int(w)}" for word in c.split()) for c, w in zip(comments, wry, strict=True)]
        return CountVectorizer(token_pattern=r"\S+", min_df=2, binary=True).fit_transform(crossed)


def _macro_f1(features, labels, train: slice, test: slice) -> float:  # type: ignore[no-untyped-def]
    """Mean F1 of the positive class of one logistic regression a label, at threshold 0.35."""
    scores = []
    for label in labels.T:
        model = LogisticRegression(C=4, solver="liblinear").fit(features[train], label[train])
        scores.append(f1_score(label[test], model.predict_proba(features[test])[:, 1] >= 0.35))
    return float(np.mean(scores))


@pytest.mark.parametrize("rows, block_rows", [(2500, 1000), (100, 50_000), (0, 10)])
def test_parquet_equals_generated(tmp_path: Path, rows: int, block_rows: int) -> None:
    path = tmp_path / "sample.parquet"
    write_sample(path, rows, seed=3, block_rows=block_rows)
    assert_frame_equal(pd.read_parquet(path), generate_comments(rows, seed=3), check_dtype=rows > 0)
    file = pq.ParquetFile(path)
    assert file.num_row_groups == -(-rows // block_rows)
    assert file.schema_arrow.metadata[b"notice"].decode() == NOTICE
    assert "synthetic" in NOTICE
    assert list(tmp_path.iterdir()) == [path]


def test_a_refused_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "sample.parquet"
    path.write_bytes(b"old")
    with pytest.raises(ValueError, match="block_rows=0: must be 1 or more"):
        write_sample(path, 10, seed=0, block_rows=0)
    assert path.read_bytes() == b"old"
