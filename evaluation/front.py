"""The Pareto front: dominance, hypervolume, knee, and the rows of `front.parquet`. All losses are minimised."""

from bisect import bisect_right
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from pipeline.choice import knee as knee

if TYPE_CHECKING:
    import pandas as pd

MANY, STRONG = 2_000, 8
"""From this many rows on, so many rows of a sample's front are compared with all before anything is sorted."""
FloatArray: TypeAlias = npt.NDArray[np.float64]
BoolArray: TypeAlias = npt.NDArray[np.bool_]


def non_dominated(losses: npt.NDArray[Any]) -> BoolArray:
    """Which rows no other row dominates (is nowhere worse and somewhere better).

    Equal rows do not dominate each other, so all copies of a front point are kept. O(n log n) for up to three
    objectives (Kung, Luccio and Preparata 1975), O(n · front) for more.

    Args:
        losses: shape [n, m], minimised, infinities allowed; a row with NaN is never on the front and dominates nothing.

    Returns:
        shape [n].

    Raises:
        ValueError: `losses` is not two-dimensional or has no column.
    """
    losses = _as_matrix(losses)
    on_front: BoolArray = np.asarray(~np.isnan(losses).any(axis=1))
    if not on_front.any():
        return on_front
    if len(losses) > MANY:
        on_front[on_front] = _not_beaten_by_a_few(losses[on_front])
    rows = losses[on_front]
    order = _lexicographic_order(list(rows.T))
    rows = rows[order]
    first = np.append(True, (rows[1:] != rows[:-1]).any(axis=1))  # of equal rows, of which all are on the front or none
    on_front[np.flatnonzero(on_front)[order]] = _front_of_unique_lexsorted(rows[first])[np.cumsum(first) - 1]
    return on_front


def hypervolume(losses: npt.NDArray[Any], reference: npt.ArrayLike) -> float:
    """Volume that the rows dominate, bounded by the reference point; exact, for two or three objectives.

    Args:
        losses: shape [n, m], m = 2 or 3, minimised; rows with NaN, or not below the reference in each objective, add 0.
        reference: shape [m], finite.

    Returns:
        the volume, ≥ 0; 0 for no rows, infinite where a row that counts holds -inf.

    Raises:
        ValueError: m is neither 2 nor 3, or the reference has another length or is not finite.
    """
    losses, corner = _as_matrix(losses), np.asarray(reference, dtype=np.float64)
    objectives = losses.shape[1]
    if objectives not in (2, 3):
        raise ValueError(f"losses: {objectives} objectives; hypervolume is exact for 2 or 3: choose columns")
    if corner.shape != (objectives,) or not np.isfinite(corner).all():
        raise ValueError(f"reference={corner.tolist()}: give {objectives} finite numbers, one an objective")
    inside = losses[(losses < corner).all(axis=1)]
    if np.isinf(inside).any():
        return float("inf")
    if objectives == 2:
        # A third objective of depth 1 turns the area into a volume.
        inside, corner = np.column_stack([inside, np.zeros(len(inside))]), np.append(corner, 1.0)
    return _volume_below(inside[np.argsort(inside[:, 2], kind="stable")], corner)


def front_rows(frame: "pd.DataFrame") -> "pd.DataFrame":
    """The rows of `front.parquet`: the front in (macro F1, `model_size_mb`, 1/`speedup_factor`).

    Only rows with `status` "ok", all three objectives and a positive speed-up compete. A row without a verdict is not
    `unsafe`, and not `safe` either.

    Args:
        frame: rows of `trials.parquet`, with columns `status`, `safety_verdict`, `f1_macro`, `model_size_mb` and
            `speedup_factor`; not changed.

    Returns:
        the rows on either front, sorted by `model_size_mb`, with boolean columns `on_front` (non-dominated among the
        rows that are not `unsafe`) and `on_safe_front` (non-dominated among the `safe` ones).

    Raises:
        ValueError: a column is missing.
    """
    needed = ("status", "safety_verdict", "f1_macro", "model_size_mb", "speedup_factor")
    missing = [column for column in needed if column not in frame.columns]
    if missing:
        raise ValueError(
            f"columns {missing}: not in the table (has: {', '.join(map(str, frame.columns))}); search again"
        )
    f1, size, speedup = (frame[column].to_numpy(dtype=np.float64, na_value=np.nan) for column in needed[2:])
    usable = _equals(frame["status"], "ok") & np.isfinite(f1) & np.isfinite(size) & np.isfinite(speedup) & (speedup > 0)
    losses = np.column_stack([-f1, size, 1.0 / np.where(usable, speedup, 1.0)])
    on_front = _front_among(losses, usable & ~_equals(frame["safety_verdict"], "unsafe"))
    on_safe_front = _front_among(losses, usable & _equals(frame["safety_verdict"], "safe"))
    marked = frame.assign(on_front=on_front, on_safe_front=on_safe_front)
    return marked[on_front | on_safe_front].sort_values("model_size_mb", kind="stable")


def _as_matrix(losses: npt.NDArray[Any]) -> FloatArray:
    if losses.ndim != 2 or losses.shape[1] == 0:
        raise ValueError(f"losses: shape {losses.shape}; give [n, m] with at least one objective")
    return np.asarray(losses, dtype=np.float64) + 0.0  # makes -0.0 and 0.0 the same row


def _lexicographic_order(columns: Sequence[npt.NDArray[Any]]) -> npt.NDArray[np.intp]:
    """Order of n rows by columns [n], the first one first: only rows that tie there go through slow stable sorts."""
    order = np.argsort(columns[0])
    ordered = columns[0][order]
    equal = ordered[1:] == ordered[:-1]
    tied = np.flatnonzero(np.append(False, equal) | np.append(equal, False))
    rows = order[tied]
    order[tied] = rows[np.lexsort([column[rows] for column in columns[::-1]])]
    return order


def _not_beaten_by_a_few(losses: FloatArray) -> BoolArray:
    """Rows [n, m] without NaN that none of some strong rows dominates: of many rows, most go at little cost."""
    generator = np.random.default_rng(0)
    sample = np.unique(losses[generator.integers(len(losses), size=MANY)], axis=0)
    strong = sample[_front_of_unique_lexsorted(sample)]
    if 2 * len(strong) > len(sample):
        return np.ones(len(losses), dtype=np.bool_)  # hardly a row is beaten by any
    left = np.arange(len(losses))
    rows = losses
    for row in strong[generator.permutation(len(strong))[:STRONG]]:
        kept = (rows < row).any(axis=1) | (rows == row).all(axis=1)
        left, rows = left[kept], rows[kept]
    survives = np.zeros(len(losses), dtype=np.bool_)
    survives[left] = True
    return survives


def _front_of_unique_lexsorted(losses: FloatArray) -> BoolArray:
    """The front of [n, m] rows that are sorted lexicographically, differ, and hold no NaN."""
    objectives = losses.shape[1]
    if objectives == 1:
        return np.asarray(np.arange(len(losses)) == 0, dtype=np.bool_)
    if objectives == 2:
        best_before = np.minimum.accumulate(np.append(np.inf, losses[:-1, 1]))
        on_front = np.asarray(losses[:, 1] < best_before, dtype=np.bool_)
        on_front[0] = True  # nothing precedes the first row, even at +inf
        return on_front
    return _halve(losses) if objectives == 3 else _peel(losses)


def _halve(losses: FloatArray) -> BoolArray:
    """Three objectives: of two halves, the first is no worse in the first objective, so the other two decide.

    Kung, Luccio and Preparata's recursion, level by level: in a block whose rows are in the second objective's order,
    a row of its latter half is dominated if a row of the former half stands before it with a third that is no worse.
    Rows are numbered, blocks are powers of two, and rows that fill up the last block dominate nothing.
    """
    rows = len(losses)
    size = 1 << (rows - 1).bit_length()
    by_second = _lexicographic_order([losses[:, 1], np.arange(rows)])
    blocks: npt.NDArray[np.int32] = np.append(by_second, np.arange(rows, size)).astype(np.int32)
    thirds: npt.NDArray[np.int32] = np.full(size, rows, dtype=np.int32)
    thirds[:rows] = np.unique(losses[:, 2], return_inverse=True)[1][blocks[:rows]]
    on_front = np.ones(size, dtype=np.bool_)
    half = size // 2
    while half:
        latter = (blocks & half).astype(np.bool_)
        of_former = np.where(latter, np.int32(rows + 1), thirds).reshape(-1, 2 * half)
        best_before = np.minimum.accumulate(of_former, axis=1).ravel()
        on_front[blocks[latter & (best_before <= thirds)]] = False
        blocks, thirds = (_halves(values, latter, half) for values in (blocks, thirds))
        half //= 2
    return on_front[:rows]


def _halves(values: npt.NDArray[np.int32], latter: BoolArray, half: int) -> npt.NDArray[np.int32]:
    """Each block of 2 · `half` values, one block after the other, with its former half moved before its latter."""
    parted = np.empty((len(values) // (2 * half), 2, half), dtype=np.int32)
    for side, members in enumerate((~latter, latter)):
        parted[:, side] = np.compress(members, values).reshape(-1, half)
    return parted.ravel()


def _peel(losses: FloatArray) -> BoolArray:
    """Any number of objectives: the first row left is on the front; drop what it dominates, repeat."""
    on_front = np.zeros(len(losses), dtype=np.bool_)
    left = np.arange(len(losses))
    while len(left):
        on_front[left[0]] = True
        left = left[(losses[left] < losses[left[0]]).any(axis=1)]
    return on_front


def _replaced_steps(xs: list[float], ys: list[float], x: float, y: float) -> slice | None:
    """Where (x, y) enters the staircase (xs ascending, ys descending): the steps it replaces; None if dominated."""
    start = bisect_right(xs, x)
    if start and ys[start - 1] <= y:
        return None
    stop = start
    while stop < len(ys) and ys[stop] >= y:
        stop += 1
    return slice(start, stop)


def _volume_below(losses: FloatArray, corner: FloatArray) -> float:
    """Volume of [n, 3] rows below the corner, sorted by the last objective: slabs of a growing staircase area."""
    x_end, y_end, z_end = (float(value) for value in corner)
    xs: list[float] = []
    ys: list[float] = []
    volume = area = z_before = 0.0
    for x, y, z in losses.tolist():
        volume += area * (z - z_before)
        z_before = z
        steps = _replaced_steps(xs, ys, x, y)
        if steps is not None:
            edges = [x, *xs[steps], xs[steps.stop] if steps.stop < len(xs) else x_end]
            heights = [ys[steps.start - 1] if steps.start else y_end, *ys[steps]]
            area += sum((edges[i + 1] - edges[i]) * (height - y) for i, height in enumerate(heights))
            xs[steps], ys[steps] = [x], [y]
    return volume + area * (z_end - z_before)


def _front_among(losses: FloatArray, eligible: BoolArray) -> BoolArray:
    on_front = np.zeros(len(losses), dtype=np.bool_)
    on_front[eligible] = non_dominated(losses[eligible])
    return on_front


def _equals(column: "pd.Series[Any]", value: str) -> BoolArray:
    """Elementwise equality, False for nulls of any kind."""
    return column.eq(value).fillna(False).to_numpy(dtype=np.bool_)
