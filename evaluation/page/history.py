"""How the front grew: hypervolume over trials and over time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from evaluation.front import hypervolume, non_dominated
from evaluation.gained import losses, reference_point
from evaluation.page.columns import equals, numbers

FloatArray = npt.NDArray[np.float64]

MOST_STEPS = 300
"""Points of a curve; of a longer history so many are taken evenly, the last included."""


@dataclass(frozen=True)
class History:
    """Hypervolume after trials and after seconds, in `evaluation.gained.UNIT`: what the search itself counts."""

    trials: FloatArray
    """Trials so far, shape [t]; 0 is teacher and classical floor."""
    by_trial: FloatArray
    """Shape [t]."""
    seconds: FloatArray
    """Since the first row, shape [s]; empty when no row has a time."""
    by_time: FloatArray
    """Shape [s]."""
    reference_f1: float
    """Macro F1 from which the volume counts."""

    def as_json(self) -> dict[str, Any]:
        """Lists for the browser, each curve as pairs of equal length."""

        def pairs(x: FloatArray, y: FloatArray) -> dict[str, list[float]]:
            return {"x": x.round(3).tolist(), "y": y.round(5).tolist()}

        return {"trials": pairs(self.trials, self.by_trial), "seconds": pairs(self.seconds, self.by_time)}


def study_history(trials: pd.DataFrame, trials_ended: int) -> History | None:
    """The history of the models that are not `unsafe`; None without a teacher that was measured.

    Args:
        trials: rows of `trials.parquet`; those that are not `ok`, or lack an objective, count for nothing.
        trials_ended: up to which the curve over trials goes on, though the last of them may have no row.
    """
    f1, size, speedup = (numbers(trials, name) for name in ("f1_macro", "model_size_mb", "speedup_factor"))
    usable = np.isfinite(f1) & np.isfinite(size) & np.isfinite(speedup) & (speedup > 0)
    usable &= equals(trials, "status", "ok") & ~equals(trials, "safety_verdict", "unsafe")
    teacher = np.flatnonzero(equals(trials, "stage", "baseline") & np.isfinite(f1) & (size > 0))
    if not len(teacher):
        return None
    points = losses(f1, size, 1 / np.where(usable, speedup, np.nan))
    reference = reference_point(losses(f1[teacher[0]], size[teacher[0]], 1.0))
    number = np.nan_to_num(numbers(trials, "trial"), nan=-1.0) + 1
    last = max(number.max(), trials_ended)
    nothing = np.full((1, points.shape[1]), np.nan)
    count, by_trial = hypervolume_series(np.concatenate([points, nothing]), np.append(number, last), reference)
    seconds = _seconds(trials["created_at"])
    timed = np.isfinite(seconds)
    elapsed, by_time = hypervolume_series(points[timed], seconds[timed], reference)
    return History(count, by_trial, elapsed, by_time, reference_f1=-float(reference[0]))


def hypervolume_series(
    losses: FloatArray, order: FloatArray, reference: FloatArray, most_steps: int = MOST_STEPS
) -> tuple[FloatArray, FloatArray]:
    """Hypervolume of all rows up to and with each value of `order`.

    Only the front is carried from step to step, and its volume is computed anew only when it has changed. With more
    different values than `most_steps` the curve has that many of them, and is exact there.

    Args:
        losses: shape [n, 3] (or [n, 2]), minimised; rows with NaN count for nothing.
        order: when each row came, shape [n]; finite.
        reference: shape [3] (or [2]).
        most_steps: at least 2.

    Returns:
        the values of `order` that were taken, ascending, and the volumes, both of shape [steps].
    """
    rows = np.argsort(order, kind="stable")
    values, starts = np.unique(order[rows], return_index=True)
    ends = np.append(starts[1:], len(rows))
    if len(values) > most_steps:
        taken = np.linspace(0, len(values) - 1, most_steps).round().astype(np.int64)
        values, ends = values[taken], ends[taken]
    inside = np.asarray((losses < reference).all(axis=1))
    front, start = losses[:0], 0
    volumes: FloatArray = np.zeros(len(values), dtype=np.float64)
    volume = 0.0
    for step, end in enumerate(ends[: len(values)]):
        new = rows[start:end]
        start = end
        candidates = np.concatenate([front, losses[new[inside[new]]]])
        on_front = non_dominated(candidates)
        if on_front[len(front) :].any():
            front = np.unique(candidates[on_front], axis=0)
            volume = hypervolume(front, reference)
        volumes[step] = volume
    return values, volumes


def _seconds(created_at: pd.Series[Any]) -> FloatArray:
    """Since the earliest, NaN where there is no time, shape [n]."""
    times = pd.to_datetime(created_at.astype(object), errors="coerce", utc=True, format="ISO8601")
    return np.asarray((times - times.min()).dt.total_seconds(), dtype=np.float64)
