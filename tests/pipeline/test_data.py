"""Reading, checking, deduplicating and splitting, against files made here and properties that must hold for any."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import pickle
import struct
import subprocess
import sys
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import DataConfig
from pipeline.data import (
    Data,
    InputError,
    Split,
    deduplicate,
    fingerprint,
    folds,
    load_data,
    normalise,
    prepare,
    read_comments,
    split,
)
from pipeline.splitting import deal

WRITERS: dict[str, Callable[[pd.DataFrame, Path], None]] = {
    "csv": lambda frame, path: frame.to_csv(path, index=False),
    "parquet": lambda frame, path: frame.to_parquet(path, index=False),
}


def comments(rows: int = 120) -> pd.DataFrame:
    """Different texts; `bully` on every second one, `threat` on every fourth."""
    numbers = np.arange(rows)
    return pd.DataFrame(
        {
            "comment": [f"মন্তব্য নম্বর {number}" for number in numbers],
            "bully": (numbers % 2).astype(np.int8),
            "threat": (numbers % 4 == 0).astype(np.int8),
        }
    )


def config_for(path: Path, **changes: object) -> DataConfig:
    return DataConfig.model_validate({"path": str(path), "label_columns": ("bully", "threat")} | changes)


def problems_of(config: DataConfig, folds: int = 0) -> list[str]:
    with pytest.raises(InputError) as caught:
        prepare(config, folds)
    assert str(caught.value) == "\n".join(caught.value.problems)
    return caught.value.problems


def write(folder: Path, content: str | bytes, name: str = "comments.csv") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


GOOD_ROWS = "ভালো,0,1\nমন্দ,1,0\n"
HEADER = "comment,bully,threat\n"


# Reading


@pytest.mark.parametrize("kind", WRITERS)
def test_reads_what_was_written(tmp_path: Path, kind: str) -> None:
    frame = comments()
    frame.loc[:4, "comment"] = ["NA", "null", 'say "no", twice', "two\nlines", " nan "]
    path = tmp_path / f"comments.{kind}"
    WRITERS[kind](frame.assign(other="x"), path)
    read = read_comments(config_for(path))
    assert read["comment"].tolist() == frame["comment"].tolist()
    assert read.columns.tolist() == ["comment", "bully", "threat"]
    assert read["bully"].dtype == read["threat"].dtype == np.int8
    np.testing.assert_array_equal(read[["bully", "threat"]], frame[["bully", "threat"]])


@pytest.mark.parametrize("name, separator, written", [("c.csv", ";", ";"), ("c.tsv", ",", "\t"), ("c.CSV", "|", "|")])
def test_separators(tmp_path: Path, name: str, separator: str, written: str) -> None:
    path = write(tmp_path, (HEADER + GOOD_ROWS).replace(",", written), name)
    assert read_comments(config_for(path, separator=separator))["comment"].tolist() == ["ভালো", "মন্দ"]


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_byte_order_mark_blank_lines_and_line_ends(tmp_path: Path, newline: str) -> None:
    content = "\ufeff" + HEADER + "\n" + GOOD_ROWS + ",,\n\n"
    path = write(tmp_path, content.replace("\n", newline))
    assert read_comments(config_for(path))["comment"].tolist() == ["ভালো", "মন্দ"]


@pytest.mark.parametrize("length", [131_073, 2**20])
def test_a_text_may_be_as_long_as_one_that_is_answered(tmp_path: Path, length: int) -> None:
    path = write(tmp_path, HEADER + GOOD_ROWS + f'"{"ক" * (length - 1)},",1,0\n')
    assert [len(text) for text in read_comments(config_for(path))["comment"]] == [4, 4, length]


@pytest.mark.parametrize("written", [["0", "1"], ["0.0", "1.0"], ["False", "TRUE"], [" 0", "1 "]])
def test_labels_in_a_csv_file(tmp_path: Path, written: list[str]) -> None:
    path = write(tmp_path, f"{HEADER}a,{written[0]},1\nb,{written[1]},0\n")
    assert read_comments(config_for(path))["bully"].tolist() == [0, 1]


@pytest.mark.parametrize(
    "column",
    [
        pa.array([0, 1], pa.uint8()),
        pa.array([0.0, 1.0]),
        pa.array([False, True]),
        pa.array(["0", "1"]),
        pa.array([0, 1]).dictionary_encode(),
    ],
    ids=str,
)
def test_labels_in_a_parquet_file(tmp_path: Path, column: pa.Array) -> None:
    texts = pa.array(["a", "b"]).dictionary_encode()
    pq.write_table(pa.table({"comment": texts, "bully": column, "threat": [1, 0]}), tmp_path / "c.parquet")
    assert read_comments(config_for(tmp_path / "c.parquet"))["bully"].tolist() == [0, 1]


@pytest.mark.parametrize("kind", WRITERS)
def test_labels_of_any_name(tmp_path: Path, kind: str) -> None:
    names = ["50%_off & more", "hate speech", "a.b", "a", "text", 'quo"ted, name']
    numbers = np.arange(160)
    frame = pd.DataFrame({name: numbers % (index + 2) == 0 for index, name in enumerate(names)})
    frame["comment.text"] = [f"text {number}" for number in numbers]
    path = tmp_path / f"comments.{kind}"
    WRITERS[kind](frame, path)
    data = prepare(config_for(path, text_column="comment.text", label_columns=tuple(names)))
    assert data.report["splits"]["train"]["positives"].keys() == set(names)
    data.save(tmp_path / "saved")
    assert load_data(tmp_path / "saved").label_columns == tuple(names)


def test_max_rows_draws_with_the_seed(tmp_path: Path) -> None:
    comments(200).to_csv(tmp_path / "c.csv", index=False)
    first, again, other = (
        read_comments(config_for(tmp_path / "c.csv", max_rows=60, seed=seed))["comment"].tolist() for seed in (1, 1, 2)
    )
    assert first == again != other
    assert len(first) == 60
    order = {text: index for index, text in enumerate(comments(200)["comment"])}
    assert [order[text] for text in first] == sorted(order[text] for text in first)


def test_embedded_sample() -> None:
    config = DataConfig(sample_rows=1500, label_columns=("threat", "bully"))
    data = prepare(config)
    assert data.label_columns == ("threat", "bully")
    assert data.report["synthetic"] is True
    assert data.report["notice"]
    assert data.fingerprint == prepare(config).fingerprint
    problems = problems_of(DataConfig(label_columns=("thret", "bully"), text_column="txt"))
    assert problems == [
        "data.text_column='txt': no such column in the embedded sample "
        "(has: comment, bully, sexual, religious, threat, spam)",
        "data.label_columns='thret': no such column in the embedded sample "
        "(has: comment, bully, sexual, religious, threat, spam); did you mean 'threat'?",
    ]


# Bad input

BAD_CSV = {
    "empty file": (b"", ["data.path=", "empty file", "header and rows"]),
    "blank file": (b"\n\n", ["data.path=", "empty file", "header and rows"]),
    "header only": (HEADER, ["data.path=", "no rows", "add comments"]),
    "latin-1": ((HEADER + "caf\xe9,0,1\n").encode("latin-1"), ["byte offset 24", "line 2", "0xe9", "iconv -f"]),
    "utf-16": ((HEADER + GOOD_ROWS).encode("utf-16"), ["UTF-16", "`iconv -f UTF-16 -t UTF-8 comments.csv > "]),
    "utf-16 without mark": ((HEADER + "a,0,1\n").encode("utf-16-le"), ["UTF-16LE", "iconv -f UTF-16LE -t UTF-8"]),
    "utf-32": ((HEADER + GOOD_ROWS).encode("utf-32"), ["UTF-32", "iconv -f UTF-32 -t UTF-8"]),
    "NUL byte": (HEADER + "a\0,0,1\nb,1,0\n", ["NUL bytes", "line 2", "byte offset 22", "tr -d '\\000'"]),
    "semicolons": ((HEADER + GOOD_ROWS).replace(",", ";"), ["looks separated by ';': set data.separator=';'"]),
    "tabs": ((HEADER + GOOD_ROWS).replace(",", "\t"), ["looks separated by '\\t': set data.separator='\\t'"]),
    "no text column": (
        HEADER.replace("comment", "comments") + GOOD_ROWS,
        ["data.text_column='comment': no such column in comments.csv (has: comments, bully, threat)", "'comments'?"],
    ),
    "no label column": (
        HEADER.replace("threat", "Threat") + GOOD_ROWS,
        ["data.label_columns='threat'", "has: comment, bully, Threat", "did you mean 'Threat'?"],
    ),
    "column twice": ("comment,bully,threat,bully\na,0,1,0\nb,1,0,1\n", ["'bully'", "2 columns", "rename or remove"]),
    "label values": (
        HEADER + '"two\nlines",0,1\na,yes,1\nb,2,0\nc,-1,0\nd,yes,0\ne,nan,0\n',
        [
            "data.label_columns='bully'",
            "5 values",
            "('yes' in line 4, '2' in line 5, '-1' in line 6, …)",
            "write 0 or 1",
        ],
    ),
    "label missing": (HEADER + "a,,1\nb,1,0\nc,0,0\n", ["'bully'", "1 missing value", "(line 2)", "remove those rows"]),
    "empty texts": (
        HEADER + ",0,1\nb,1,0\n \t,0,0\nc,0,0\n\u200b\u200d,1,0\n\u00a0,1,0\n",
        ["data.text_column='comment'", "4 empty texts", "(lines 2, 4, 6, …)", "remove those rows"],
    ),
    "unquoted comma": (HEADER + GOOD_ROWS + "well, no,1,0\n", ["1 row", "than the 3 of the header (line 4)", 'in "…"']),
    "row cut short": (HEADER + "a,0,1\nb,0,0\nc,1\n", ["1 row", "(line 4)", "mend the rows"]),
    "quote left open": (
        HEADER + GOOD_ROWS + '"open,1,0\nb,0,1\n',
        ["malformed row in line 4", "double each quotation"],
    ),
    "quote left open in the header": ('"' + HEADER + GOOD_ROWS, ["malformed row in line 1", "double each quotation"]),
    "text after quote": (HEADER + GOOD_ROWS + '"well" no,1,0\n', ["malformed row in line 4", "double each quotation"]),
    "quote left open before much more": (
        HEADER + GOOD_ROWS + '"open,1,0\n' + "b,0,1\n" * 400_000,
        ["malformed row in line 4", "(2097152)", "close its quotation mark"],
    ),
    "no positives": (HEADER + "a,0,0\nb,1,0\n", ["'threat'", "no positives", "take the label out of the list"]),
    "no negatives": (HEADER + "a,0,1\nb,1,1\n", ["'threat'", "no negatives", "take the label out of the list"]),
}


@pytest.mark.parametrize("fault", BAD_CSV)
def test_bad_csv_file(tmp_path: Path, fault: str) -> None:
    content, expected = BAD_CSV[fault]
    problems = problems_of(config_for(write(tmp_path, content)))
    assert len(problems) == 1, problems
    for part in ["comments.csv", "data.", *expected]:
        assert part in problems[0]


def parquet_bytes(columns: dict[str, object]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue().to_pybytes()


BROKEN_UTF8 = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(np.int32([0, 1])), pa.py_buffer(b"\xff")])
BAD_PARQUET = {
    "not parquet": (b"comment,bully,threat", ["not a whole Parquet file", "write or copy it again"]),
    "cut off": (parquet_bytes({"comment": ["a"], "bully": [0], "threat": [1]})[:-20], ["not a whole Parquet file"]),
    "broken text": (parquet_bytes({"comment": BROKEN_UTF8, "bully": [0], "threat": [1]}), ["UTF8", "write or copy"]),
    "no rows": (parquet_bytes({"comment": pa.array([], pa.string()), "bully": [], "threat": []}), ["no rows"]),
    "no such columns": (parquet_bytes({"comment": ["a", "b"], "threat": [1, 0]}), ["'bully'", "has: comment, threat"]),
    "number texts": (
        parquet_bytes({"comment": [1, 2], "bully": [0, 1], "threat": [1, 0]}),
        ["data.text_column='comment'", "int64", "not strings", "convert"],
    ),
    "null text": (
        parquet_bytes({"comment": ["a", None, "c"], "bully": [0, 1, 0], "threat": [1, 0, 0]}),
        ["data.text_column='comment'", "1 empty text", "(row 2)", "remove those rows"],
    ),
    "NUL character": (
        parquet_bytes({"comment": ["a", "b\0"], "bully": [0, 1], "threat": [1, 0]}),
        ["1 text with NUL characters", "(row 2)", "remove the characters"],
    ),
    "fractions": (
        parquet_bytes({"comment": ["a", "b", "c"], "bully": [0.5, 1.0, 0.0], "threat": [1, 0, 0]}),
        ["data.label_columns='bully'", "1 value", "(0.5 in row 1)", "write 0 or 1"],
    ),
    "null label": (
        parquet_bytes({"comment": ["a", "b", "c"], "bully": [None, 1, 0], "threat": [1, 0, 0]}),
        ["data.label_columns='bully'", "1 missing value", "(row 1)"],
    ),
    "list label": (
        parquet_bytes({"comment": ["a", "b"], "bully": [[0], [1]], "threat": [1, 0]}),
        ["data.label_columns='bully'", "list<", "integers"],
    ),
}


@pytest.mark.parametrize("fault", BAD_PARQUET)
def test_bad_parquet_file(tmp_path: Path, fault: str) -> None:
    content, expected = BAD_PARQUET[fault]
    problems = problems_of(config_for(write(tmp_path, content, "comments.parquet")))
    assert len(problems) == 1, problems
    for part in ["comments.parquet", "data.", *expected]:
        assert part in problems[0]


def test_bad_paths(tmp_path: Path) -> None:
    write(tmp_path, HEADER + GOOD_ROWS)
    (missing,) = problems_of(config_for(tmp_path / "coments.csv"))
    assert missing.startswith("data.path=") and "no such file" in missing and "did you mean 'comments.csv'?" in missing
    (nowhere,) = problems_of(config_for(tmp_path / "no" / "thing.csv"))
    assert "no such file" in nowhere and "'embedded'" in nowhere
    (folder,) = problems_of(config_for(tmp_path))
    assert "is a folder; name one file in it (has: comments.csv)" in folder
    (suffix,) = problems_of(config_for(write(tmp_path, "x", "comments.xlsx")))
    assert "unsupported suffix '.xlsx'" in suffix and ".csv, .tsv, .parquet" in suffix
    (renamed,) = problems_of(config_for(write(tmp_path, HEADER + GOOD_ROWS, "comma.tsv")))
    assert "looks separated by ','" in renamed and "rename it to .csv" in renamed
    (long,) = problems_of(config_for(tmp_path / ("x" * 300 + ".csv")))
    assert "cannot be read" in long


def test_contradictory_config(tmp_path: Path) -> None:
    path = write(tmp_path, HEADER + GOOD_ROWS)
    (both,) = problems_of(config_for(path, text_column="bully"))
    assert "data.text_column='bully'" in both and "data.label_columns" in both
    (twice,) = problems_of(config_for(path, label_columns=("bully", "bully", "threat")))
    assert twice == "data.label_columns='bully': listed 2 times; list it once"
    (separator,) = problems_of(config_for(path, separator='"'))
    assert separator.startswith("data.separator='\"'") and "';'" in separator


@pytest.mark.parametrize("name", ["<svg onload=alert(1)>", "threat>", "a < b"])
def test_a_label_that_is_markup_is_refused(tmp_path: Path, name: str) -> None:
    problems = problems_of(config_for(write(tmp_path, HEADER + GOOD_ROWS), label_columns=("bully", name)))
    what = "holds '<' or '>', which would be markup in a page; rename the column"
    assert problems[0] == f"data.label_columns={name!r}: {what}"


@pytest.mark.parametrize("name", ["50%_off & more", "হুমকি", "ক্\u200cষ", 'say "no"', "hate speech"])
def test_a_label_may_be_any_words(tmp_path: Path, name: str) -> None:
    path = tmp_path / "comments.csv"
    comments().rename(columns={"bully": name}).to_csv(path, index=False)
    data = prepare(config_for(path, label_columns=(name,)))
    assert data.label_columns == (name,)


def test_all_problems_at_once(tmp_path: Path) -> None:
    path = write(tmp_path, "comment,bully,treat\n,0,1\nb,maybe,0\nc,,0\nd,1\n")
    problems = problems_of(config_for(path, label_columns=("bully", "threat", "spam")))
    found = ["'threat'", "'spam'", "fields", "empty text", "'maybe'", "missing value"]
    assert all(sum(part in problem for problem in problems) == 1 for part in found), problems
    assert len(problems) == len(found)


def test_too_few_positives_counts_texts_not_rows(tmp_path: Path) -> None:
    frame = comments()
    frame["threat"] = 0
    frame.loc[:13, ["comment", "threat"]] = ["copied threat", 1]
    frame.to_csv(tmp_path / "c.csv", index=False)
    (problem,) = problems_of(config_for(tmp_path / "c.csv"))
    for part in ["data.label_columns='threat'", "1 different positive text", "c.csv", "give more data", "about 15"]:
        assert part in problem


def test_too_few_positives_for_the_folds(tmp_path: Path) -> None:
    comments(100).to_csv(tmp_path / "c.csv", index=False)
    config = config_for(tmp_path / "c.csv")
    prepare(config, folds=5)
    (problem,) = problems_of(config, folds=6)
    assert "train 15 of at least 18" in problem and "lower teacher.folds=6" in problem


def test_input_error_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(InputError(["one", "two"])))
    assert error.problems == ["one", "two"]
    assert str(error) == "one\ntwo"


# Deduplicating


@settings(deadline=None)
@given(st.text(max_size=30))
def test_normalise_is_idempotent_and_blind_to_form(text: str) -> None:
    key = normalise(text)
    assert normalise(key) == key
    for variant in (unicodedata.normalize("NFD", text), f" {text}\n", "\u200b" + text, "\u200d".join(text)):
        assert normalise(variant) == key


def test_normalise_examples() -> None:
    assert normalise("  Straße\u00a0\tIS\n ") == normalise("STRASSE is") == "strasse is"
    assert normalise("র\u200d্যাব") == normalise("র্যাব")
    assert normalise("কি") != normalise("কী")
    assert normalise("bad!") != normalise("bad")


def test_majority_decides_and_ties_count_as_one() -> None:
    rows = [
        (" First ", 1, 0),
        ("other", 0, 0),
        ("first", 1, 1),
        ("FIRST", 0, 0),
        ("tie", 0, 1),
        ("tie\u200b", 1, 1),
    ]
    frame = pd.DataFrame(rows, columns=["comment", "bully", "threat"])
    kept, report = deduplicate(frame, DataConfig(label_columns=("bully", "threat")))
    assert kept.to_numpy().tolist() == [["First", 1, 0], ["other", 0, 0], ["tie", 1, 1]]
    assert kept["bully"].dtype == np.int8
    assert (report.rows, report.texts, report.duplicate_rows, report.conflicting_texts) == (6, 3, 3, 2)
    assert report.conflicts_per_label == {"bully": 2, "threat": 1}


label_tables = st.integers(1, 4).flatmap(
    lambda width: st.lists(st.lists(st.integers(0, 1), min_size=width, max_size=width), min_size=1, max_size=120)
)


@settings(deadline=None)
@given(label_tables, st.lists(st.sampled_from(["a", "A ", "b", "b\u200c", "c", "ক", "খ"]), min_size=120, max_size=120))
def test_deduplicate_against_counting(rows: list[list[int]], texts: list[str]) -> None:
    names = tuple(f"label {index}" for index in range(len(rows[0])))
    frame = pd.DataFrame(rows, columns=names).astype(np.int8)
    frame["comment"] = texts[: len(rows)]
    kept, report = deduplicate(frame, DataConfig(label_columns=names))
    expected: dict[str, list[list[int]]] = {}
    for text, row in zip(texts, rows, strict=False):
        expected.setdefault(text.strip("\u200c ").lower(), []).append(row)
    assert [normalise(text) for text in kept["comment"]] == list(expected)
    for row, group in zip(kept[list(names)].to_numpy(), expected.values(), strict=True):
        assert row.tolist() == [int(2 * sum(column) >= len(group)) for column in zip(*group, strict=True)]
    assert report.conflicting_texts == sum(len(set(map(tuple, group))) > 1 for group in expected.values())


# Splitting


@st.composite
def label_matrices(draw: st.DrawFn) -> np.ndarray:
    """Labels of any share, correlated or not: up to 300 rows of up to 6 labels."""
    rows, labels = draw(st.integers(2, 300)), draw(st.integers(1, 6))
    shares = draw(st.lists(st.floats(0, 1), min_size=labels, max_size=labels))
    generator = np.random.default_rng(draw(st.integers(0, 10_000)))
    drawn = generator.random((rows, 1 if draw(st.booleans()) else labels))
    return (drawn < np.array(shares)).astype(np.int8)


@settings(deadline=None)
@given(label_matrices(), st.integers(0, 99), st.sampled_from([(0.2, 0.2), (0.1, 0.1), (0.15, 0.3), (0.49, 0.49)]))
def test_split_is_a_partition_with_the_labels_shares(labels: np.ndarray, seed: int, held: tuple[float, float]) -> None:
    names = tuple(f"label {index}" for index in range(labels.shape[1]))
    config = DataConfig(label_columns=names, seed=seed, validation_fraction=held[0], test_fraction=held[1])
    frame = pd.DataFrame(labels, columns=names)
    positions = split(frame, config)
    assert list(positions) == ["train", "validation", "test"]
    np.testing.assert_array_equal(np.sort(np.concatenate(list(positions.values()))), np.arange(len(labels)))
    for share, rows in zip((1 - sum(held), *held), positions.values(), strict=True):
        assert (np.diff(rows) > 0).all()
        assert np.abs(labels[rows].sum(axis=0) - share * labels.sum(axis=0)).max() <= 4
        assert abs(len(rows) - share * len(labels)) <= 4
    again = split(frame, config)
    assert all(np.array_equal(rows, again[name]) for name, rows in positions.items())


@settings(deadline=None)
@given(st.integers(1, 400), st.floats(0, 1), st.integers(0, 99))
def test_one_label_is_split_to_the_row(rows: int, share: float, seed: int) -> None:
    labels = (np.random.default_rng(seed).random((rows, 1)) < share).astype(np.int8)
    part = deal(labels, [0.6, 0.2, 0.2], seed)
    for index, wanted in enumerate([0.6, 0.2, 0.2]):
        assert abs(labels[part == index].sum() - wanted * labels.sum()) <= 1.5


@settings(deadline=None)
@given(label_matrices(), st.integers(2, 10), st.integers(0, 99))
def test_folds_validate_every_row_once(labels: np.ndarray, k: int, seed: int) -> None:
    if k > len(labels):
        with pytest.raises(ValueError, match=f"k={k}"):
            folds(labels, k, seed)
        return
    pairs = folds(labels, k, seed)
    assert len(pairs) == k
    assert Counter(np.concatenate([validation for _, validation in pairs]).tolist()) == Counter(range(len(labels)))
    for train, validation in pairs:
        np.testing.assert_array_equal(np.sort(np.concatenate([train, validation])), np.arange(len(labels)))
        assert np.abs(labels[validation].sum(axis=0) - labels.sum(axis=0) / k).max() <= 3


def test_labels_that_often_stand_together_are_dealt_evenly() -> None:
    wanted = np.array([0.6, 0.2, 0.2])
    worst = []
    for seed in range(30):
        labels = (np.random.default_rng(seed).random((300, 8)) < 0.3).astype(np.int8)
        part = deal(labels, wanted, seed)
        counts = np.array([labels[part == index].sum(axis=0) for index in range(3)])
        worst.append(np.abs(counts - wanted[:, None] * labels.sum(axis=0)).max())
    assert np.mean(worst) <= 1.5  # of about 90 positives; a plain random split is off by 8


def test_the_seed_decides_the_split() -> None:
    labels = comments()[["bully", "threat"]].to_numpy()
    first, again, other = (deal(labels, [0.5, 0.5], seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.integers(150, 400), st.integers(5, 60))
def test_no_text_stands_in_two_splits(seed: int, rows: int, copies: int) -> None:
    generator = np.random.default_rng(seed)
    frame = comments(rows)
    copied = frame.iloc[generator.integers(0, rows, copies)].copy()
    copied["comment"] = [" " + text.replace(" ", "\u200c\n") for text in copied["comment"]]
    frame = pd.concat([frame, copied]).sample(frac=1, random_state=seed)
    with tempfile.TemporaryDirectory() as folder:
        frame.to_csv(Path(folder, "c.csv"), index=False)
        data = prepare(config_for(Path(folder, "c.csv"), seed=seed))
    keys = [{normalise(text) for text in part.texts} for part in data.splits.values()]
    assert all(one.isdisjoint(other) for one, other in itertools.combinations(keys, 2))
    assert set.union(*keys) == {normalise(text) for text in frame["comment"]}
    assert sum(map(len, data.splits.values())) == rows == data.report["rows_used"]
    assert (data.report["rows_read"], data.report["duplicate_rows"]) == (rows + copies, copies)


# Data


def prepared(folder: Path, frame: pd.DataFrame, kind: str = "csv", **changes: object) -> Data:
    path = folder / f"comments.{kind}"
    WRITERS[kind](frame, path)
    return prepare(config_for(path, **changes))


def test_fingerprint_follows_the_content_alone(tmp_path: Path) -> None:
    frame = comments()
    frame.loc[7, "comment"] = 'NA, "quoted"\nsecond line'
    data = prepared(tmp_path, frame)
    assert len(data.fingerprint) == 64
    (tmp_path / "moved").mkdir()
    assert prepared(tmp_path / "moved", frame.assign(other=1)).fingerprint == data.fingerprint
    assert prepared(tmp_path, frame, "parquet").fingerprint == data.fingerprint

    text, label = frame.copy(), frame.copy()
    text.loc[3, "comment"] += "!"
    label.loc[3, "bully"] = 1 - label.loc[3, "bully"]
    changed = [
        prepared(tmp_path, text),
        prepared(tmp_path, label),
        prepared(tmp_path, frame[::-1]),
        prepared(tmp_path, frame, seed=1),
        prepared(tmp_path, frame, test_fraction=0.25),
        prepared(tmp_path, frame, label_columns=("threat", "bully")),
        prepared(tmp_path, frame.rename(columns={"threat": "menace"}), label_columns=("bully", "menace")),
    ]
    assert len({data.fingerprint, *(other.fingerprint for other in changed)}) == len(changed) + 1


def test_fingerprint_keeps_neighbouring_texts_and_splits_apart() -> None:
    def of(*parts: list[str]) -> str:
        return fingerprint(["bully"], [Split(texts, np.zeros((len(texts), 1), np.int8)) for texts in parts])

    assert len({of(["ab", "c"]), of(["a", "bc"]), of(["abc"]), of(["ab"], ["c"]), of([], ["ab", "c"])}) == 5


def test_save_and_load(tmp_path: Path) -> None:
    data = prepared(tmp_path, comments())
    data.save(tmp_path / "saved")
    loaded = load_data(tmp_path / "saved")
    assert (loaded.label_columns, loaded.fingerprint, loaded.report) == (
        data.label_columns,
        data.fingerprint,
        data.report,
    )
    for name, part in data.splits.items():
        assert list(loaded.splits[name].texts) == list(part.texts)
        assert loaded.splits[name].labels.dtype == np.int8
        np.testing.assert_array_equal(loaded.splits[name].labels, part.labels)


@pytest.mark.parametrize("file", ["texts", "text_offsets", "labels"])
def test_changed_and_torn_files_are_refused(tmp_path: Path, file: str) -> None:
    data = prepared(tmp_path, comments(130))
    data.save(tmp_path / "saved")
    path = tmp_path / "saved" / f"validation_{file}.npy"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(InputError, match="saved.*prepare them again"):
        load_data(tmp_path / "saved")
    path.write_bytes(whole[:-1])
    with pytest.raises(OSError, match=rf"validation_{file}\.npy: not a whole array"):
        load_data(tmp_path / "saved")
    path.unlink()
    with pytest.raises(FileNotFoundError):
        load_data(tmp_path / "saved")


def test_data_that_was_stored_as_parquet_is_still_read(tmp_path: Path) -> None:
    """As older stores hold it: one file a split, the labels in columns beside the texts."""
    data = prepared(tmp_path, comments())
    old = tmp_path / "old"
    old.mkdir()
    for name, part in data.splits.items():
        columns = {"text": list(part.texts)} | {
            f"label:{label}": part.labels[:, i] for i, label in enumerate(data.label_columns)
        }
        pq.write_table(pa.table(columns), old / f"{name}.parquet", compression="zstd")
    about = {"label_columns": data.label_columns, "fingerprint": data.fingerprint, "report": data.report}
    (old / "data.json").write_text(json.dumps(about))
    loaded = load_data(old)
    for name, part in data.splits.items():
        assert list(loaded.splits[name].texts) == list(part.texts)
        np.testing.assert_array_equal(loaded.splits[name].labels, part.labels)
    pq.write_table(pq.read_table(old / "validation.parquet"), old / "test.parquet")
    with pytest.raises(InputError, match="old.*prepare them again"):
        load_data(old)


READER = """
import sys
from pathlib import Path
from pipeline.data import load_data

def own():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("RssAnon"))

load_data(Path(sys.argv[2]))
before = own()
data = load_data(Path(sys.argv[1]))
read = sum(len(text) for part in data.splits.values() for text in part.texts)
read += sum(int(part.labels.sum()) for part in data.splits.values())
print(own() - before, read)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not tell what memory is shared")
def test_a_process_that_reads_all_has_no_copy_of_its_own(tmp_path: Path) -> None:
    prepared(tmp_path, comments(60)).save(tmp_path / "small")
    frame = comments(4000)
    frame["comment"] = [f"{number} " + "অনেক কথা " * 300 for number in range(len(frame))]
    data = prepared(tmp_path, frame)
    data.save(tmp_path / "saved")
    command = [sys.executable, "-c", READER, str(tmp_path / "saved"), str(tmp_path / "small")]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    own, read = map(int, done.stdout.split())
    stored = sum(file.stat().st_size for file in (tmp_path / "saved").iterdir())
    assert read == sum(
        sum(map(len, part.texts)) + int(part.labels.sum(dtype=np.int64)) for part in data.splits.values()
    )
    assert stored > 25e6 and own < stored / 10


def test_the_fingerprint_is_defined_over_lengths_texts_and_labels() -> None:
    """Spelled out with the standard library: existing stores are found by it."""
    texts, labels = ["ক খ", "", "c"], [[0, 1], [1, 1], [1, 0]]
    digest = hashlib.sha256(b'["a", "\\u0995"]')
    for part_texts, part_labels in ((texts, labels), (texts[:1], labels[:1])):
        digest.update(struct.pack(f"<{len(part_texts) + 1}q", len(part_texts), *(len(t.encode()) for t in part_texts)))
        digest.update("".join(part_texts).encode() + bytes(sum(part_labels, [])))
    parts = [Split(texts, np.array(labels, np.int8)), Split(texts[:1], np.array(labels[:1]))]
    assert fingerprint(["a", "ক"], parts) == digest.hexdigest()


def test_report(tmp_path: Path) -> None:
    report = prepared(tmp_path, pd.concat([comments(100), comments(3)]), max_rows=1000).report
    assert report == {
        "source": "comments.csv",
        "synthetic": False,
        "notice": None,
        "rows_read": 103,
        "rows_drawn": 103,
        "rows_used": 100,
        "duplicate_rows": 3,
        "conflicting_texts": 0,
        "conflicts_per_label": {"bully": 0, "threat": 0},
        "mean_words": 3.0,
        "splits": {
            "train": {"texts": 60, "positives": {"bully": 30, "threat": 15}},
            "validation": {"texts": 20, "positives": {"bully": 10, "threat": 5}},
            "test": {"texts": 20, "positives": {"bully": 10, "threat": 5}},
        },
    }


def test_imports_without_torch_or_pandas() -> None:
    program = "import sys, pipeline.data; print(*{'torch', 'pandas', 'pyarrow', 'sklearn'} & set(sys.modules))"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.skipif("PARETO_SHARED" not in os.environ, reason="PARETO_SHARED names no folder with the real comments")
def test_real_comments() -> None:
    folder = Path(os.environ["PARETO_SHARED"])
    (path,) = [*folder.glob("bangla_cyberbullying_multilabel.csv"), *folder.glob("data/bangla_cyberbullying_*.csv")]
    report = prepare(DataConfig(path=str(path)), folds=5).report
    assert (report["rows_read"], report["rows_used"], report["conflicting_texts"]) == (10_697, 8_658, 319)
