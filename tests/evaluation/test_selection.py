"""The winner's curse by hand, and on figures whose luck is known."""

import numpy as np
import pandas as pd
import pytest

from evaluation.selection import winners_curse


def front_of(validation, test):
    keys = [f"model{i}" for i in range(len(validation))]
    return pd.DataFrame({"model_key": keys, "f1_macro": validation, "test_f1_macro": test})


def test_gaps_by_hand():
    result = winners_curse(front_of([0.8, 0.7, 0.6, np.nan], [0.75, 0.71, np.nan, 0.5]))
    assert result["gaps"] == pytest.approx({"model0": 0.05, "model1": -0.01})
    assert result["models"] == 2
    assert (result["mean_gap"], result["smallest_gap"], result["largest_gap"]) == pytest.approx((0.02, -0.01, 0.05))
    assert result["teacher_gap"] is None
    assert "the 2 models on the front is on average 0.0200 lower on test" in result["sentence"]
    assert "(from -0.0500 to +0.0100): expect the test figures" in result["sentence"]


def test_the_teacher_is_told_apart():
    references = front_of([0.9, 0.8], [0.88, 0.7]).assign(stage=["baseline", "classical"])
    result = winners_curse(front_of([0.8], [0.82]), references)
    assert result["teacher_gap"] == pytest.approx(0.02) and result["mean_gap"] == pytest.approx(-0.02)
    assert "the one model on the front is on average 0.0200 higher on test" in result["sentence"]
    assert "no sign of luck" in result["sentence"] and "(from" not in result["sentence"]
    assert "The teacher, which the search did not choose, is 0.0200 lower." in result["sentence"]


def test_the_expected_luck_of_the_best_of_many_is_found():
    """The best of ten equal models with noise s is s · 1.539 too high on average (expected maximum of ten normals)."""
    rng = np.random.default_rng(0)
    validation, test = rng.normal(0.7, 0.02, (2, 3000, 10))
    chosen, rows = validation.argmax(axis=1), np.arange(3000)
    result = winners_curse(front_of(validation[rows, chosen], test[rows, chosen]))
    assert result["mean_gap"] == pytest.approx(0.02 * 1.539, rel=0.05)


def test_before_the_test_there_is_no_gap():
    without = front_of([0.8], [0.7]).drop(columns="test_f1_macro")
    for front in (without, front_of([], []), front_of([0.8], [None])):
        result = winners_curse(front)
        assert (result["gaps"], result["models"], result["mean_gap"], result["largest_gap"]) == ({}, 0, None, None)
        assert "not measured on the test comments yet" in result["sentence"]
    with pytest.raises(ValueError, match="front: no column f1_macro"):
        winners_curse(without.drop(columns="f1_macro"))
