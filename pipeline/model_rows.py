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
SPLITS = {"": "validation", "test_": "test"}
"""By the prefix of their columns."""
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


def closest(measured: pd.DataFrame, limits: Mapping[str, float]) -> list[tuple[Row, str]]:
    """The compressed models with what each misses, in words; those that come closest to being recommended first.

    Unsafe models come after all others, those that exceed a limit by more after those that exceed it by less, and of
    equals the larger after the smaller.

    Args:
        measured: rows of measured models, those of the front with their `test_*` columns.
        limits: the largest allowed drop by column, in [0, 1].
    """
    rows = records(measured[measured["stage"].ne("baseline")])
    return [(row, _missed(row, limits)) for row in sorted(rows, key=lambda row: _distance(row, limits))]


def _distance(row: Row, limits: Mapping[str, float]) -> tuple[bool, float, float]:
    """Whether the model is unsafe, the most it exceeds a limit by, and its size."""
    unsafe = "unsafe" in (row.get("safety_verdict"), row.get("test_safety_verdict"))
    excess = max(_bound(row, prefix, name) - limits[name] for prefix in SPLITS for name in DROPS)
    return unsafe, excess, number(row, "model_size_mb") or math.inf


def _missed(row: Row, limits: Mapping[str, float]) -> str:
    """The verdict on validation, and on test where it counts, each with the limits that are exceeded."""
    told = [_judged(row, "", limits)]
    if row.get("safety_verdict") == "safe" or row.get("test_safety_verdict") == "unsafe":
        told.append(_judged(row, "test_", limits))
    if needed := number(row, "positives_needed"):
        told.append(f"{needed:.0f} critical positives in validation would decide")
    return "; ".join(told)


def _judged(row: Row, prefix: str, limits: Mapping[str, float]) -> str:
    """The verdict on a split and the limits that are exceeded there."""
    exceeded = ", ".join(
        f"{drop} {'drops' if prefix else 'may drop'} by {_bound(row, prefix, name):.3f} (limit {limits[name]:g})"
        for name, drop in DROPS.items()
        if _bound(row, prefix, name) > limits[name]
    )
    verdict = f"{row.get(f'{prefix}safety_verdict') or 'not measured'} on {SPLITS[prefix]}"
    return f"{verdict}, where {exceeded}" if exceeded else verdict


def _bound(row: Row, prefix: str, name: str) -> float:
    """What may be lost: the upper bound on validation, the drop itself on test, where only `unsafe` is refused."""
    if prefix:
        return number(row, f"{prefix}{name}") or 0.0
    bound = number(row, f"{name}_upper")
    return 1.0 if bound is None else bound
