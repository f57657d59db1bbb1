"""The words for what is wrong with a study: one line a problem, `key=value: what is allowed (what it means)`."""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Iterable
from typing import Any

import yaml
from pydantic.fields import FieldInfo


def problem(key: str, value: Any, what: str, info: FieldInfo | None = None) -> str:
    """The line for one problem; `what` says what is allowed or to be done, the field what the key means."""
    meaning = " ".join((info.description or "").split()).rstrip(".") if info else ""
    return f"{key}={shown(value)}: {what}{f' ({meaning})' if meaning else ''}"


def suggestion(name: str, known: Iterable[str]) -> str:
    """The known name most like `name`, or all of them, in brackets."""
    near = difflib.get_close_matches(name, list(known), 1)
    return f" (did you mean {near[0]}?)" if near else f" (known: {', '.join(known)})"


def shown(value: Any) -> str:
    """A value on one line, much as the study file has it."""
    if isinstance(value, str):
        text = repr(value)
    elif isinstance(value, dict | list | tuple):
        plain = list(value) if isinstance(value, tuple) else value
        text = yaml_text(plain, flow=True)
    else:
        text = json.dumps(value, default=str)
    text = re.sub(r"(://)[^/@\s'\"]*@", r"\1…@", text)  # a password in an address is nobody's business
    return text if len(text) <= 100 else f"{text[:97]}…"


def yaml_text(plain: Any, flow: bool) -> str:
    """Plain values as YAML that reads back to equal ones, without the last line break; with `flow` in brackets."""
    text = ""
    # PyYAML reads \x85 back as \n unless it is escaped, and then so is all other Unicode
    for readable in (True, False):
        text = yaml.safe_dump(plain, default_flow_style=flow, allow_unicode=readable, sort_keys=False, width=math.inf)
        text = text.rstrip("\n")
        if text.splitlines() == text.split("\n"):
            break
    return text


def duration(seconds: float) -> str:
    """Whole minutes and seconds, or hours and minutes."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
