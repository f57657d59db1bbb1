"""A measured model's row in words and numbers, for whoever chooses a model or describes one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.chains import describe_chain

if TYPE_CHECKING:
    import pandas as pd

SHOWN_KEY = 8
"""Digits of a key that are shown."""
DROPS = {"f1_drop": "macro F1", "critical_f1_drop": "critical F1", "critical_recall_drop": "critical recall"}
Row = Mapping[str, Any]


def named(row: Row) -> str:
    """A model in a line: key, chain and figures."""
    figures = (
        ("{:.3f} macro F1", "f1_macro"),
        ("{:.3g} MB", "model_size_mb"),
        ("{:.3g} ms", "latency_mean_ms"),
        ("{:.3g} times the teacher's speed", "speedup_factor"),
    )
    shown = [text.format(value) for text, name in figures if (value := number(row, name)) is not None]
    return f"{str(row['model_key'])[:SHOWN_KEY]} ({describe_chain(row)}; {', '.join(shown)})"


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows as dictionaries of plain Python values, None for null."""
    plain = frame.astype(object).where(frame.notna(), None)
    return [
        {str(name): value.item() if isinstance(value, np.generic) else value for name, value in row.items()}
        for row in plain.to_dict("records")
    ]


def number(row: Row, name: str) -> float | None:
    """A finite number of a row, else None."""
    value = row.get(name)
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def warnings(row: Row) -> list[str]:
    """Why this model may not be recommended, a line for each split; empty for one that is safe."""
    found = []
    verdict, on_test = row.get("safety_verdict"), row.get("test_safety_verdict")
    if verdict != "safe":
        found.append(f"the model is {'not known to be safe' if verdict is None else verdict} on validation")
    if on_test == "unsafe":
        found.append("the model is unsafe on test")
    return found


def closest(measured: pd.DataFrame, limits: Mapping[str, float]) -> str:
    """The compressed model that misses the limits by least, and what it misses.

    Args:
        measured: rows of measured models, those of the front with their `test_*` columns.
        limits: the largest allowed drop by column, in [0, 1].
    """
    judged: list[tuple[float, str]] = []
    for row in records(measured[measured["stage"].ne("baseline")]):
        over = {(prefix, name): _bound(row, prefix, name) - limits[name] for prefix in ("", "test_") for name in DROPS}
        missed = ", ".join(
            f"{DROPS[name]} may drop by {_bound(row, prefix, name):.3f} on {'test' if prefix else 'validation'} "
            f"(limit {limits[name]:g})"
            for (prefix, name), excess in over.items()
            if excess > 0
        )
        missed = missed or f"{row.get('safety_verdict')} on validation, and not measured on test"
        judged.append((max(over.values()), f"{named(row)}: {missed}"))
    return f"the closest is {min(judged)[1]}" if judged else "no compressed model was measured"


def _bound(row: Row, prefix: str, name: str) -> float:
    """What may be lost: the upper bound on validation, the drop itself on test, where only `unsafe` is refused."""
    if prefix:
        return number(row, f"{prefix}{name}") or 0.0
    bound = number(row, f"{name}_upper")
    return 1.0 if bound is None else bound
