"""Text, numbers and tables as HTML; whatever comes from a user is escaped here."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from evaluation.records import plain_value
from pipeline.chains import TIMES

NOTHING = "\u2013"
_VERDICTS = {"safe": "\u25cf\u00a0safe", "inconclusive": "\u25b2\u00a0inconclusive", "unsafe": "\u2715\u00a0unsafe"}
_JSON_ESCAPES = {ord(character): f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}


def escape_html(value: object) -> str:
    """`value` as text of an HTML document, in an element or a quoted attribute."""
    return html.escape(str(value))


def isolated(value: object) -> str:
    """`value` inside a sentence: its direction of writing is its own, and leaves the sentence's alone."""
    return f"<bdi>{escape_html(value)}</bdi>"


def json_in_html(value: Any) -> str:
    """`value` as compact JSON that is safe inside a `<script>` element.

    Raises:
        ValueError: a number is NaN or infinite.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.translate(_JSON_ESCAPES)


def number(value: Any, decimals: int = 3) -> str:
    """`value` with so many decimals and a real minus sign; a dash for null and what is not finite."""
    plain = plain_value(value)
    if plain is None or not math.isfinite(plain):
        return NOTHING
    text = f"{plain:,.{decimals}f}"
    return text.replace("-", "\u2212") if float(text.replace(",", "")) else text.replace("-", "")


def signed(value: Any, decimals: int = 3) -> str:
    """As `number`, with a plus sign before what is above 0."""
    text = number(value, decimals)
    return f"+{text}" if text[0].isdigit() and float(text.replace(",", "")) else text


def size(value: Any) -> str:
    """Megabytes: two decimals, more below 0.1."""
    plain = plain_value(value)
    return number(plain, 2 if plain is None or plain >= 0.1 or plain <= 0 else 4)


def duration(seconds: float) -> str:
    """Seconds in the unit that fits: `4.2 s`, `3 min 20 s`, `5 h 07 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60:02d} min"


def verdict(value: Any) -> str:
    """A verdict with its mark, so that colour is not needed to tell it."""
    plain = plain_value(value)
    return "\u25bd\u00a0not checked" if plain is None else _VERDICTS.get(plain, str(plain))


def speed_up(row: Mapping[str, Any]) -> str:
    """`2.10× [2.01, 2.20]`, of a row of records; a dash where it was not measured."""
    factor, low, high = (plain_value(row.get(f"speedup_{end}")) for end in ("factor", "low", "high"))
    if factor is None:
        return NOTHING
    return f"{factor:.2f}{TIMES}" + ("" if low is None or high is None else f" [{low:.2f}, {high:.2f}]")


def table(
    headings: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    caption: str,
    numeric: Collection[str] = (),
    models: Sequence[int | None] | None = None,
    classes: str = "",
) -> str:
    """A table whose first column names its rows; every cell is text and escaped.

    Args:
        headings: one a column.
        rows: cells, as many as headings; None is a dash.
        caption: what the table shows; stands above it, where it does not scroll with it.
        numeric: headings of columns that are aligned right.
        models: for each row, its model's position in the page's data, or None: makes the row one that can be pinned.
        classes: CSS classes of the table.
    """
    marks = [' class="number"' if heading in numeric else ' dir="auto"' for heading in headings]
    head = "".join(f'<th scope="col"{mark}>{escape_html(h)}</th>' for h, mark in zip(headings, marks, strict=True))
    body = []
    for position, row in enumerate(rows):
        model = models[position] if models is not None else None
        cells = [escape_html(NOTHING if value is None else value) for value in row]
        texts = [
            f'<th scope="row"{mark}>{cell}</th>' if column == 0 else f"<td{mark}>{cell}</td>"
            for column, (cell, mark) in enumerate(zip(cells, marks, strict=True))
        ]
        pinnable = "" if model is None else f' data-model="{model}"'
        body.append(f"<tr{pinnable}>{''.join(texts)}</tr>")
    if not body:
        body.append(f'<tr><td colspan="{len(headings)}">(no rows)</td></tr>')
    label, lines = escape_html(caption), "\n".join(body)
    return (
        f'<p class="caption" dir="auto">{label}</p><div class="scroll" role="region" tabindex="0" aria-label="{label}">'
        f'<table class="{escape_html(classes)}" aria-label="{label}">'
        f"<thead><tr>{head}</tr></thead>\n<tbody>{lines}</tbody></table></div>"
    )
