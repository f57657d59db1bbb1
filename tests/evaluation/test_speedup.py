"""Speed-ups from simulated machines whose true ratio is known: coverage, robustness, fairness to both models."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import gmean, median_abs_deviation, sem
from scipy.stats import t as student_t

from evaluation.speedup import RESOLUTION, paired_speedup, steady_rounds, summarise

COMMENTS = 12


def machine_times(random, rounds, ratio, repeats=(1, 1), disturbed=0.0):
    """[rounds, repeats, comments] of baseline and candidate: a wandering machine, that also wanders for one model more
    than for the other, comments of many lengths, requests that are disturbed now and then."""
    comment = random.lognormal(0.0, 0.8, COMMENTS)
    mood = np.cumsum(random.normal(0.0, 0.05, rounds))
    apart = random.normal(0.0, 0.05, rounds)  # shared by all requests of a round
    times = []
    for level, own, often in ((ratio, apart, repeats[0]), (1.0, 0.0, repeats[1])):
        noise = random.normal(0.0, 0.03, (rounds, often, COMMENTS))
        noise += random.exponential(0.5, noise.shape) * (random.random(noise.shape) < disturbed)
        times.append(level * comment * np.exp((mood + own)[:, None, None] + noise))
    return times


@pytest.mark.parametrize(("rounds", "ratio"), [(4, 0.4), (8, 15.0), (25, 3.0)])
def test_the_interval_covers_the_true_ratio_as_often_as_it_says(rounds, ratio):
    random = np.random.default_rng(rounds)
    covered, as_if_independent, trials = 0, 0, 150
    for _ in range(trials):
        baseline, candidate = machine_times(random, rounds, ratio, repeats=(1, 3), disturbed=0.1)
        speedup, low, high = paired_speedup(baseline, candidate, resolution=(0.0, 0.0))
        assert low < speedup < high
        covered += low <= ratio <= high
        quiet = machine_times(random, rounds, ratio)
        logs = np.log(quiet[0] / quiet[1]).ravel()
        as_if_independent += abs(logs.mean() - np.log(ratio)) <= student_t.ppf(0.975, len(logs) - 1) * sem(logs)
    assert covered / trials >= 0.95 - 3 * np.sqrt(0.95 * 0.05 / trials)
    assert as_if_independent / trials < 0.8, "requests of one round are not independent"


@settings(deadline=None, max_examples=25)
@given(st.integers(2, 9), st.integers(1, 4), st.integers(1, 30), st.integers(0, 2**32 - 1))
def test_the_speedup_is_the_geometric_mean_of_ratios_of_low_times(rounds, repeats, comments, seed):
    random = np.random.default_rng(seed)
    baseline, candidate = (
        random.lognormal(size=(rounds, 1, comments)),
        random.lognormal(size=(rounds, repeats, comments)),
    )
    typical = [
        pd.DataFrame([pd.DataFrame(turn).quantile(0.25) for turn in np.log(times)]).quantile(0.1).to_numpy()
        for times in (baseline, candidate)
    ]
    speedup, low, high = paired_speedup(baseline, candidate)
    assert speedup == pytest.approx(gmean(np.exp(typical[0] - typical[1])))
    assert low * high == pytest.approx(speedup**2), "as far down as up"
    inverse = paired_speedup(candidate, baseline)
    assert inverse == pytest.approx((1 / speedup, 1 / high, 1 / low))
    bare, more = (paired_speedup(factor * baseline, candidate, resolution=(0.0, 0.0)) for factor in (1.0, 7.0))
    assert more == pytest.approx(tuple(7.0 * value for value in bare))


def test_resolution_is_added_on_both_sides_more_for_models_that_are_unlike():
    baseline, candidate = machine_times(np.random.default_rng(0), 8, 3.0)
    speedup, low, high = paired_speedup(baseline, candidate, resolution=(0.0, 0.0))
    _, lower, higher = paired_speedup(baseline, candidate)
    added = RESOLUTION[0] + RESOLUTION[1] * np.log(speedup)
    assert (np.log(low / lower), np.log(higher / high)) == pytest.approx((added, added))
    still = paired_speedup(np.full((5, 1, 3), 2.0), np.full((5, 2, 3), 6.0), resolution=(0.01, 0.02))
    assert np.log(still) == pytest.approx(-np.log(3) + np.array([0, -1, 1]) * (0.01 + 0.02 * np.log(3)))


def test_a_higher_confidence_is_a_wider_interval():
    times = machine_times(np.random.default_rng(0), 8, 3.0)
    widths = [high / low for _, low, high in (paired_speedup(*times, confidence=level) for level in (0.8, 0.95, 0.99))]
    assert 1 < widths[0] < widths[1] < widths[2]


def test_of_a_single_round_nobody_knows_the_noise():
    speedup, low, high = paired_speedup(np.full((1, 1, 3), 2.0), np.full((1, 4, 3), 0.5))
    assert (speedup, low, high) == (pytest.approx(4.0), 0.0, np.inf)


def test_no_model_gains_by_being_asked_more_often():
    random = np.random.default_rng(1)
    found = [
        np.log(paired_speedup(*machine_times(random, 8, 1.0, repeats=(1, 40), disturbed=0.1))[0]) for _ in range(60)
    ]
    assert abs(np.mean(found)) < 0.015, "the least time of 40 would be 7 % below the only one"


def test_pairing_is_much_sharper_than_means_of_separate_runs():
    random = np.random.default_rng(0)
    paired, separate = [], []
    for _ in range(100):
        baseline, candidate = machine_times(random, 20, 2.0, disturbed=0.1)
        paired.append(np.log(paired_speedup(baseline, candidate)[0] / 2.0))
        separate.append(np.log(baseline[:10].mean() / candidate[10:].mean() / 2.0))
    assert np.std(paired) < 0.15 * np.std(separate)
    assert abs(np.mean(paired)) < 0.01


def test_a_round_in_which_the_machine_was_slower_is_not_steady():
    random = np.random.default_rng(2)
    times = random.lognormal(0.0, 0.8, COMMENTS) * np.exp(random.normal(0.0, 0.02, (20, COMMENTS)))
    assert steady_rounds(times).all()
    departed = times.copy()
    departed[7] *= 1.25
    departed[3] /= 1.25
    assert np.flatnonzero(~steady_rounds(departed)).tolist() == [3, 7]
    single = times.copy()
    single[7, 2] *= 30
    assert steady_rounds(single).all(), "one disturbed request does not condemn its round"


@settings(deadline=None)
@given(st.integers(1, 30), st.integers(1, 8), st.floats(0.0, 2.0), st.integers(0, 2**32 - 1))
def test_at_least_half_of_the_rounds_are_steady(rounds, comments, spread, seed):
    random = np.random.default_rng(seed)
    times = np.exp(random.normal(0.0, spread, (rounds, 1)) + random.normal(0.0, 0.01, (rounds, comments)))
    steady = steady_rounds(times)
    assert steady.shape == (rounds,) and steady.sum() >= rounds / 2
    lengths = random.lognormal(size=comments)
    assert (steady_rounds(times * lengths) == steady).all(), "long and short comments alike"


@settings(deadline=None)
@given(st.integers(3, 30), st.integers(0, 2**32 - 1))
def test_departures_are_measured_in_median_absolute_deviations(rounds, seed):
    times = np.exp(np.random.default_rng(seed).normal(0.0, 0.3, (rounds, 1)))
    logs = np.log(times[:, 0])
    far = np.abs(logs - np.median(logs)) / max(4 * median_abs_deviation(logs), np.log(1.03))
    clear = np.abs(far - 1) > 1e-9
    assert (steady_rounds(times)[clear] == (far < 1)[clear]).all()


def test_summarise_is_the_mean_and_percentiles_between_ranks():
    times = np.random.default_rng(0).lognormal(size=997)
    ordered = np.sort(times)
    found = summarise(times)
    assert found["latency_mean_ms"] == pytest.approx(sum(times) / 997)
    ranks = [0.50 * 996, 0.95 * 996, 0.99 * 996]
    expected = [ordered[int(r)] + (r - int(r)) * (ordered[int(r) + 1] - ordered[int(r)]) for r in ranks]
    assert [found[f"latency_p{p}_ms"] for p in (50, 95, 99)] == pytest.approx(expected)
