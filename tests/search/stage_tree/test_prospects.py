"""When a chain is better run whole, and when begun only: small cases worked out by hand."""

import numpy as np

from search.stage_tree.prospects import PUT_OFF, Prospects


def prospects(begun: float, whole: list[float], begun_seconds: float, seconds: float) -> Prospects:
    """One chain whose first stage is sure to bring `begun`; what all of it brings differs by belief."""
    gain = np.array(whole)[:, None]
    return Prospects(gain, np.full_like(gain, seconds), np.full_like(gain, begun), np.full_like(gain, begun_seconds))


def test_hypervolume_a_second_of_the_whole_chain() -> None:
    np.testing.assert_allclose(prospects(1.0, [2.0, 6.0], 1.0, 4.0).per_second, [[0.5], [1.5]])


def test_a_chain_without_later_stages_is_run_whole() -> None:
    assert not prospects(3.0, [3.0, 3.0], 5.0, 5.0).better_begun.any()


def test_what_is_sure_to_pay_is_run_at_once() -> None:
    assert not prospects(1.0, [3.0, 3.0, 3.0, 3.0], 4.0, 8.0).better_begun.any()


def test_a_dear_rest_that_pays_seldom_is_decided_on_afterwards() -> None:
    """Whole: 2 in 12 s. By stages: 2 in 4 + 8 / 4 s, since three times of four the rest is spared."""
    seldom = prospects(1.0, [1.0, 1.0, 1.0, 5.0], 4.0, 12.0)
    assert (4 + 8 / 4) * PUT_OFF < 12 and seldom.better_begun.all()


def test_a_cheap_rest_is_run_at_once_even_if_it_pays_seldom() -> None:
    assert not prospects(1.0, [1.0, 1.0, 1.0, 5.0], 100.0, 102.0).better_begun.any()


def test_each_chain_is_judged_alone() -> None:
    one, other = prospects(1.0, [1.0, 1.0, 1.0, 5.0], 4.0, 12.0), prospects(1.0, [3.0] * 4, 4.0, 8.0)
    both = [np.hstack([getattr(one, name), getattr(other, name)]) for name in vars(one)]
    np.testing.assert_array_equal(Prospects(*both).better_begun, [True, False])
