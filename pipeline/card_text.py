"""Pieces of Markdown for a model card."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence


def markdown(text: object) -> str:
    """`text` in one line, with nothing in it that Markdown, or HTML within, would read."""
    line = " ".join(str(text).split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_{}\[\]|~#!$])", r"\\\1", line)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A table of cells that are Markdown already."""
    lines = [header, ["---"] * len(header), *rows]
    return ["", *(f"| {' | '.join(cells)} |" for cells in lines), ""]
