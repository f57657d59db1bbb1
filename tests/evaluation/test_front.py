"""Dominance against the definition, hypervolume against closed forms and inclusion-exclusion."""

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.front import MANY, front_rows, hypervolume, non_dominated

OBJECTIVES, ROWS = st.integers(1, 5), st.integers(0, 40)


@st.composite
def losses_of(draw, objectives=OBJECTIVES, rows=ROWS, special=True):
    """[n, m] on a coarse lattice, so that ties and duplicates are the rule."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = (draw(rows), draw(objectives))
    losses = rng.integers(-2, draw(st.integers(0, 8)), shape, endpoint=True).astype(float)
    if special and draw(st.booleans()):
        odd = rng.random(shape) < 0.1
        losses[odd] = rng.choice([np.nan, np.inf, -np.inf, -0.0], size=int(odd.sum()))
    return losses


def dominated_by_definition(losses):
    return [
        any((other <= row).all() and (other < row).any() for other in losses if not np.isnan(other).any())
        for row in losses
    ]


def volume_by_inclusion_exclusion(losses, reference):
    boxes = [row for row in losses if (row < reference).all()]
    return sum(
        (-1) ** (size + 1) * np.prod(reference - np.max(subset, axis=0))
        for size in range(1, len(boxes) + 1)
        for subset in combinations(boxes, size)
    )


@settings(max_examples=300, deadline=None)
@given(losses_of())
def test_non_dominated_is_the_definition(losses):
    expected = ~np.array(dominated_by_definition(losses), dtype=bool) & ~np.isnan(losses).any(axis=1)
    result = non_dominated(losses)
    assert result.shape == (len(losses),)
    assert result.dtype == np.bool_
    assert result.tolist() == expected.tolist()


@pytest.mark.parametrize("objectives", [2, 3])
def test_non_dominated_on_many_rows(objectives):
    losses = np.random.default_rng(0).random((3000, objectives))
    # On a sphere's octant every point is on the front.
    sphere = -losses / np.linalg.norm(losses, axis=1, keepdims=True)
    assert non_dominated(sphere).all()
    kept = non_dominated(losses)
    assert 0 < kept.sum() < 1500
    front = losses[kept]
    assert all((front <= row).all(axis=1).any() for row in losses)


@settings(max_examples=100, deadline=None)
@given(losses_of(st.integers(2, 3), st.integers(0, 8), special=False))
def test_hypervolume_is_inclusion_exclusion(losses):
    reference = np.full(losses.shape[1], 4.0)
    assert hypervolume(losses, reference) == pytest.approx(volume_by_inclusion_exclusion(losses, reference))
    assert hypervolume(losses[::-1], reference) == pytest.approx(hypervolume(losses, reference))


def test_hypervolume_closed_forms():
    assert hypervolume(np.array([[0.0, 0.0]]), [2, 3]) == 6
    assert hypervolume(np.array([[1.0, 2.0, 3.0]]), [2, 4, 6]) == 6
    assert hypervolume(np.array([[0.0, 1.0], [1.0, 0.0]]), [2, 2]) == 3
    assert hypervolume(np.array([[2.0, 0.0], [np.nan, 0.0], [5.0, 5.0]]), [2, 2]) == 0
    assert hypervolume(np.empty((0, 3)), [1, 1, 1]) == 0
    assert hypervolume(np.array([[-np.inf, 0.0, 0.0]]), [1, 1, 1]) == np.inf
    n = 200  # a fine staircase below x + y = 1 holds (n - 1) / 2n of the unit square
    x = np.arange(1, n) / n
    assert hypervolume(np.column_stack([x, 1 - x]), [1, 1]) == pytest.approx((n - 1) / (2 * n))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: non_dominated(np.zeros(3)), "losses: shape"),
        (lambda: hypervolume(np.zeros((1, 4)), [1, 1, 1, 1]), "4 objectives"),
        (lambda: hypervolume(np.zeros((1, 2)), [1, np.inf]), "reference="),
        (lambda: front_rows(pd.DataFrame({"status": ["ok"]})), "safety_verdict"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


TABLE = [
    # name, status, verdict, F1, size, speed-up, on_front, on_safe_front (None: in neither)
    ("teacher", "ok", "safe", 0.80, 100.0, 1.0, True, True),
    ("unsafe", "ok", "unsafe", 0.81, 1.0, 9.0, None, None),
    ("inconclusive", "ok", "inconclusive", 0.79, 20.0, 4.0, True, False),
    ("behind it", "ok", "safe", 0.78, 25.0, 4.0, False, True),
    ("copy", "ok", "inconclusive", 0.79, 20.0, 4.0, True, False),
    ("dominated", "ok", "safe", 0.70, 30.0, 2.0, None, None),
    ("no verdict", "ok", None, 0.60, 5.0, 5.0, True, False),
    ("failed", "failed", "safe", 0.99, 1.0, 9.0, None, None),
    ("no status", None, "safe", 0.99, 1.0, 9.0, None, None),
    ("no latency", "ok", "safe", 0.99, 1.0, None, None, None),
    ("no F1", "ok", "safe", None, 1.0, 9.0, None, None),
]


@pytest.mark.parametrize("backend", ["numpy", "nullable", "object"])
def test_front_rows(backend):
    columns = ["name", "status", "safety_verdict", "f1_macro", "model_size_mb", "speedup_factor", "front", "safe_front"]
    frame = pd.DataFrame(TABLE, columns=columns)
    if backend == "nullable":
        frame = frame.convert_dtypes()
    elif backend == "object":
        frame = frame.astype({"status": object, "safety_verdict": object, "f1_macro": object})
    before = frame.copy()
    result = front_rows(frame)
    expected = sorted((row for row in TABLE if row[6] is not None), key=lambda row: row[4])
    assert result["name"].tolist() == [row[0] for row in expected]
    assert result["on_front"].tolist() == [row[6] for row in expected]
    assert result["on_safe_front"].tolist() == [row[7] for row in expected]
    assert result["on_front"].dtype == bool
    pd.testing.assert_frame_equal(frame, before)


def test_front_rows_of_nothing():
    frame = pd.DataFrame(
        TABLE[:0], columns=["n", "status", "safety_verdict", "f1_macro", "model_size_mb", "speedup_factor", "a", "b"]
    )
    assert len(front_rows(frame)) == 0


@pytest.mark.parametrize("levels", [4, 60, 10**6])
def test_many_rows_are_thinned_without_losing_one(levels: int) -> None:
    losses = np.random.default_rng(levels).integers(0, levels, (3 * MANY, 3)).astype(float)
    losses[::50] = np.nan
    expected = [
        not np.isnan(row).any() and not ((losses <= row).all(axis=1) & (losses < row).any(axis=1)).any()
        for row in losses
    ]
    assert non_dominated(losses).tolist() == expected


@pytest.mark.parametrize("rows", [MANY - 1, MANY + 49])
def test_a_front_that_is_most_of_the_rows(rows: int) -> None:
    rng = np.random.default_rng(rows)
    sphere = -np.abs(rng.normal(size=(rows, 3)))
    sphere /= np.linalg.norm(sphere, axis=1, keepdims=True)
    sphere[::7] = sphere[1::7][: len(sphere[::7])] + rng.choice([0.0, 1e-9], (len(sphere[::7]), 3))
    expected = np.array([not ((sphere <= row).all(axis=1) & (sphere < row).any(axis=1)).any() for row in sphere])
    assert 0.5 * rows < expected.sum() < rows
    assert non_dominated(sphere).tolist() == expected.tolist()
