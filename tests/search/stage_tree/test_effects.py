"""The posterior against its closed form, and what a draw from it says of things never seen."""

import numpy as np

from search.stage_tree.effects import MANY, PAIR, PRIOR_PRECISION, PRIOR_SCALE, PRIOR_SHAPE, Effects


def observations(count: int, seed: int) -> tuple[list[dict[str, float]], np.ndarray]:
    generator = np.random.default_rng(seed)
    features = [{"": 1.0, "a": float(a), **({"b": 1.0} if b else {})} for a, b in generator.normal(size=(count, 2)) > 0]
    truth = np.array([[one.get("a", 0) * 0.3 - one.get("b", 0) * 0.1 + 0.2, one["a"] * 4.0] for one in features])
    return features, truth + generator.normal(size=truth.shape) * [0.01, 0.1]


def test_draws_have_the_mean_and_the_spread_of_the_posterior_prediction() -> None:
    features, values = observations(12, 0)
    effects = Effects((0.1, 2.0))
    for one, value in zip(features, values, strict=True):
        effects.add(one, value)
    asked = [{"": 1.0, "a": 1.0}, {"": 1.0, "a": 0.0, "b": 1.0}]
    drawn = effects.sample(asked, np.random.default_rng(1), 20_000)

    names = ["", "a", "b"]
    design = np.array([[one.get(name, 0.0) for name in names] for one in features])
    rows = np.array([[one.get(name, 0.0) for name in names] for one in asked])
    covariance = np.linalg.inv(design.T @ design + PRIOR_PRECISION * np.eye(3))
    for target, scale in enumerate((0.1, 2.0)):
        y = values[:, target] / scale
        mean = covariance @ design.T @ y
        rest = PRIOR_SCALE + (y @ y - mean @ design.T @ y) / 2
        shape = PRIOR_SHAPE + len(y) / 2
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


def test_products_of_settings_count_as_soon_as_there_are_many_observations() -> None:
    generator = np.random.default_rng(3)
    places = generator.choice([-1.0, 0.0, 1.0], size=(MANY, 2))
    features = [{"": 1.0, "a": a, "b": b, f"a{PAIR}b": a * b} for a, b in places]
    values = 0.5 * places[:, :1] + 2.0 * places.prod(axis=1, keepdims=True)
    effects, plain = Effects((1.0,)), Effects((1.0,))
    for one, value in zip(features[:-1], values[:-1], strict=True):
        effects.add(one, value)
        plain.add({name: number for name, number in one.items() if PAIR not in name}, value)
    asked = [{"": 1.0, "a": a, "b": b, f"a{PAIR}b": a * b} for a, b in [(1.0, 1.0), (-1.0, 1.0), (1.0, -1.0)]]
    few, as_plain = (one.sample(asked, np.random.default_rng(0), 300) for one in (effects, plain))
    np.testing.assert_array_equal(few, as_plain, "a sum of single settings is all that is learnt of few")
    effects.add(features[-1], values[-1])
    many = effects.sample(asked, np.random.default_rng(0), 300)[..., 0]
    np.testing.assert_allclose(many.mean(axis=0), [2.5, -2.5, -1.5], atol=0.05)
    assert effects.count == MANY


def test_of_many_observations_only_the_part_that_makes_a_difference_is_learnt() -> None:
    effects, cut = Effects((1.0,)), Effects((1.0,))
    for number in range(2 * MANY):
        feature = {"": 1.0, "bad": float(number % 2)}
        value = 9.0 * (number % 2) + 0.01 * (number % 5)
        effects.add(feature, [value], [min(value, 1.0)])
        cut.add(feature, [min(value, 1.0)])
        drawn = [one.sample([{"": 1.0, "bad": 1.0}], np.random.default_rng(0), 4) for one in (effects, cut)]
        same = np.array_equal(*drawn)
        assert same == (number + 1 >= MANY or number == 0)
