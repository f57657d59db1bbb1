"""The methods that bound the drop of recall, against scipy, published figures and the sum over every sample."""

import numpy as np
import pytest
from scipy import optimize, stats

from benchmarks.recall_bounds import (
    LIMIT,
    bootstrap,
    chances,
    compare,
    conditional,
    every_pair,
    exact,
    score_statistic,
)


def test_chances_are_those_of_a_multinomial():
    lost, found = every_pair(20)
    weights = chances(lost, found, 20, 0.02, 0.1)
    assert weights.sum() == pytest.approx(1)
    known = stats.multinomial.pmf(np.stack([lost, found, 20 - lost - found], axis=1), 20, [0.12, 0.1, 0.78])
    assert weights == pytest.approx(known)
    assert chances(lost, found, 20, 0.02, 0.0)[found > 0].max() == 0


@pytest.mark.parametrize(("lost", "found", "support"), [(3, 2, 50), (9, 8, 200), (30, 25, 1000), (1, 5, 30)])
def test_score_is_taken_at_the_likeliest_rates_with_the_limit_as_drop(lost, found, support):
    def unlikely(rate):
        same = support - lost - found
        return -(lost * np.log(rate + LIMIT) + found * np.log(rate) + same * np.log(1 - 2 * rate - LIMIT))

    rate = optimize.minimize_scalar(unlikely, bounds=(1e-9, 0.48), method="bounded", options={"xatol": 1e-12}).x
    deviation = np.sqrt(support * (2 * rate + LIMIT - LIMIT**2))
    expected = (lost - found - support * LIMIT) / deviation
    assert score_statistic(np.array([lost]), np.array([found]), support)[0] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("rule", [exact, conditional])
@pytest.mark.parametrize("found_rate", [0.0, 0.02, 0.07, 0.2])
def test_exact_methods_hold_their_level_over_every_sample(rule, found_rate):
    lost, found = every_pair(60)
    weights = chances(lost, found, 60, LIMIT + 1e-4, found_rate)
    assert weights @ rule(lost, found, 60) <= 0.05


def test_without_found_ones_all_exact_methods_are_clopper_and_pearsons():
    lost = np.arange(12)
    within = stats.beta.ppf(0.95, lost + 1, 200 - lost) <= LIMIT
    assert within.tolist() == [True, True] + [False] * 10
    for rule in (exact, bootstrap):
        assert rule(lost, np.zeros_like(lost), 200).tolist() == within.tolist()


def test_the_bootstrap_holds_its_level():
    shares = compare(50, "just beyond", LIMIT + 1e-4, 0.1)
    assert 0.01 < shares["bootstrap"] <= 0.05
    assert shares["conditional"] < shares["bootstrap"] < shares["exact"] <= 0.05
