import csv
import json
import math
import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.escape import csv_cell, file_name, latex, spell_out, write_csv, write_json

_PRINTED = {
    r"\textbackslash{}": "\\",
    r"\textasciitilde{}": "~",
    r"\textasciicircum{}": "^",
    r"\textasciigrave{}": "`",
    r"\textless{}": "<",
    r"\textgreater{}": ">",
    r"\textbar{}": "|",
    r"\texttt{\char34}": '"',
    **{f"\\{c}": c for c in "{}_&%$#"},
    **{f"{{{c}}}": c for c in "[]*"},
    "{}": "",
}


def _typeset(source: str) -> str:
    """What LaTeX prints for escaped ASCII, read token by token; anything not an escape must be a plain character."""
    token = re.compile("|".join(re.escape(t) for t in sorted(_PRINTED, key=len, reverse=True)) + r"|[^\\{}_&%$#~^<>\"]")
    printed, position = [], 0
    while position < len(source):
        match = token.match(source, position)
        assert match, f"bare special at {source[position:]!r}"
        printed.append(_PRINTED.get(match[0], match[0]))
        position = match.end()
    return "".join(printed)


@given(st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E)))
def test_latex_prints_any_ascii_text_and_leaves_no_bare_special(text: str) -> None:
    assert _typeset(latex(text)) == text


@given(st.text())
def test_latex_of_any_text_is_within_latin_1_and_on_one_line(text: str) -> None:
    escaped = latex(text)
    assert all(0x20 <= ord(character) <= 0xFF and character != "\x7f" for character in escaped)


def test_latex_spells_other_scripts_as_code_points() -> None:
    assert latex("ক্ ok") == "{[}U+0995 U+09CD{]} ok"
    assert latex("café 2×") == r"café 2$\times$"


def test_a_cell_that_starts_a_row_cannot_be_the_argument_of_the_line_break() -> None:
    for text in ("[2cm]", "*x", "ক"):
        assert latex(text)[0] == "{"


def test_spell_out_groups_runs() -> None:
    assert spell_out("aBCdE", str.islower) == "a[U+0042 U+0043]d[U+0045]"


@pytest.mark.parametrize(
    "text", ["=1+1", "+x", "-x", "@SUM(A1)", "\t=1", "\n=1", "  =1", "＝1", "-1+cmd|' /C calc'!A0"]
)
def test_csv_cell_defuses_formulas(text: str) -> None:
    assert csv_cell(text) == "'" + text


@pytest.mark.parametrize("value", [-1, -0.5, None, True, "-0.5", "+3", "-1e-3", "hate", "a=b", "'x", ""])
def test_csv_cell_leaves_numbers_and_plain_text(value: object) -> None:
    assert csv_cell(value) is value


@given(st.text(max_size=300))
def test_file_name_is_safe_and_stable(text: str) -> None:
    name = file_name(text)
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,100}", name)
    assert name.strip(".")
    assert file_name(name) == name


def test_file_name_keeps_what_it_can() -> None:
    assert file_name("csebuetnlp/banglabert") == "csebuetnlp_banglabert"
    assert file_name("../../etc/passwd") == ".._.._etc_passwd"
    assert file_name("বাংলা") != file_name("ভাষা")


def test_write_csv_reads_back(tmp_path) -> None:
    path = tmp_path / "a.csv"
    rows = [{"=x": 'say "hi", <b>', "n": np.float64(0.5)}, {"=x": "-বাংলা\nx", "n": math.nan}, {}]
    write_csv(path, ["=x", "n"], rows)
    with path.open(encoding="utf-8", newline="") as file:
        assert list(csv.reader(file)) == [["'=x", "n"], ['say "hi", <b>', "0.5"], ["'-বাংলা\nx", ""], ["", ""]]


def test_a_carriage_return_within_a_cell_begins_no_row(tmp_path) -> None:
    path = tmp_path / "a.csv"
    write_csv(path, ["a\rb", "n"], [{"a\rb": "good morning\r=1+1", "n": "x\r\ny"}, {"a\rb": "\r=1", "n": 1}])
    expected = [["a\nb", "n"], ["good morning\n=1+1", "x\ny"], ["'\n=1", "1"]]
    with path.open(encoding="utf-8", newline="") as file:
        assert list(csv.reader(file)) == expected
    assert pd.read_csv(path).astype(str).to_numpy().tolist() == expected[1:]


def test_write_json_has_null_for_what_is_not_a_number(tmp_path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"a": math.nan, "b": [math.inf, np.int64(3), pd.NA], "c": {"d": -math.inf, "e": "বাংলা"}})
    read = json.loads(path.read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert read == {"a": None, "b": [None, 3, None], "c": {"d": None, "e": "বাংলা"}}
