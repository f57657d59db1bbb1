"""A Gaussian process beside a sum: against its closed form, and what it learns that a sum cannot."""

import math

import numpy as np
import pytest
from scipy.optimize import approx_fprime

from search.stage_tree.effects import QUALITY, Effects
from search.stage_tree.surface import FIRST_FIT, MOST_CENTRES, Surface, likeness, most_likely, root

CHOICES = np.linspace(-1.0, 1.0, 5)


def observations(count, seed, noise=0.002):
    """A ridge: the best rate depends on how long it is used; a third setting does nothing."""
    generator = np.random.default_rng(seed)
    places = generator.choice(CHOICES, size=(count, 3))
    lost = 0.05 * (places[:, 0] + 0.7 * places[:, 1]) ** 2
    values = np.stack([lost, 2.0 * lost], axis=1) + generator.normal(size=(count, 2)) * noise
    return [dict(zip(("rate", "epochs", "seed"), row, strict=True)) for row in places.tolist()], values


def features_of(places):
    return {"": 1.0} | {f"{name}~": value for name, value in places.items()}


def learnt(surface, places, values):
    for one, value in zip(places, values, strict=True):
        surface.add(features_of(one), one, value)
    return surface


def test_a_ridge_is_learnt_where_a_sum_sees_nothing():
    places, values = observations(60, 0)
    asked, truth = observations(200, 1, noise=0.0)
    surface = learnt(Surface((0.03, 0.06), QUALITY), places, values)
    effects = Effects((0.03, 0.06), QUALITY)
    for one, value in zip(places, values, strict=True):
        effects.add(features_of(one), value)
    features = [features_of(one) for one in asked]
    by_surface = surface.sample(features, asked, np.random.default_rng(0), 64).mean(axis=0)
    by_sum = effects.sample(features, np.random.default_rng(0), 64).mean(axis=0)
    errors = [np.sqrt(((found - truth) ** 2).mean(axis=0)) for found in (by_surface, by_sum)]
    assert (errors[0] < 0.25 * errors[1]).all()


def test_what_does_nothing_has_the_longest_length():
    places, values = observations(100, 2)
    surface = learnt(Surface((0.03, 0.06), QUALITY), places, values)
    lengths = dict(zip(surface._placed.columns, np.exp(surface._settled[2:]), strict=True))
    assert lengths["seed"] > 2 * max(lengths["rate"], lengths["epochs"])


def test_draws_have_the_mean_and_the_spread_of_the_process():
    """Where every observation is a centre, the regression is the process itself."""
    places, values = observations(FIRST_FIT, 3)
    surface = learnt(Surface((0.03, 0.06), QUALITY), places, values)
    asked = [*places[:2], {"rate": 0.0, "epochs": 0.0, "seed": 0.0}]
    drawn = surface.sample([features_of(one) for one in asked], asked, np.random.default_rng(0), 40_000)

    height, of_sum, *lengths = np.exp(surface._settled)
    at, where = (np.array([list(one.values()) for one in some]) / lengths for some in (places, asked))
    rows, new = (np.array([list(features_of(one).values()) for one in some]) for some in (places, asked))

    def covariance(one, other, one_rows, other_rows):
        return likeness(one, other, height) + of_sum / QUALITY.precision * one_rows @ other_rows.T

    known = covariance(at, at, rows, rows) + np.eye(len(at))
    across, among = covariance(where, at, new, rows), covariance(where, where, new, new)
    for target, scale in enumerate((0.03, 0.06)):
        y = values[:, target] / scale
        weights = np.linalg.solve(known, y)
        noise = (QUALITY.scale + y @ weights / 2) / (QUALITY.shape + len(y) / 2 - 1)
        spread = np.sqrt(noise * (1 + np.diag(among - across @ np.linalg.solve(known, across.T)))) * scale
        np.testing.assert_allclose(drawn[..., target].mean(axis=0), across @ weights * scale, atol=0.02 * spread.max())
        np.testing.assert_allclose(drawn[..., target].std(axis=0), spread, rtol=0.03)


def test_chains_alike_share_what_is_unknown_and_not_their_luck():
    places, values = observations(40, 4)
    surface = learnt(Surface((0.03, 0.06), QUALITY), places, values)
    far = {"rate": 9.0, "epochs": -9.0, "seed": 9.0}
    asked = [far, far, {"rate": -9.0, "epochs": 9.0, "seed": 9.0}]
    drawn = surface.sample([{}] * 3, asked, np.random.default_rng(0), 2000, luck=[False] * 3)[..., 0]
    np.testing.assert_array_equal(drawn[:, 0], drawn[:, 1])
    assert abs(np.corrcoef(drawn[:, 0], drawn[:, 2])[0, 1]) < 0.1
    near = surface.sample([{}], places[:1], np.random.default_rng(0), 2000, luck=[False])[..., 0]
    assert drawn[:, 0].std() > 5 * near.std()
    lucky = surface.sample([{}] * 2, [far, far], np.random.default_rng(0), 2000)[..., 0]
    assert (lucky[:, 0] != lucky[:, 1]).all()


def test_the_slope_of_the_density_is_that_of_finite_differences(monkeypatch):
    asked = {}
    monkeypatch.setattr(
        "search.stage_tree.surface.minimize", lambda surprise, start, **_: asked.update(f=surprise) or Found(start)
    )
    places, values = observations(25, 5)
    at = np.array([list(one.values()) for one in places])
    start = np.array([0.5, -0.3, 0.2, 0.9, 1.5])
    most_likely(start, 0.1 * at @ at.T + 0.4, at, values[:, 0] / 0.03, QUALITY)
    slope = approx_fprime(start, lambda settled: asked["f"](settled)[0], 1e-6)
    np.testing.assert_allclose(asked["f"](start)[1], slope, rtol=1e-3, atol=1e-3)


class Found:
    def __init__(self, x):
        self.x = x


def test_settings_and_words_may_be_new_after_lengths_were_found():
    places, values = observations(30, 6)
    surface = learnt(Surface((0.03, 0.06), QUALITY), places, values)
    new = places[0] | {"student=layers": 1.0, "depth": -1.0}
    generator = np.random.default_rng(0)
    surface.sample([features_of(new)], [new], generator, 4)
    for number in range(30):
        surface.add(features_of(new | {"depth": number / 30}), new | {"depth": number / 30}, np.array([1.0, 1.0]))
    drawn = surface.sample([features_of(new)], [new], generator, 200)
    assert drawn[..., 0].mean() == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("count", [1, FIRST_FIT - 1, FIRST_FIT, 3 * MOST_CENTRES])
def test_equal_observations_give_equal_beliefs(count):
    places, values = observations(count, 7)
    asked = places[:1]
    one, other = (
        learnt(Surface((0.03, 0.06), QUALITY), places, values).sample(
            [features_of(asked[0])], asked, np.random.default_rng(1), 8
        )
        for _ in range(2)
    )
    np.testing.assert_array_equal(one, other)
    assert np.isfinite(one).all() and len(one) == 8 and math.isfinite(one.std())


@pytest.mark.parametrize("length", [1e-7, 1e-3, 1.0, 1e5])
def test_places_have_a_root_with_any_length(length):
    places = np.random.default_rng(0).choice(CHOICES, size=(60, 3))
    places = np.concatenate([places, places + 1e-9 * length]) / length  # as good as equal ones, far from zero
    factor = root(places, 4.0)
    assert np.isfinite(factor).all()
    assert np.allclose(np.diag(factor @ factor.T), 4.0, rtol=1e-5)
    if length == 1.0:
        assert np.allclose(factor @ factor.T, likeness(places, places, 4.0), atol=1e-5)


def test_the_search_for_lengths_stays_where_the_noise_can_be_told():
    places = np.random.default_rng(0).choice(CHOICES, size=(20, 2))
    start = np.array([60.0, 60.0, 0.7, 0.7])
    found = most_likely(start, np.ones((20, 20)), places, np.zeros(20), QUALITY)
    assert np.isfinite(found).all()
    assert (found[:2] < 15.0).all()
