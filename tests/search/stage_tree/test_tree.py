"""The tree of models that exist: those whose latency is not known yet, and those of a shape that is known."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from search.stage_tree.beliefs import StageOutcome
from search.stage_tree.chains import Chain, draw_chain
from search.stage_tree.shapes import Shapes
from search.stage_tree.tree import StageTree

STAGES = ("distil", "quantize")
ROOT = StageOutcome((-0.8, 2.0, 0.0), -0.03)
STUDENT = StageOutcome((-0.79, 1.0, -1.0), -0.02, 10.0, "small")
LEFT_OUT = StageOutcome(STUDENT.losses, STUDENT.excess, None)


def space(trial: Any) -> Mapping[str, Any]:
    return {
        "distil.layers": trial.suggest_int("distil.layers", 1, 6),
        "distil.seed": trial.suggest_int("distil.seed", 0, 9),
        "quantize.method": trial.suggest_categorical("quantize.method", ["none", "fp16", "int8"]),
    }


def chain(layers: int = 2, seed: int = 0, method: str = "none") -> Chain:
    given = {"distil.layers": layers, "distil.seed": seed, "quantize.method": method}
    return draw_chain(space, STAGES, np.random.default_rng(0), given)


def without_latency(outcome: StageOutcome) -> StageOutcome:
    assert outcome.losses is not None
    return StageOutcome((*outcome.losses[:2], math.nan), outcome.excess, outcome.seconds, outcome.shape)


@pytest.fixture
def tree() -> StageTree:
    made = StageTree(STAGES, 0, shapes=Shapes(["distil.seed"], 5.0))
    made.plant(ROOT)
    return made


def test_below_a_model_whose_latency_is_not_known_others_may_go_on(tree: StageTree) -> None:
    tree.begin(0, chain())
    below = chain(method="fp16")
    assert not tree.is_new(below), "its student is being built"
    tree.hear(chain(), [without_latency(STUDENT), without_latency(LEFT_OUT)])
    assert tree.is_new(below) and tree.first_missing(below) == 1
    assert tree.is_taken(chain()), "its trial runs"
    generator = np.random.default_rng(0)
    assert tree.random_prefix(generator, near_front=False) == dict(chain().prefixes[0])


def test_what_is_heard_of_quality_is_learnt_once_and_latency_when_it_is_known(tree: StageTree) -> None:
    told = [without_latency(STUDENT), without_latency(LEFT_OUT)]
    tree.begin(0, chain())
    tree.hear(chain(), told)
    tree.hear(chain(), told)
    qualities, quantities = tree.beliefs.qualities["distil"], tree.beliefs.quantities["distil"]
    assert (qualities._regression._count, quantities._regression._count) == (1, 0)
    tree.end(0, chain(), [STUDENT, LEFT_OUT])
    assert (qualities._regression._count, quantities._regression._count) == (1, 1)
    assert len(tree._open) == 1 and not tree._untimed


def test_a_model_that_waits_for_its_latency_counts_as_gained_by_its_trial_and_costs_nothing_below(
    tree: StageTree,
) -> None:
    generator = np.random.default_rng(0)
    before = tree.prospects([chain()], generator, 16)
    assert before.gain.mean() > 0
    tree.begin(0, chain())
    tree.hear(chain(), [without_latency(STUDENT), without_latency(LEFT_OUT)])
    after = tree.prospects([chain(method="fp16")], generator, 16)
    alone = tree.prospects([chain(layers=5, method="fp16")], generator, 16)
    assert after.seconds.mean() < 0.7 * alone.seconds.mean(), "the student is there"
    assert tree._root is not None
    rows = [chain(method="fp16"), chain()]
    losses, _, _ = tree._predict(tree._root, rows, [True, False], generator, 16)
    assert np.isinf(losses[:, 0, 0]).all(), "no gain of who goes on below it"
    assert (losses[:, 1, 0, :2] == [-0.79, 1.0]).all() and np.ptp(losses[:, 1, 0, 2]) > 0.1, "its latency is believed"


def test_size_and_latency_of_a_known_shape_are_known(tree: StageTree) -> None:
    """And its time is saved: another seed of the same student differs in quality alone."""
    tree.begin(0, chain())
    tree.end(0, chain(), [STUDENT, LEFT_OUT])
    assert tree._root is not None
    rows = [chain(seed=1), chain(layers=5, seed=1)]
    losses, seconds, _ = tree._predict(tree._root, rows, [True, True], np.random.default_rng(0), 64)
    feasible = np.isfinite(losses[:, 0, 0]).all(axis=-1)
    assert feasible.any() and (losses[feasible, 0, 0, 1:] == [1.0, -1.0]).all()
    assert np.ptp(losses[np.isfinite(losses[:, 1, 0]).all(axis=-1), 1, 0, 2]) > 0.1
    assert (seconds[:, 1, 0] >= 5.0).all() and (seconds[:, 0, 0] < 5.0).any()
