"""`init` as its user runs it: the study it writes starts, whatever the columns are called, and what it refuses."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from search.config import StudyConfig
from search.pareto import main
from search.start import checked

ROOT = Path(__file__).parents[2]
NASTY = ["hate speech", "হুমকি", 'say "no"', "a # b", "key: value", "=SUM(A1)", "- item", "{x}", "null", "a,b", "a\nb"]


def table(rows: int = 300, text: str = "comment", labels: tuple[str, ...] = ("rude", "threat", "spam")) -> pd.DataFrame:
    """Different texts; the first label has a half of them, the next a third, and so on."""
    columns: dict[str, list[object]] = {text: [f"this is comment number {index}" for index in range(rows)]}
    columns |= {label: [int(index % (place + 2) == 0) for index in range(rows)] for place, label in enumerate(labels)}
    return pd.DataFrame(columns)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def init(*arguments: str) -> int:
    return main(["init", *arguments])


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    """The problems told; asserts status 2, nothing on standard output and no study written."""
    assert init(*arguments) == 2
    told = capsys.readouterr()
    assert told.out == "" and not Path("study.yaml").exists()
    first, *lines = told.err.splitlines()
    assert first.startswith("error: no study was written") and lines
    return lines


def test_the_study_starts_and_says_what_was_found(capsys: pytest.CaptureFixture[str]) -> None:
    frame = table()
    pd.concat([frame, frame.head(10)]).assign(author="someone", stars=4).to_csv("c.csv", index=False)
    assert init("c.csv") == 0
    told = capsys.readouterr().out
    config, data = checked(Path("study.yaml"), [], resume=False)
    assert (config.study, config.teacher.model) == ("c", "scratch")
    assert (config.data.text_column, config.data.label_columns) == ("comment", ("rude", "threat", "spam"))
    assert config.critical_label == "threat"
    assert data.report["rows_used"] == 300
    text = Path("study.yaml").read_text(encoding="utf-8")
    for told_or_written in (told, text):
        flat = " ".join(told_or_written.replace("#", "").split())
        assert all(word in flat for word in ("310 row", "300 different", "'rude' 50.0%", "'threat' 33.3%", "'author'"))
        assert "will hold about 20 comments with it, too few" in flat, "100 positives, a fifth of them in validation"
    assert told.splitlines()[-1] == "  python search/pareto.py study.yaml"
    assert max(map(len, told.splitlines())) <= 80


def test_a_comment_stands_at_each_key_and_the_schema_has_it() -> None:
    table().to_csv("c.csv", index=False)
    assert init("c.csv") == 0
    lines = Path("study.yaml").read_text(encoding="utf-8").splitlines()
    raw = yaml.safe_load("\n".join(lines))
    for section, values in raw.items():
        field = StudyConfig.model_fields[section]
        if isinstance(values, dict):
            assert hasattr(field.annotation, "model_fields") or section in ("distil", "prune", "quantize")
        for key in values if isinstance(values, dict) else [section]:
            indent = "  " if isinstance(values, dict) else ""
            begin = lines.index(f"{section}:") if indent else 0
            [at, *_] = [index for index in range(begin, len(lines)) if lines[index].startswith(f"{indent}{key}: ")]
            assert lines[at - 1].startswith(f"{indent}# "), key


@pytest.mark.parametrize("text", NASTY[:6])
def test_any_column_names_survive(text: str) -> None:
    labels = tuple(name for name in NASTY if name != text)
    table(400, text, labels).to_csv("c.csv", index=False)
    assert init("c.csv") == 0
    config, data = checked(Path("study.yaml"), [], resume=False)
    assert config.data.text_column == text and data.label_columns == labels


name = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0<>"), min_size=1, max_size=8)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=st.lists(name.filter(str.strip), min_size=2, max_size=4, unique=True), file=name)
def test_any_names_survive(names: list[str], file: str) -> None:
    stem = "".join(character for character in file if character not in "/\r\n") or "x"
    path = Path("data") / f"{stem[:40]}.csv"
    path.parent.mkdir(exist_ok=True)
    rows = table(120, names[0], tuple(names[1:]))
    with path.open("w", encoding="utf-8", newline="") as opened:
        writer = csv.writer(opened, quoting=csv.QUOTE_ALL)
        writer.writerows([list(rows.columns), *rows.to_numpy().tolist()])
    assert init(str(path), "--overwrite") == 0
    config, _ = checked(Path("study.yaml"), [], resume=False)
    assert (config.data.path, config.data.text_column) == (str(path), names[0])
    assert list(config.data.label_columns) == names[1:]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_separators_are_found_and_written(separator: str) -> None:
    table().assign(note="well, so; or not").to_csv("c.csv", index=False, sep=separator)
    assert init("c.csv") == 0
    config, _ = checked(Path("study.yaml"), [], resume=False)
    assert config.data.separator == separator


def test_truth_values_words_and_parquet() -> None:
    frame = table()
    frame["flag"] = frame["rude"].astype(bool)
    frame["agreed"] = frame["rude"].map({0: "no", 1: "yes"})
    for name in ("c.csv", "c.parquet"):
        frame.to_csv(name, index=False) if name.endswith("csv") else frame.to_parquet(name)
        assert init(name, "--overwrite") == 0
        config, _ = checked(Path("study.yaml"), [], resume=False)
        assert config.data.label_columns == ("rude", "threat", "spam", "flag")
        text = " ".join(Path("study.yaml").read_text(encoding="utf-8").replace("#", "").split())
        assert "'agreed' is no label: it holds" in text and "write 1 and 0 for them" in text


def test_columns_can_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    table().assign(title="a title that is much longer than any of the comments").to_csv("c.csv", index=False)
    options = ["--text-column", "comment", "--labels", '"spam",rude', "--critical-label", "rude", "--to", "s.yaml"]
    assert init("c.csv", *options) == 0
    config, _ = checked(Path("s.yaml"), [], resume=False)
    assert (config.data.text_column, config.data.label_columns) == ("comment", ("spam", "rude"))
    assert config.critical_label == "rude"
    assert init("c.csv", "--to", "t.yaml") == 0
    assert checked(Path("t.yaml"), [], resume=False)[0].data.text_column == "comment", "the title is always the same"
    capsys.readouterr()
    [line] = refused(capsys, "c.csv", "--text-column", "coment")
    assert "no column 'coment'" in line and "did you mean 'comment'?" in line
    [line] = refused(capsys, "c.csv", "--labels", "rude,thret")
    assert "no column 'thret'" in line and "did you mean 'threat'?" in line
    [line] = refused(capsys, "c.csv", "--labels", "title")
    assert "label 'title' holds 'a title" in line and "write 1 and 0" in line
    [line] = refused(capsys, "c.csv", "--critical-label", "rud")
    assert "did you mean 'rude'?" in line
    [line] = refused(capsys, "c.csv", "--teacher", "nowhere/at/all")
    assert "teacher.model='nowhere/at/all'" in line and "no such folder" in line


@pytest.mark.parametrize(
    ("labels", "critical"),
    [
        (("insult", "self_harm", "hate"), "self_harm"),
        (("spam", "not_hate", "toxic"), "toxic"),
        (("neutral", "gibberish", "advert"), "advert"),  # the rarest
        (("spam", "ঘৃণা", "গালি"), "ঘৃণা"),
    ],
)
def test_the_critical_label(labels: tuple[str, ...], critical: str) -> None:
    table(400, labels=labels).to_csv("c.csv", index=False)
    assert init("c.csv") == 0
    assert checked(Path("study.yaml"), [], resume=False)[0].critical_label == critical


def test_a_label_too_rare_to_split_is_left_out() -> None:
    frame = table()
    frame["rare"] = [1] * 14 + [0] * 286
    frame["just"] = [1] * 15 + [0] * 285
    frame.to_csv("c.csv", index=False)
    assert init("c.csv") == 0
    config, _ = checked(Path("study.yaml"), [], resume=False)
    assert config.data.label_columns == ("rude", "threat", "spam", "just")
    assert "14 different comments have it" in " ".join(Path("study.yaml").read_text().replace("#", "").split())


def test_an_existing_file_is_not_overwritten_unasked(capsys: pytest.CaptureFixture[str]) -> None:
    table().to_csv("c.csv", index=False)
    Path("mine.yaml").write_text("seed: 1\n", encoding="utf-8")
    [line] = refused(capsys, "c.csv", "--to", "mine.yaml")
    assert "mine.yaml: exists; --overwrite replaces it" in line
    assert Path("mine.yaml").read_text(encoding="utf-8") == "seed: 1\n"
    assert init("c.csv", "--to", "mine.yaml", "--overwrite") == 0
    assert checked(Path("mine.yaml"), [], resume=False)[0].study == "c"
    capsys.readouterr()
    [line] = refused(capsys, "c.csv", "--to", "no/such/folder.yaml")
    assert "cannot be written (No such file or directory)" in line


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"comment,stars\nfine words,4\nmore words,5\n", ["no label column among 2 rows", "holds '4', '5'"]),
        (b"rude,spam\n1,0\n0,1\n", ["no column holds words (has: 'rude', 'spam'); add the comments"]),
        (b"comment,rude\nonly one,1\n", ["no label column among 1 row;", "has the same value in every row"]),
        (b"comment\nno label\nat all\n", ["no label column among 2 rows; add a column of 0 and 1"]),
        (b"comment,rude\n", ["no rows below the header"]),
        (b"", ["empty file"]),
        ("comment,rude\ncafé,1\n".encode("latin-1"), ["not UTF-8 at byte offset 16", "iconv"]),
        (table().to_csv(index=False).encode("utf-16"), ["encoded in UTF-16", "iconv"]),
        (b"comment,rude\n,1\n" + table().iloc[:, :2].to_csv(index=False, header=False).encode(), ["1 empty text"]),
    ],
)
def test_files_that_cannot_be_studied(content: bytes, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    Path("c.csv").write_bytes(content)
    lines = refused(capsys, "c.csv")
    assert all(any(word in line for line in lines) for word in words), lines


def test_a_file_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    table().to_csv("comments.csv", index=False)
    [line] = refused(capsys, "coments.csv")
    assert "no such file" in line and "did you mean 'comments.csv'?" in line


def test_thirty_thousand_rows_take_seconds_and_no_torch() -> None:
    table(30_000).to_csv("big.csv", index=False)
    command = [sys.executable, "-X", "importtime", str(ROOT / "search" / "pareto.py"), "init", "big.csv"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "pandas" in imported and not imported & {"torch", "ray", "transformers", "optuna", "mlflow", "sklearn"}
