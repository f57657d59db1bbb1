"""`python search/pareto.py init COMMENTS.csv`: a study file for these comments, with a comment at each key."""

from __future__ import annotations

import argparse
import csv
import shlex
import sys
import tempfile
import textwrap
from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import InputError
from pipeline.reading import counted
from search.comment_file import CommentFile, inspect
from search.first_study import SCRATCH, Entry, evidence, study_sections
from search.start import checked
from search.wording import shown, yaml_text

DONE, BAD_INPUT = 0, 2
WIDTH = 110
"""Columns of a line of comment in the file."""
TERMINAL = 80


def main(arguments: Sequence[str]) -> int:
    """Write the study and say what to do next; returns the exit status: 0 done, 2 bad input."""
    options = parser().parse_args(arguments)
    try:
        if options.to.exists() and not options.overwrite:
            raise InputError([f"{options.to}: exists; --overwrite replaces it, --to FILE names another"])
        found = inspect(options.comments, options.text_column, options.labels, options.critical_label)
        text = study_text(found, options.teacher, options.to)
        check(text)
        _write(options.to, text)
    except InputError as error:
        print(f"error: no study was written ({counted(len(error.problems), 'problem')}):", file=sys.stderr)
        print(*(f"  {problem}" for problem in error.problems), sep="\n", file=sys.stderr)
        return BAD_INPUT
    for line in summary(found, options.teacher, options.to):
        print(textwrap.fill(line, TERMINAL, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False))
    print(f"  {_run(options.to)}")
    return DONE


def study_text(found: CommentFile, teacher: str, to: Path) -> str:
    """The study file: every key with what it means, and what was found."""
    lines = [
        f"# A first study of {_printable(Path(found.path).name)}. Run it with:",
        f"#   {_run(to)}",
        "# It is meant for some thousand comments and a first result within half an hour on a laptop. A setting of",
        "# distil, prune and quantize is a value, {choices: [...]} or {low: ..., high: ..., step: ...}: what is not",
        "# fixed is searched. Keys that do not stand here have the defaults of search/config.py,",
        "# pipeline/config.py and pipeline/compression_config.py. --set KEY=VALUE overrides a key for one run.",
    ]
    for section, entries in study_sections(found, teacher).items():
        lines += ["", *([f"{section}:"] if section else [])]
        for entry in entries:
            lines += [f"{'  ' if section else ''}{line}" for line in _lines(entry)]
    return "\n".join(lines) + "\n"


def check(text: str) -> None:
    """Raise InputError with what would keep the study from starting here; the same checks as before a search."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "study.yaml"
        file.write_text(text, encoding="utf-8")
        checked(file, [], resume=False)


def summary(found: CommentFile, teacher: str, to: Path) -> list[str]:
    """What was found and chosen, and what the user has to look at."""
    report = found.duplicates
    others = f" (other columns with words: {', '.join(map(shown, found.other_texts))})" if found.other_texts else ""
    lines = [
        f"{_printable(found.path)}: {counted(report.rows, 'row')}, {report.texts:,} different comments "
        f"({report.duplicate_rows:,} repeated rows, {report.conflicting_texts:,} texts with conflicting labels)",
        f"text: {shown(found.text_column)}{others}",
        "labels: " + ", ".join(f"{shown(label)} {found.share(label):.1%}" for label in found.labels),
        *(f"left out: {shown(column)} {why}" for column, why in found.left_out.items()),
        f"critical label: {shown(found.critical_label)}, {found.critical_reason}; misses of it matter most, so check "
        "this: --critical-label names another",
        evidence(found),
    ]
    if teacher == SCRATCH:
        lines.append("teacher: scratch, a small encoder trained from nothing; --teacher FOLDER names a pretrained one")
    else:
        lines.append(f"teacher: {_printable(teacher)}")
    return [*lines, f"{_printable(str(to))} is written and passes its checks; look it through, then:"]


def parser() -> argparse.ArgumentParser:
    """The options of `init`."""
    made = argparse.ArgumentParser(
        prog="python search/pareto.py init",
        description="Write a study file for a file of comments: it finds text, labels and separator, says what it "
        "found at each key, and checks the study as a search does before it starts.",
        epilog="Exit status: 0 done; 2 bad input, nothing written.",
    )
    made.add_argument(
        "comments", metavar="COMMENTS.csv", help="CSV (UTF-8) or Parquet: a text column, labels of 0 and 1"
    )
    made.add_argument("--to", type=Path, default=Path("study.yaml"), metavar="FILE", help="default: study.yaml")
    made.add_argument(
        "--teacher",
        default=SCRATCH,
        metavar="FOLDER",
        help="pretrained encoder (config.json, *.safetensors, tokenizer.json) or hub id; left out: a small new one",
    )
    made.add_argument("--text-column", metavar="NAME", help="left out: the column with most to read")
    made.add_argument(
        "--labels",
        type=_names,
        metavar="A,B",
        help='left out: every column of 0 and 1; "a, b",c where a name holds a comma',
    )
    made.add_argument("--critical-label", metavar="NAME", help="the label whose misses matter most")
    made.add_argument("--overwrite", action="store_true", help="replace the file that is there")
    return made


def _lines(entry: Entry) -> list[str]:
    value = yaml_text({entry.key: entry.value}, flow=True)[1:-1]
    about = [*textwrap.wrap(entry.meaning, WIDTH), *textwrap.wrap(entry.found, WIDTH)]
    return [*(f"# {line}" for line in about), *value.split("\n")]


def _write(file: Path, text: str) -> None:
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(
            [f"{file}: cannot be written ({error.strerror or error}); name another place with --to"]
        ) from error


def _run(to: Path) -> str:
    return _printable(shlex.join(["python", "search/pareto.py", str(to)]))


def _printable(text: str) -> str:
    return text if text.isprintable() else ascii(text)


def _names(text: str) -> list[str]:
    """Names between commas, as a row of CSV."""
    names = next(csv.reader([text], skipinitialspace=True), [])
    names = [name for name in names if name]
    if not names or len(set(names)) < len(names):
        raise argparse.ArgumentTypeError(f"{text!r}: name each label column once, as in bully,threat")
    return names
