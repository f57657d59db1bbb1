"""The posterior against its closed form, and what a draw from it says of things never seen."""

import numpy as np
import pytest

from search.stage_tree.effects import PAIR, PAIR_PRECISION, PHYSICS, QUALITY, Effects, Prior


def observations(count: int, seed: int) -> tuple[list[dict[str, float]], np.ndarray]:
    generator = np.random.default_rng(seed)
    features = [{"": 1.0, "a": float(a), **({"b": 1.0} if b else {})} for a, b in generator.normal(size=(count, 2)) > 0]
    truth = np.array([[one.get("a", 0) * 0.3 - one.get("b", 0) * 0.1 + 0.2, one["a"] * 4.0] for one in features])
    return features, truth + generator.normal(size=truth.shape) * [0.01, 0.1]


@pytest.mark.parametrize("prior", [PHYSICS, QUALITY])
def test_draws_have_the_mean_and_the_spread_of_the_posterior_prediction(prior: Prior) -> None:
    features, values = observations(12, 0)
    effects = Effects((0.1, 2.0), prior)
    for one, value in zip(features, values, strict=True):
        effects.add(one, value)
    asked = [{"": 1.0, "a": 1.0}, {"": 1.0, "a": 0.0, "b": 1.0}]
    drawn = effects.sample(asked, np.random.default_rng(1), 20_000)

    names = ["", "a", "b"]
    design = np.array([[one.get(name, 0.0) for name in names] for one in features])
    rows = np.array([[one.get(name, 0.0) for name in names] for one in asked])
    covariance = np.linalg.inv(design.T @ design + prior.precision * np.eye(3))
    for target, scale in enumerate((0.1, 2.0)):
        y = values[:, target] / scale
        mean = covariance @ design.T @ y
        rest = prior.scale + (y @ y - mean @ design.T @ y) / 2
        shape = prior.shape + len(y) / 2
        spread = np.sqrt((1 + np.diag(rows @ covariance @ rows.T)) * rest / (shape - 1)) * scale
        np.testing.assert_allclose(drawn[..., target].mean(axis=0), rows @ mean * scale, atol=5 * spread.max() / 141)
        np.testing.assert_allclose(drawn[..., target].std(axis=0), spread, rtol=0.05)


def test_what_was_never_seen_is_open_and_what_was_seen_often_is_not() -> None:
    features, values = observations(200, 2)
    effects = Effects((0.1, 2.0))
    for one, value in zip(features, values, strict=True):
        effects.add(one, value)
    drawn = effects.sample([{"": 1.0, "a": 1.0}, {"": 1.0, "a": 1.0, "new": 1.0}], np.random.default_rng(0), 2000)
    known, unknown = drawn.std(axis=0)
    assert (unknown > 3 * known).all()


def test_more_names_than_the_first_room() -> None:
    effects = Effects((1.0,))
    for number in range(100):
        effects.add({f"f{number}": 1.0}, [float(number % 7)])
        effects.add({f"f{number}": 1.0}, [float(number % 7)])
    drawn = effects.sample([{f"f{number}": 1.0} for number in range(100)], np.random.default_rng(0), 400)
    np.testing.assert_allclose(drawn[..., 0].mean(axis=0), np.arange(100) % 7, atol=0.6)


def test_what_two_settings_do_together_is_learnt_and_believed_to_be_half_as_large() -> None:
    generator = np.random.default_rng(3)
    places = generator.choice([-1.0, 0.0, 1.0], size=(64, 2))
    product = f"a{PAIR}b"
    effects = Effects((1.0,))
    for a, b in places:
        effects.add({"": 1.0, "a": a, "b": b, product: a * b}, [0.5 * a + 2.0 * a * b])
    asked = [{"": 1.0, "a": a, "b": b, product: a * b} for a, b in [(1.0, 1.0), (-1.0, 1.0), (1.0, -1.0)]]
    drawn = effects.sample(asked, np.random.default_rng(0), 300)[..., 0]
    np.testing.assert_allclose(drawn.mean(axis=0), [2.5, -2.5, -1.5], atol=0.05)

    variances = []
    for name in ("a", product):
        drawn = Effects((1.0,), Prior(1e6, 1e6, 0.01)).sample([{name: 1.0}], np.random.default_rng(0), 20_000)
        variances.append(drawn.var() - 1.0)  # without the luck
    assert variances[0] / variances[1] == pytest.approx(PAIR_PRECISION, rel=0.1)


def test_a_few_lucky_fits_leave_quality_uncertain_and_physics_not() -> None:
    """With as many settings as observations a fit is perfect; luck that is known beforehand keeps it from certainty."""
    generator = np.random.default_rng(4)
    features = [{"": 1.0} | {f"s{i}": float(v) for i, v in enumerate(generator.normal(size=20))} for _ in range(20)]
    spreads = []
    for prior in (QUALITY, PHYSICS):
        effects = Effects((1.0,), prior)
        for one in features:
            effects.add(one, [0.1 * one["s0"]])
        spreads.append(effects.sample(features[:1], np.random.default_rng(0), 500).std())
    assert spreads[0] > 0.2 > 0.1 > spreads[1]


def test_an_observation_without_luck_is_drawn_by_its_settings_alone() -> None:
    features, values = observations(200, 5)
    effects = Effects((0.1, 2.0))
    for one, value in zip(features, values, strict=True):
        effects.add(one, value)
    asked = [{"": 1.0, "a": 1.0}] * 3
    drawn = effects.sample(asked, np.random.default_rng(0), 500, [True, False, False])
    np.testing.assert_allclose(drawn[:, 1], drawn[:, 2])
    assert (drawn[:, 0].std(axis=0) > 3 * drawn[:, 1].std(axis=0)).all()
