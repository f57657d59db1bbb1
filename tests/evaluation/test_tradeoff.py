"""Trade-off scores against figures worked out by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.tradeoff import compute_safe_compression_score, compute_tradeoff_score

POSITIVE = st.floats(0.01, 100)


@pytest.mark.parametrize(
    ("f1", "baseline", "compression", "speedup", "expected"),
    [
        (0.8, 0.8, 1, 1, 0.5 + 0.03 + 0.04),
        (0.72, 0.8, 5, 2.5, 0.45 + 0.15 + 0.1),
        (0.8, 0.8, 40, 9, 1.0),
        (0.0, 0.8, 10, 5, 0.5),
    ],
)
def test_tradeoff_score(f1, baseline, compression, speedup, expected):
    assert compute_tradeoff_score(f1, baseline, compression, speedup) == pytest.approx(expected)


@given(POSITIVE, POSITIVE, st.floats(0.01, 1))
def test_smaller_and_faster_never_score_less(compression, speedup, f1):
    score = compute_tradeoff_score(f1, 0.9, compression, speedup)
    assert compute_tradeoff_score(f1, 0.9, 2 * compression, speedup) >= score
    assert compute_tradeoff_score(f1, 0.9, compression, 2 * speedup) >= score


def test_weights_choose_the_term():
    assert compute_tradeoff_score(0.4, 0.8, 4, 2, weights=(0, 1, 0)) == pytest.approx(0.4)
    with pytest.raises(ValueError, match="weights"):
        compute_tradeoff_score(0.4, 0.8, 4, 2, weights=(1, 1))


@pytest.mark.parametrize("missing", [None, float("nan")])
@pytest.mark.parametrize("position", range(4))
def test_a_missing_input_gives_none(missing, position):
    values = [0.5, 0.6, 2.0, 2.0]
    values[position] = missing
    assert compute_tradeoff_score(*values) is None
    if position < 3:
        assert compute_safe_compression_score(*values[:3]) is None


ANYTHING = st.one_of(st.none(), st.just(float("nan")), st.floats(0, 1))


@given(ANYTHING, st.one_of(ANYTHING, st.just(0.0)), st.one_of(st.none(), POSITIVE), st.one_of(st.none(), POSITIVE))
def test_a_score_is_the_formula_or_none_and_never_an_error(f1, baseline, compression, speedup):
    known = all(value is not None and value == value for value in (f1, baseline)) and baseline != 0
    score = compute_tradeoff_score(f1, baseline, compression, speedup)
    if known and compression and speedup:
        expected = 0.5 * f1 / baseline + 0.3 * min(compression / 10, 1) + 0.2 * min(speedup / 5, 1)
        assert score == pytest.approx(expected)
    else:
        assert score is None
    safe = compute_safe_compression_score(compression, f1, baseline)
    assert (safe is None) == (not known or compression is None)


def test_safe_compression_score():
    assert compute_safe_compression_score(4, 0.45, 0.9) == pytest.approx(1.0)
    assert compute_safe_compression_score(4, 0.45, 0) is None
    assert compute_tradeoff_score(0.5, 0, 1, 1) is None
