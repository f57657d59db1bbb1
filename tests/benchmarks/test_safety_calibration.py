"""The simulation of safety verdicts: its populations are what they claim, and its verdicts those of the check."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score, recall_score

from benchmarks.safety_calibration import (
    BEYOND,
    LEVEL_CELLS,
    LIMITS,
    MODELS,
    POWER_CELLS,
    Cell,
    beyond_chance,
    population,
    simulate,
)
from evaluation.bootstrap import Pairs
from evaluation.safety import check_safety_thresholds, judge

USUAL = {models.name: models for models in MODELS}


@pytest.mark.parametrize(
    ("models", "truth"), LEVEL_CELLS + POWER_CELLS, ids=lambda value: getattr(value, "name", value)
)
def test_true_drops_are_just_beyond_the_limits_they_claim(models, truth):
    patterns, chances = population(models, truth)
    assert chances.min() > 0
    assert chances.sum() == pytest.approx(1)
    prevalence, (macro, critical, recall) = (
        patterns.features[:, 0] @ chances,
        patterns.drops(chances @ patterns.features),
    )
    assert prevalence == pytest.approx(models.prevalence)
    drops, limits = np.array([macro, critical, recall]), LIMITS.of_drops
    beyond = {"macro F1": [0], "critical F1": [1], "recall": [2], "all": [1, 2] if models.labels == 1 else [0, 1, 2]}
    chosen = beyond.get(truth, [])
    assert drops[chosen] == pytest.approx(limits[chosen] + BEYOND, abs=1e-12)
    others = np.setdiff1d(range(3), chosen)
    assert (drops[others] <= {"nothing lost": 1e-12, "half of each limit": 0.6}.get(truth, 0.75) * limits[others]).all()


def test_drops_of_a_population_are_sklearns_on_very_many_comments():
    patterns, chances = population(USUAL["one binary label"], "critical F1")
    rows = np.random.default_rng(0).choice(len(chances), 1_000_000, p=chances)
    labels, teacher, student = (patterns.features[rows, column] for column in (0, 2, 4))
    drops = patterns.drops(chances @ patterns.features)
    for drop, metric in ((drops[1], f1_score), (drops[2], recall_score)):
        assert metric(labels, teacher) - metric(labels, student) == pytest.approx(drop, abs=0.004)


def test_independent_errors_are_independent():
    patterns, chances = population(USUAL["independent errors"], "all")
    labels, teacher, student = (patterns.features[:, column] for column in (0, 3, 6))
    for side in (labels, 1 - labels):
        chance = chances * side / (chances @ side)
        assert chance @ (teacher * student) == pytest.approx((chance @ teacher) * (chance @ student))


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 3))
def test_verdicts_on_counts_are_those_of_the_check_on_arrays(seed, label_count):
    rng = np.random.default_rng(seed)
    labels = (rng.random((300, label_count)) < 0.5).astype(int)
    baseline = labels ^ (rng.random(labels.shape) < 0.1)
    candidate = baseline ^ (rng.random(labels.shape) < rng.choice([0, 0.003, 0.1]))
    names = ["critical", "b", "c"][:label_count]
    checked = check_safety_thresholds(labels, baseline, candidate, names, LIMITS, rounds=200, seed=3)
    pairs = Pairs.of(labels, baseline, candidate, 0)
    assert judge(pairs, LIMITS, rounds=200, seed=3) == checked
    assert judge(pairs, LIMITS, rounds=200, seed=3, plan=False) == replace(checked, positives_needed=None)


@pytest.mark.parametrize(("models", "truth"), [("usual", "critical F1"), ("rare others, together", "macro F1")])
def test_safe_is_rarely_wrong(models, truth):
    cell = simulate(USUAL[models], truth, 50, 300, 200, seed=(1,))
    assert cell.safe + cell.inconclusive + cell.unsafe == 300
    assert not beyond_chance([cell])
    assert cell.unsafe > 90


def test_power_is_found():
    assert simulate(USUAL["nearly identical"], "nothing lost", 1000, 40, 200, seed=(1,)).safe >= 38


def test_a_bound_that_is_wrong_too_often_is_found():
    cells = [Cell("", "", 50, (), 2000, safe, 0, 2000 - safe) for safe in (0, 100, 115, 170)]
    assert beyond_chance(cells) == cells[3:]
    assert cells[1].error("safe") == pytest.approx(np.sqrt(0.05 * 0.95 / 2000), rel=0.02)
    assert cells[0].error("safe") > 0
