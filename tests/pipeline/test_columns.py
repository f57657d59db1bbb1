"""Any CSV's separator and columns against the csv module that wrote it, and which of them hold words."""

import csv

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.columns import SEPARATORS, read_columns
from pipeline.errors import InputError

cell = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12).filter(str.strip)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    header=st.lists(cell, min_size=2, max_size=4, unique=True),
    texts=st.lists(cell, min_size=3, max_size=8),
    separator=st.sampled_from(SEPARATORS),
)
def test_what_the_csv_module_wrote_is_found(tmp_path, header, texts, separator):
    labels = range(len(header) - 1)
    rows = [[text, *("01"[(index + place) % 2] for place in labels)] for index, text in enumerate(texts)]
    file = tmp_path / "c.csv"
    with file.open("w", encoding="utf-8", newline="") as opened:
        csv.writer(opened, delimiter=separator, quoting=csv.QUOTE_ALL).writerows([header, *rows])
    found = read_columns(str(file))
    assert found.separator == separator
    assert {name: list(values) for name, values in found.values.items()} == {
        name: [row[place] for row in rows] for place, name in enumerate(header)
    }
    assert list(found.values) == header


def test_separators_inside_the_texts_do_not_mislead(tmp_path):
    file = tmp_path / "c.csv"
    file.write_text("comment;toxic\n" + "".join(f"well, {i}, or, not;{i % 2}\n" for i in range(9)), encoding="utf-8")
    assert read_columns(str(file)).separator == ";"
    file.write_text("comment,toxic\n" + "".join(f'"a; b; {i}",{i % 2}\n' for i in range(9)), encoding="utf-8")
    assert read_columns(str(file)).separator == ","


def test_columns_with_words_most_to_read_first(tmp_path):
    frame = pd.DataFrame(
        {
            "id": [10, 11, 12],
            "who": ["ann", "bob", None],
            "site": ["the very same long name of one site"] * 3,
            "text": ["a long one indeed", "12", "and one more of about this length"],
            "when": pd.to_datetime(["2024-01-01"] * 3),
            "score": [0.5, 0.25, None],
            "tags": [["a"], ["b"], []],
            "flag": [True, False, True],
        }
    )
    frame.to_parquet(tmp_path / "c.parquet")
    found = read_columns(str(tmp_path / "c.parquet"))
    assert found.texts == ("text", "site", "who")
    assert list(found.values) == ["id", "who", "site", "text", "score", "flag"], "dates and lists cannot be read"
    frame.drop(columns=["when", "tags"]).to_csv(tmp_path / "c.csv", index=False)
    assert read_columns(str(tmp_path / "c.csv")).texts == ("text", "site", "who")
    frame["kind"] = frame["who"].astype("category")
    frame[["kind"]].to_parquet(tmp_path / "k.parquet")
    assert read_columns(str(tmp_path / "k.parquet")).texts == ("kind",)


def test_a_long_text_is_read(tmp_path):
    file = tmp_path / "c.csv"
    file.write_text(f'comment;toxic\n"{"so; " * 50_000}";1\nab;0\n', encoding="utf-8")
    found = read_columns(str(file))
    assert found.separator == ";" and list(found.values["comment"].str.len()) == [200_000, 2]


def test_columns_that_share_a_name_are_left_out(tmp_path):
    file = tmp_path / "c.csv"
    file.write_text("text,note,note\nab,x,y\ncd,z,w\n", encoding="utf-8")
    assert list(read_columns(str(file)).values) == ["text"]
    file.write_text("a,a\n1,2\n", encoding="utf-8")
    with pytest.raises(InputError, match="no column of c.csv has a name of its own"):
        read_columns(str(file))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("c.csv", b"", "empty file"),
        ("c.csv", b"comment,toxic\n", "no rows below the header"),
        ("c.csv", "comment,toxic\nab,1\n".encode("utf-16"), "encoded in UTF-16"),
        ("c.csv", b"comment,toxic\nab\xff,1\n", "not UTF-8 at byte offset 16"),
        ("c.csv", b"comment,toxic\nab,1,2\ncd,0\n", "1 row with another number of fields"),
        ("c.csv", b'comment,toxic\n"ab,1\n', "malformed row"),
        ("c.parquet", b"PAR1 no", "not a whole Parquet file"),
        ("c.xlsx", b"x", "unsupported suffix '.xlsx'"),
        ("embedded", b"comment,toxic\nab,1\n", "is the synthetic sample"),
    ],
)
def test_files_that_cannot_be_read_say_why(name, content, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as refused:
        read_columns(name)
    assert any(words in problem for problem in refused.value.problems), refused.value.problems


def test_a_file_without_strings(tmp_path):
    pd.DataFrame({"a": [1, 0], "b": [0, 1]}).to_parquet(tmp_path / "n.parquet")
    with pytest.raises(InputError, match="no column of n.parquet holds strings"):
        read_columns(str(tmp_path / "n.parquet"))
