"""Intervals against SciPy, and macro F1 against scikit-learn."""

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import f1_score, multilabel_confusion_matrix

from pipeline.intervals import confusion, macro_f1, macro_f1_interval, wilson


@pytest.mark.parametrize(("successes", "trials"), [(0, 1), (0, 40), (7, 7), (194, 237), (1, 3), (500, 1000)])
def test_wilson_is_scipy_s(successes, trials):
    expected = binomtest(successes, trials).proportion_ci(0.95, method="wilson")
    assert wilson(successes, trials) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_no_trials_no_interval():
    assert wilson(0, 0) is None


def sample(labels, comments=400, seed=0):
    rng = np.random.default_rng(seed)
    actual = (rng.random((comments, labels)) < 0.3).astype(np.int8)
    flipped = rng.random((comments, labels)) < 0.2
    return actual, np.where(flipped, 1 - actual, actual).astype(np.int8)


@pytest.mark.parametrize("labels", [1, 2, 5])
def test_macro_f1_and_confusion_are_scikit_learn_s(labels):
    actual, said = sample(labels)
    one = (actual.ravel(), said.ravel()) if labels == 1 else (actual, said)
    assert macro_f1(actual, said) == pytest.approx(f1_score(*one, average="macro"))
    expected = multilabel_confusion_matrix(actual, said).reshape(-1, 4)[-labels:]
    assert confusion(actual, said).tolist() == expected.tolist()


def test_the_interval_is_the_plain_bootstrap_s():
    """Another generator, one drawn sample at a time, by scikit-learn."""
    actual, said = sample(3)
    rng = np.random.default_rng(9)
    drawn = []
    for _ in range(1000):
        rows = rng.integers(0, len(actual), len(actual))
        drawn.append(f1_score(actual[rows], said[rows], average="macro"))
    expected = np.quantile(drawn, [0.025, 0.975])
    low, high = macro_f1_interval(actual, said)
    assert (low, high) == pytest.approx(tuple(expected), abs=0.008)
    assert low < macro_f1(actual, said) < high
    assert macro_f1_interval(actual, said) == (low, high)
