"""Pieces of Markdown for a model card."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

MEMBERS = {"folds": "its folds", "classical": "the classical floor"}


def markdown(text: object) -> str:
    """`text` in one line, with nothing in it that Markdown, or HTML within, would read."""
    line = " ".join(str(text).split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_{}\[\]|~#!$])", r"\\\1", line)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A table of cells that are Markdown already."""
    lines = [header, ["---"] * len(header), *rows]
    return ["", *(f"| {' | '.join(cells)} |" for cells in lines), ""]


def teacher_text(name: str, settings: Mapping[str, Any]) -> str:
    """How a study's teacher came about, and who teaches beside it.

    Args:
        name: of the encoder that it began from; `scratch` for none.
        settings: the study's section `teacher`.
    """
    made = "an encoder trained from nothing" if name == "scratch" else f"{name}, fine-tuned"
    others = [MEMBERS[member] for member in settings.get("ensemble") or ()]
    if generations := int(settings.get("generations") or 0):
        often = "once" if generations == 1 else f"{generations} times"
        said = " and ".join(["it", *others]) + (" say together" if others else " says")
        return f"{made}, then born again: trained {often} more on what {said}"
    return made + (f"; it teaches together with {' and '.join(others)}" if others else "")
