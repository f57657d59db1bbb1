"""Estimated gains against exact hypervolumes."""

import numpy as np
import pytest

from evaluation.front import hypervolume
from search.stage_tree.gain import FloatArray, FrontGain

REFERENCE, IDEAL = np.array([1.0, 1.0, 1.0]), np.zeros(3)


def whole(gain: FrontGain, losses: FloatArray, running: FloatArray | None = None) -> FloatArray:
    """Of all models of each chain."""
    [found] = gain.of(losses, [np.ones(losses.shape[-3:-1], dtype=np.bool_)], running)
    return found


@pytest.mark.parametrize("size", [0, 1, 6, 30])
def test_the_gain_is_the_share_of_what_was_not_dominated(size: int) -> None:
    generator = np.random.default_rng(size)
    front = generator.uniform(0.2, 1.0, (size, 3))
    gain = FrontGain(REFERENCE, IDEAL, 0)
    for point in front:
        gain.add(point)
    before = hypervolume(front, REFERENCE)
    models = generator.uniform(0.0, 1.0, (40, 1, 3))
    exact = [(hypervolume(np.vstack([front, model]), REFERENCE) - before) / (1 - before) for model in models]
    np.testing.assert_allclose(whole(gain, models), exact, atol=0.15 if size > 6 else 0.08)


def test_models_of_a_chain_count_together_and_once() -> None:
    gain = FrontGain(REFERENCE, IDEAL, 0)
    one, other = np.array([0.2, 0.9, 0.5]), np.array([0.9, 0.2, 0.5])
    together = whole(gain, np.array([[one, other]]))[0]
    assert max(whole(gain, np.array([[one]]))[0], whole(gain, np.array([[other]]))[0]) < together
    assert whole(gain, np.array([[one, one]]))[0] == whole(gain, np.array([[one]]))[0]
    assert whole(gain, np.full((1, 2, 3), np.inf))[0] == 0.0
    for nothing in (np.full(3, np.nan), np.array([0.1, 0.1, 1.0])):
        assert whole(gain, np.array([[one, nothing]]))[0] == whole(gain, np.array([[one]]))[0]
    several = whole(gain, np.array([[[one, other], [one, one]], [[other, other], [one, other]]]))
    assert several.shape == (2, 2) and several[0, 0] == several[1, 1] == together


def test_of_a_part_only_its_models_count() -> None:
    gain = FrontGain(REFERENCE, IDEAL, 0)
    one, other = [0.2, 0.9, 0.5], [0.9, 0.2, 0.5]
    losses = np.array([[[one, other], [one, other]]])
    parts = [np.array([[True, False], [False, True]]), np.array([[False, False], [True, True]])]
    first, second = gain.of(losses, parts)
    np.testing.assert_array_equal(first[0], [whole(gain, np.array([[one]]))[0], whole(gain, np.array([[other]]))[0]])
    np.testing.assert_array_equal(second[0], [0.0, whole(gain, losses)[0, 1]])


def test_what_running_chains_should_dominate_is_gained_already() -> None:
    gain = FrontGain(REFERENCE, IDEAL, 0)
    model, better, other = [0.5, 0.5, 0.5], [0.4, 0.4, 0.4], [0.9, 0.2, 0.5]
    beliefs = np.array([[[model]], [[model]], [[model]]])
    running = np.array([[[better], [other]], [[other], [other]], [[[np.inf] * 3]] * 2])
    alone, beside = whole(gain, beliefs)[0, 0], whole(gain, np.array([[[other]]]))[0, 0]
    both = whole(gain, np.array([[[model, other]]]))[0, 0]
    np.testing.assert_allclose(whole(gain, beliefs, running)[:, 0], [0.0, both - beside, alone])
    np.testing.assert_array_equal(whole(gain, beliefs, np.empty((3, 0, 1, 3))), whole(gain, beliefs))


def test_what_is_dominated_or_outside_does_not_join_the_front() -> None:
    gain = FrontGain(REFERENCE, IDEAL, 0)
    assert gain.add([0.5, 0.5, 0.5]) and not gain.add([0.5, 0.6, 0.5]) and not gain.add([1.0, 0.1, 0.1])
    assert whole(gain, np.array([[[0.6, 0.6, 0.6]]]))[0] == 0.0


def test_a_model_beyond_the_box_widens_it() -> None:
    gain = FrontGain(REFERENCE, IDEAL, 0)
    gain.add([0.5, 0.5, -0.5])
    better = whole(gain, np.array([[[0.5, 0.5, -0.52]]]))[0]
    assert 0.0 <= better < whole(gain, np.array([[[0.3, 0.3, -0.5]]]))[0]
