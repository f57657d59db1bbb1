"""Thresholds and macro F1 against scikit-learn and a loop over the grid."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score, precision_score, recall_score

from pipeline.thresholds import (
    LABEL_GRID,
    SHARED_GRID,
    best_label_thresholds,
    best_shared_threshold,
    f1_macro,
    hold_recall_threshold,
    threshold_cost,
)


@st.composite
def problems(draw):
    """Labels and probabilities [n, L]; values on the grid itself, empty and full labels are frequent."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, label_count = draw(st.integers(1, 30)), draw(st.integers(1, 4))
    labels = (rng.random((n, label_count)) < draw(st.sampled_from([0.0, 0.2, 0.6, 1.0]))).astype(int)
    probabilities = rng.random((n, label_count))
    if draw(st.booleans()):
        probabilities = np.round(probabilities * 20) / 20
    return labels, probabilities.astype(draw(st.sampled_from([np.float32, np.float64])))


def sklearn_f1_macro(labels, predictions):
    if labels.shape[1] == 1:
        return f1_score(labels[:, 0], predictions[:, 0], average="macro", labels=[0, 1], zero_division=0)
    return f1_score(labels, predictions, average="macro", zero_division=0)


def preferred(scores, grid):
    best = max(scores)
    tied = [float(value) for value, score in zip(grid, scores, strict=True) if score > best - 1e-12]
    return min(tied, key=lambda value: (round(abs(value - 0.5), 6), value))


@given(problems())
def test_f1_macro_is_sklearns(problem):
    labels, probabilities = problem
    predictions = (probabilities >= 0.5).astype(int)
    assert f1_macro(labels, predictions) == pytest.approx(sklearn_f1_macro(labels, predictions))


@settings(max_examples=40, deadline=None)
@given(problems())
def test_shared_threshold_is_the_best_of_the_grid(problem):
    labels, probabilities = problem
    scores = [sklearn_f1_macro(labels, (probabilities.astype(float) >= t).astype(int)) for t in SHARED_GRID]
    threshold, score = best_shared_threshold(labels, probabilities)
    assert threshold == preferred(scores, SHARED_GRID)
    assert score == pytest.approx(max(scores))


@settings(max_examples=15, deadline=None)
@given(problems())
def test_each_labels_threshold_is_the_best_of_the_grid(problem):
    labels, probabilities = problem
    thresholds = best_label_thresholds(labels, probabilities)
    assert thresholds.shape == (labels.shape[1],)
    for i, threshold in enumerate(thresholds):
        column = labels[:, [i]]
        scores = []
        for candidate in LABEL_GRID:
            predicted = (probabilities[:, [i]].astype(float) >= candidate).astype(int)
            alone = f1_score(column[:, 0], predicted[:, 0], zero_division=0)
            scores.append(sklearn_f1_macro(column, predicted) if labels.shape[1] == 1 else alone)
        assert threshold == preferred(scores, LABEL_GRID)


def test_grids_hold_the_exact_decimals():
    assert SHARED_GRID.tolist() == [0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6]
    assert LABEL_GRID.tolist() == [round(0.05 * i, 2) for i in range(1, 20)]


def test_ties_go_to_one_half_then_down():
    labels = np.array([[1, 0], [0, 1]])
    assert best_label_thresholds(labels, labels.astype(float)).tolist() == [0.5, 0.5]
    grid = np.array([0.45, 0.55])
    assert best_shared_threshold(labels, labels.astype(float), grid) == (0.45, 1.0)


@pytest.mark.parametrize(
    ("labels", "probabilities", "grid", "message"),
    [
        (np.zeros((2, 1)), np.full((2, 1), np.nan), SHARED_GRID, "NaN"),
        (np.zeros((2, 1)), np.zeros((3, 1)), SHARED_GRID, "probabilities: shape"),
        (np.zeros((0, 1)), np.zeros((0, 1)), SHARED_GRID, "labels: shape"),
        (np.zeros((2, 1)), np.zeros((2, 1)), np.array([0.5, 0.3]), "ascending"),
        (np.zeros((2, 1)), np.zeros((2, 1)), np.array([]), "ascending"),
    ],
)
def test_bad_input_is_named(labels, probabilities, grid, message):
    with pytest.raises(ValueError, match=message):
        best_shared_threshold(labels, probabilities, grid)


@settings(max_examples=40, deadline=None)
@given(problems(), st.integers(0, 60).map(lambda k: k / 60))
def test_recall_is_held_by_the_highest_threshold_that_does(problem, recall):
    labels, probabilities = (part[:, 0] for part in problem)
    if not labels.any():
        with pytest.raises(ValueError, match="labels: no positive"):
            hold_recall_threshold(labels, probabilities, recall)
        return
    recalls = [recall_score(labels, probabilities.astype(float) >= threshold) for threshold in LABEL_GRID]
    holding = [value for value, found in zip(LABEL_GRID, recalls, strict=True) if found >= recall - 1e-9]
    assert hold_recall_threshold(labels, probabilities, recall) == (max(holding, default=0.05), bool(holding))


def test_recall_of_a_fraction_is_held_exactly():
    labels, probabilities = np.ones(10, dtype=int), np.repeat([0.72, 0.12], [7, 3])
    assert hold_recall_threshold(labels, probabilities, 0.7) == (0.7, True)
    assert hold_recall_threshold(labels, probabilities, 0.1 + 0.6) == (0.7, True)
    assert hold_recall_threshold(labels, probabilities, 0.71) == (0.1, True)
    assert hold_recall_threshold(labels, probabilities * 0.1, 0.8) == (0.05, False)


@settings(max_examples=40, deadline=None)
@given(problems(), st.sampled_from(LABEL_GRID.tolist()), st.sampled_from(LABEL_GRID.tolist()))
def test_cost_of_a_threshold_is_sklearns(problem, before, after):
    labels, probabilities = (part[:, 0] for part in problem)
    cost = threshold_cost(labels, probabilities, before, after)
    for moment, threshold in (("before", before), ("after", after)):
        predicted = (probabilities.astype(float) >= threshold).astype(int)
        assert cost[moment] == {
            "threshold": threshold,
            "precision": pytest.approx(precision_score(labels, predicted)) if predicted.any() else None,
            "recall": pytest.approx(recall_score(labels, predicted)) if labels.any() else None,
            "f1": pytest.approx(f1_score(labels, predicted, zero_division=0)),
        }


@pytest.mark.parametrize(
    ("probabilities", "recall", "grid", "message"),
    [
        ([0.5, np.nan], 0.5, LABEL_GRID, "1 values are NaN"),
        ([0.5], 0.5, LABEL_GRID, "probabilities: shape"),
        ([0.5, 0.5], 1.5, LABEL_GRID, r"recall=1\.5"),
        ([0.5, 0.5], float("nan"), LABEL_GRID, "recall=nan"),
        ([0.5, 0.5], 0.5, LABEL_GRID[::-1], "ascending"),
    ],
)
def test_bad_input_of_a_held_recall_is_named(probabilities, recall, grid, message):
    with pytest.raises(ValueError, match=message):
        hold_recall_threshold(np.array([1, 0]), np.array(probabilities), recall, grid)
