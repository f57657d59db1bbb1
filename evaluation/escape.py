"""Values made safe for the places they are written to: LaTeX, spreadsheets, JSON, file names.

Labels, comments and model names come from a user's data, so any of them may hold a formula, a macro or any script.
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from evaluation.records import plain_value

_LATEX_ASCII = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "_": r"\_",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "`": r"\textasciigrave{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    # \textquotedbl needs T1 fonts; the typewriter font has a straight quote in every encoding.
    '"': r"\texttt{\char34}",
    # At the start of a row these would be read as the optional argument, or the star, of the `\\` before them.
    "[": "{[}",
    "]": "{]}",
    "*": "{*}",
    "\t": " ",
    "\n": " ",
    "\r": " ",
}
_LATEX_SYMBOLS = {
    "\u00a0": "~",
    "\u2013": "--",
    "\u2014": "---",
    "\u2018": r"\textquoteleft{}",
    "\u2019": r"\textquoteright{}",
    "\u201c": r"\textquotedblleft{}",
    "\u201d": r"\textquotedblright{}",
    "\u2026": r"\ldots{}",
    "\u00d7": r"$\times$",
    "\u00b1": r"$\pm$",
    "\u2192": r"$\to$",
    "\u2212": "$-$",
    "\u2264": r"$\leq$",
    "\u2265": r"$\geq$",
    "\u2605": r"$\star$",
}
# Latin-1 letters and signs that compile with OT1 as with T1 fonts; the soft hyphen would not be seen.
_LATEX_LATIN1 = {chr(code) for code in range(0xA1, 0x100)} - set("\u00ad\u00ab\u00bb\u00d0\u00de\u00f0\u00fe")
_LATEX_KNOWN = {chr(code) for code in range(0x20, 0x7F)} | _LATEX_LATIN1 | set(_LATEX_ASCII) | set(_LATEX_SYMBOLS)
_FORMULA_START = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")
_LONGEST_FILE_NAME = 100


def spell_out(text: str, is_known: Callable[[str], bool]) -> str:
    """`text` with every run of characters that are not known written as code points, as in `[U+0995 U+09BE]`."""
    pieces: list[str] = []
    unknown: list[str] = []
    for character in [*text, ""]:
        if character and not is_known(character):
            unknown.append(f"U+{ord(character):04X}")
            continue
        if unknown:
            pieces.append(f"[{' '.join(unknown)}]")
            unknown = []
        pieces.append(character)
    return "".join(pieces)


def latex(text: object) -> str:
    r"""`text` as LaTeX that prints it, in a document with any font encoding, in text or in a table's cell.

    Printable ASCII, Latin-1 letters and a few typographic signs (dashes, quotes, arrows, × ± ≤ ≥) appear as they are.
    pdflatex has no fonts for other scripts, so that a run of Bangla or of anything else is spelt as its code points,
    `[U+0995 U+09BE]`: it always compiles, and stays identifiable. Line breaks and tabs become spaces; `--`, `''`, `,,`
    are kept from joining into one character.
    """
    spelt = spell_out(str(text), _LATEX_KNOWN.__contains__)
    separated = re.sub(r"([-',])(?=\1)|([?!])(?=`)", r"\g<0>" + "\0", spelt)
    replaced = "".join(_LATEX_ASCII.get(c) or _LATEX_SYMBOLS.get(c) or c for c in separated)
    return replaced.replace("\0", "{}")


def csv_cell(value: object) -> object:
    """`value`, or its text after a single quote when a spreadsheet would take it for a formula.

    Such text starts with `=`, `+`, `-`, `@` (their full-width forms too), a tab or a line break, blanks before it or
    not. Numbers, and text that reads as one number (`-0.5`), are left alone. Each line break within is a line feed: a
    carriage return alone ends a row for those who read the file, though it is written without quotes.
    """
    if not isinstance(value, str) or _is_number(value):
        return value
    text = ("'" if value.lstrip(" ").startswith(_FORMULA_START) else "") + value
    return text.replace("\r\n", "\n").replace("\r", "\n")


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """`rows` as UTF-8 CSV under the header `columns`: null is an empty cell, formulas are defused by `csv_cell`."""
    with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([csv_cell(column) for column in columns])
        writer.writerows([csv_cell(plain_value(row.get(column))) for column in columns] for row in rows)


def write_json(path: Path, value: Any) -> None:
    """`value` as indented JSON that every parser reads: null for NaN, NA and infinities."""
    text = json.dumps(_json_value(value), ensure_ascii=False, indent=2, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")


def _json_value(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _json_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json_value(item) for item in value]
    plain = plain_value(value)
    return None if isinstance(plain, float) and plain in (float("inf"), float("-inf")) else plain


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", text, re.ASCII) is not None


def file_name(text: str) -> str:
    """`text` as part of a file name: `[A-Za-z0-9._-]` only, never empty, at most 100 characters.

    Every other run of characters becomes `_`. Text of which nothing would be left, or that is too long, is told apart
    by the start of its SHA-256.
    """
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", text)
    if name.strip("._-") and len(name) <= _LONGEST_FILE_NAME:
        return name
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    return f"{name.strip('._-')[: _LONGEST_FILE_NAME - 13]}-{digest}".lstrip("-")


def unused_name(name: str, taken: set[str]) -> str:
    """`name`, or with `-2`, `-3`, … when that is taken already, in whatever case; added to `taken`."""
    candidates = (name if number == 1 else f"{name}-{number}" for number in range(1, len(taken) + 2))
    unused = next(candidate for candidate in candidates if candidate.lower() not in taken)
    taken.add(unused.lower())
    return unused
