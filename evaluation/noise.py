"""The front within noise: the models that no other one beats by more than the measurements can be wrong.

The plain front takes each figure at its word, so that of two equally good models the one with the luckier measurement
is kept and the other thrown away. Here model j dominates model i *beyond noise* when all of these hold, and in at least
one of them j is strictly better:

- size, which has no noise: `model_size_mb` of j is at most that of i;
- accuracy: the one-sided 95 % lower bound of macro F1 of j minus macro F1 of i is at least 0. It is a quantile of the
  paired Bayesian bootstrap over the comments (Rubin, Annals of Statistics 1981): in each round both models are scored
  under the same random weights of the comments. Models that answer alike differ by 0, without noise;
- latency: the whole interval of j's speed-up is at or above that of i, or the two have the very same figures.

Between equally good models that differ in a dozen decisions the bootstrap knows too little and says "beyond noise" too
often, in a simulation in 18 % of cases instead of 5 %; with fifty such decisions and more in some 9 %, with independent
errors in 4 %. The less two models differ, the less it matters which of them is kept.

The bound covers the draw of the comments and not the choice of the model among many: see `evaluation.selection`. It
never exceeds the difference that was measured, so that who dominates beyond noise also dominates plainly, and the
plain front is part of the front within noise.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from evaluation.front import BoolArray, FloatArray, front_rows
from pipeline.thresholds import as_classes, f1_from_counts

if TYPE_CHECKING:
    import pandas as pd

BLOCK_CELLS: Final = 2_000_000
"""Weights drawn at once (16 MB), so that memory does not grow with rounds × comments."""
ROUNDING: Final = 1e-12
"""Differences of macro F1 nearer to 0 than this are 0."""
_FIGURES: Final = ("f1_macro", "model_size_mb", "speedup_factor", "speedup_low", "speedup_high")


def macro_f1_draws(
    labels: npt.NDArray[Any], predictions: Mapping[str, npt.NDArray[Any]], rounds: int = 2000, seed: int = 0
) -> dict[str, FloatArray]:
    """Bootstrap draws of each model's macro F1, round by round under the same weights of the comments.

    A model's draws depend on its own predictions and the seed, not on which other models there are.

    Args:
        labels: 0/1, shape [n, L].
        predictions: 0/1, shape [n, L], by the model's key.
        rounds: of the bootstrap, at least 100.
        seed: of the weights.

    Returns:
        macro F1 in [0, 1] as in `pipeline.thresholds.f1_macro`, shape [rounds], by the model's key.

    Raises:
        ValueError: shapes that do not fit, values other than 0 and 1, too few rounds.
    """
    _validate(labels, predictions, rounds)
    actual = as_classes(labels) > 0
    # Hits and predictions of every class side by side: one product counts both.
    features = {key: _hits_and_predictions(actual, as_classes(values) > 0) for key, values in predictions.items()}
    generator = np.random.default_rng(seed)
    draws = {key: np.empty(rounds) for key in predictions}
    block = max(1, BLOCK_CELLS // len(labels))
    for start in range(0, rounds, block):
        weights = generator.standard_exponential((min(block, rounds - start), len(labels)))
        positives = weights @ actual
        for key, columns in features.items():
            hits, predicted = np.split(weights @ columns, 2, axis=1)
            draws[key][start : start + len(weights)] = f1_from_counts(hits, predicted, positives).mean(axis=1)
    return draws


def may_compete(frame: pd.DataFrame, *, only_safe: bool = False) -> BoolArray:
    """The rows that may be on a front: status "ok", finite objectives, a positive speed-up, and not `unsafe`.

    Args:
        frame: rows of `trials.parquet`.
        only_safe: the `safe` rows alone, as for `on_safe_front`.

    Returns:
        shape [rows].

    Raises:
        ValueError: a column is missing.
    """
    figures = _figures(frame)
    finite = np.isfinite([figures[name] for name in _FIGURES[:3]]).all(axis=0) & (figures["speedup_factor"] > 0)
    verdict, wanted = frame["safety_verdict"], "safe" if only_safe else "unsafe"
    of_verdict = verdict.eq(wanted).fillna(False).to_numpy(dtype=np.bool_) == only_safe
    ok = frame["status"].eq("ok").fillna(False).to_numpy(dtype=np.bool_)
    return np.asarray(ok & finite & of_verdict, dtype=np.bool_)


def within_noise(
    frame: pd.DataFrame, draws: Mapping[str, FloatArray], *, only_safe: bool = False, confidence: float = 0.95
) -> BoolArray:
    """Which rows are on the front within noise: no row of the plain front dominates them beyond noise.

    Dominators are sought on the plain front only: cheap, and on the careful side, as a row is dropped only for the sake
    of one that is shown. A row without an interval of its speed-up is never dominated.

    Args:
        frame: rows of `trials.parquet` with `model_key`; not changed.
        draws: of `macro_f1_draws`, by `model_key`, for every row that `may_compete`.
        only_safe: among the `safe` rows, as `on_safe_front`, instead of among all that are not `unsafe`.
        confidence: of the lower bound, in (0.5, 1).

    Returns:
        shape [rows].

    Raises:
        ValueError: a column is missing, a row that may compete has no draws, or the confidence is out of range.
    """
    if not 0.5 < confidence < 1:
        raise ValueError(f"confidence={confidence}: give a number between 0.5 and 1, such as 0.95")
    kept = may_compete(frame, only_safe=only_safe)
    keys = frame["model_key"].tolist()
    without = [keys[row] for row in np.flatnonzero(kept) if keys[row] not in draws]
    if without:
        raise ValueError(f"draws: none of model {str(without[0])[:12]} ({len(without)} models); draw for every key")
    figures = _figures(frame)
    f1 = figures["f1_macro"]
    plain = front_rows(frame.reset_index(drop=True))
    for row in plain.index[plain["on_safe_front" if only_safe else "on_front"]]:
        no_worse, better = _size_and_speed(figures, row)
        for other in np.flatnonzero(kept & no_worse):
            differences = draws[keys[row]] - draws[keys[other]]
            lower = min(np.quantile(differences, 1 - confidence, method="lower"), f1[row] - f1[other])
            kept[other] = lower < -ROUNDING or (lower <= ROUNDING and not better[other])
    return kept


def _size_and_speed(figures: Mapping[str, FloatArray], row: int) -> tuple[BoolArray, BoolArray]:
    """Where `row` is, beyond noise, no worse than the others in size and in speed, and where better in one: [rows]."""
    size = figures["model_size_mb"]
    slowest, fastest = figures["speedup_low"][row], figures["speedup_high"]
    same = np.all([figures[name] == figures[name][row] for name in _FIGURES[2:]], axis=0)
    no_worse = (size[row] <= size) & (same | (slowest >= fastest))
    return no_worse, (size[row] < size) | (slowest > fastest)


def _hits_and_predictions(actual: BoolArray, predicted: BoolArray) -> FloatArray:
    return np.concatenate([actual & predicted, predicted], axis=1).astype(np.float64)


def _figures(frame: pd.DataFrame) -> dict[str, FloatArray]:
    """The columns that are compared as arrays [rows], NaN for null."""
    needed = ("model_key", "status", "safety_verdict", *_FIGURES)
    missing = [column for column in needed if column not in frame.columns]
    if missing:
        raise ValueError(
            f"columns {missing}: not in the table (has: {', '.join(map(str, frame.columns))}); search again"
        )
    return {name: frame[name].to_numpy(dtype=np.float64, na_value=np.nan) for name in _FIGURES}


def _validate(labels: npt.NDArray[Any], predictions: Mapping[str, npt.NDArray[Any]], rounds: int) -> None:
    if rounds < 100:
        raise ValueError(f"rounds={rounds}: too few for a bound; give at least 100")
    if labels.ndim != 2 or labels.size == 0:
        raise ValueError(f"labels: shape {labels.shape}; give a non-empty array [n, L]")
    named = {"labels": labels, **{f"predictions of {key[:12]}": values for key, values in predictions.items()}}
    for name, values in named.items():
        if values.shape != labels.shape:
            raise ValueError(f"{name}: shape {values.shape} differs from labels {labels.shape}; align them")
        wrong = ~np.isin(values, (0, 1))
        if wrong.any():
            raise ValueError(f"{name}: value {values[wrong].flat[0]} is neither 0 nor 1; apply the thresholds first")
