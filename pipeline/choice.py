"""Which model of a study to take: the knee, an extreme, the best by the user's weights, or a key; and why.

All functions are pure: rows of `front.parquet` and `trials.parquet` in, a row and its reasons out.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.budgets import Budgets
from pipeline.errors import InputError
from pipeline.model_rows import SHOWN_KEY, Row, closest, named, number, records

if TYPE_CHECKING:
    import pandas as pd

RULES = ("knee", "smallest", "fastest", "most_accurate", "best")
OBJECTIVES = ("f1", "size", "latency")
"""What `best` weighs: macro F1 on validation, `model_size_mb`, and latency as a share of the teacher's."""
REFERENCES = {"teacher": "baseline", "floor": "classical"}
"""What a study measures beside its models, by name: the stage of their rows."""
SHORTEST_KEY = 6


@dataclass(frozen=True)
class Choice:
    """A model, and why it was taken."""

    row: dict[str, Any]
    reason: str
    runner_up: dict[str, Any] | None = None
    """What the same rule takes if this model were not there."""
    runner_up_reason: str = ""


def knee(losses: NDArray[Any]) -> int:
    """Index of the front point nearest to the ideal point, after scaling each objective to [0, 1] over the front.

    An objective that is constant on the front does not count; ties go to the lowest index.

    Args:
        losses: shape [n, m], minimised; rows with NaN or infinities are left out.

    Returns:
        a row index into `losses`.

    Raises:
        ValueError: `losses` is not two-dimensional, or there is no row with finite losses.
    """
    if losses.ndim != 2 or losses.shape[1] == 0:
        raise ValueError(f"losses: shape {losses.shape}; give [n, m] with at least one objective")
    distances = distances_to_ideal(np.asarray(losses, dtype=np.float64))
    if not np.isfinite(distances).any():
        raise ValueError(f"losses: none of {len(losses)} rows is finite; the knee needs at least one measured model")
    return int(distances.argmin())


def distances_to_ideal(losses: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distance of each front point [n, m] to the ideal point as `knee` scales it, [n]; infinite off the front."""
    distances = np.full(len(losses), np.inf)
    finite = np.flatnonzero(np.isfinite(losses).all(axis=1))
    rows = losses[finite]
    beaten = [bool(((rows <= row).all(axis=1) & (rows < row).any(axis=1)).any()) for row in rows]
    on_front = finite[~np.array(beaten, dtype=np.bool_)]
    if len(on_front):
        distances[on_front] = np.linalg.norm(_scaled(losses[on_front]), axis=1)
    return distances


def recommended(front: pd.DataFrame) -> pd.DataFrame:
    """Rows on the safe front that are safe on validation and not unsafe on test; the teacher itself is none.

    Before the study has ended there are no verdicts on test, and nothing is recommended.
    """
    if "test_safety_verdict" not in front:
        return front[:0]
    safe = front["on_safe_front"].eq(True) & front["safety_verdict"].eq("safe") & front["stage"].ne("baseline")
    return front[safe & front["test_safety_verdict"].ne("unsafe")]


def candidates(
    front: pd.DataFrame, measured: pd.DataFrame, limits: Mapping[str, float], unsafe: bool = False
) -> pd.DataFrame:
    """What the named choices choose among.

    Args:
        front: rows of `front.parquet`.
        measured: rows of every measured model, to name the one that comes closest to being safe.
        limits: the largest allowed `f1_drop`, `critical_f1_drop` and `critical_recall_drop`.
        unsafe: all compressed models of the front, whatever their verdicts.

    Raises:
        InputError: there is none; says what comes closest and what it misses.
    """
    compressed = front[front["stage"].ne("baseline")]
    if compressed.empty:
        raise InputError(["the front holds no compressed model; search more trials, or name a model by its key"])
    if unsafe:
        return compressed
    safe = recommended(front)
    if not safe.empty:
        return safe
    remedy = "search on, give more comments, name a model by its key, or take one all the same with --unsafe"
    if "test_safety_verdict" not in front:
        raise InputError(
            [f"the study has not ended, and nothing was measured on test yet; go on with --resume; {remedy}"]
        )
    why = f"no compressed model is safe on validation and not unsafe on test; {remedy}"
    row, missed = closest(measured, limits)[0]
    raise InputError([why, f"the closest is {named(row)}: {missed}"])


def choose(
    rows: pd.DataFrame, rule: str, *, weights: Mapping[str, float] | None = None, budgets: Budgets | None = None
) -> Choice:
    """The model that a rule takes among candidates, within the budgets.

    Args:
        rows: the candidates, at least one.
        rule: one of `RULES`.
        weights: of `OBJECTIVES`, for `best` alone; at least 0 and not all 0.
        budgets: what the model may cost.

    Raises:
        InputError: no candidate is within the budgets; names the closest.
    """
    budgets = budgets or Budgets()
    listed = records(rows)
    within = [row for row in listed if budgets.excess(row) <= 1]
    if not within:
        nearest = min(listed, key=budgets.excess)
        why = f"none of {len(listed)} models has {budgets}; the closest is {named(nearest)}"
        raise InputError([f"{why}; raise the budget, or search on"])
    losses = _losses(within)
    scores = _scores(rule, losses, weights or {})
    order = np.argsort(scores, kind="stable")
    among = f"of {len(within)} model{'' if len(within) == 1 else 's'}" + (f" with {budgets}" if str(budgets) else "")
    first = within[order[0]]
    reason = f"{_reason(rule, weights or {})} {among}: {_score(rule, first, scores[order[0]])}"
    if len(within) == 1:
        return Choice(first, reason)
    second = within[order[1]]
    return Choice(first, reason, second, _score(rule, second, scores[order[1]]))


def reference(measured: pd.DataFrame, name: str) -> Choice:
    """The teacher or the classical floor.

    Raises:
        InputError: the study has not measured it yet.
    """
    rows = records(measured[measured["stage"].eq(REFERENCES[name])])
    if not rows:
        raise InputError([f"{name!r}: not measured yet; run the study first, or go on with --resume"])
    return Choice(rows[0], f"named: the study's {name}")


def by_key(measured: pd.DataFrame, prefix: str) -> Choice:
    """The model whose key begins with these hex digits, at least 6.

    Raises:
        InputError: there is none, or more than one; names the nearest.
    """
    keys = [str(key) for key in measured["model_key"]]
    found = [key for key in keys if key.startswith(prefix.lower())]
    short = len(prefix) < SHORTEST_KEY
    if len(found) == 1 and not short:
        return Choice(records(measured)[keys.index(found[0])], f"named by its key {found[0][:SHOWN_KEY]}")
    if re.fullmatch("[0-9a-f]+", prefix.lower()) and (short or found):
        matching = ", ".join(key[: max(12, len(prefix) + 2)] for key in found) or "none"
        what = f"give at least {SHORTEST_KEY} digits" if short else "give more digits"
        raise InputError([f"{prefix!r}: {what} of one model's key (begin with it: {matching})"])
    names = (*RULES, *REFERENCES)
    near = difflib.get_close_matches(prefix, names, n=1)
    near = near or difflib.get_close_matches(prefix, [key[: len(prefix)] for key in keys], n=1, cutoff=0.5)
    meant = f"; did you mean {near[0]!r}?" if near else ""
    shown = ", ".join(key[:SHOWN_KEY] for key in keys[:12]) + (", …" if len(keys) > 12 else "")
    raise InputError([f"{prefix!r}: no such model{meant} (has: {', '.join(names)}; keys {shown})"])


def _losses(rows: list[dict[str, Any]]) -> NDArray[np.float64]:
    """[models, objectives], in the order of `OBJECTIVES`, minimised; NaN where a figure is unknown."""
    table = [[number(row, name) for name in ("f1_macro", "model_size_mb", "speedup_factor")] for row in rows]
    f1, size, speedup = np.array(table, dtype=np.float64).T
    return np.column_stack([-f1, size, 1.0 / speedup])


def _scores(rule: str, losses: NDArray[np.float64], weights: Mapping[str, float]) -> NDArray[np.float64]:
    """What the rule minimises, [models]."""
    if rule == "knee":
        return distances_to_ideal(losses)
    if rule == "best":
        weighted: NDArray[np.float64] = _scaled(losses) @ np.array([weights.get(name, 0.0) for name in OBJECTIVES])
        return weighted
    return losses[:, {"most_accurate": 0, "smallest": 1, "fastest": 2}[rule]]


def _scaled(losses: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each objective from 0, the best of these rows, to 1, the worst; a constant one is 0."""
    spread = np.ptp(losses, axis=0)
    scaled: NDArray[np.float64] = (losses - losses.min(axis=0)) / np.where(spread > 0, spread, 1.0)
    return scaled


def _reason(rule: str, weights: Mapping[str, float]) -> str:
    if rule == "best":
        return f"the least weighted loss ({', '.join(f'{name}={value:g}' for name, value in weights.items())})"
    return {
        "knee": "the nearest to the best macro F1, size and speed at once",
        "smallest": "the smallest",
        "fastest": "the fastest",
        "most_accurate": "the highest macro F1 on validation",
    }[rule]


def _score(rule: str, row: Row, score: float) -> str:
    """What the rule saw in a model, in words."""
    if not math.isfinite(score):
        return "another model is nowhere worse and somewhere better"
    if rule == "knee":
        return f"distance {score:.3f}, each of the three scaled from best 0 to worst 1"
    if rule == "best":
        return f"loss {score:.3f}, each of the three scaled from best 0 to worst 1"
    text, name = {
        "smallest": ("{:.3g} MB", "model_size_mb"),
        "fastest": ("{:.4g} times the teacher's speed", "speedup_factor"),
        "most_accurate": ("{:.4f}", "f1_macro"),
    }[rule]
    return text.format(row[name])
