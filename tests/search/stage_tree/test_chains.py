"""Chains as features: numbers by their place among those possible, and the products of any two of a stage."""

from __future__ import annotations

from typing import Any

import numpy as np

from search.stage_tree.chains import draw_chain
from search.stage_tree.effects import PAIR


def space(trial: Any) -> None:
    trial.suggest_categorical("distil.method", ["logit", "hidden"])
    trial.suggest_categorical("distil.buckets", [1024, 65536, 4096])
    trial.suggest_float("distil.rate", 1e-4, 1e-2, log=True)
    trial.suggest_int("distil.epochs", 2, 10, step=4)
    trial.suggest_categorical("distil.fixed", [7])
    trial.suggest_float("distil.alone", 0.5, 0.5, step=0.1)
    trial.suggest_categorical("prune.ratio", [0.1, 0.3])


def test_products_are_of_the_places_of_two_numbers_of_one_stage() -> None:
    given = {"distil.buckets": 4096, "distil.rate": 1e-2, "distil.epochs": 2, "prune.ratio": 0.3}
    chain = draw_chain(space, ("distil", "prune"), np.random.default_rng(0), given)
    pairs = {name: number for name, number in chain.features("distil").items() if PAIR in name}
    assert pairs == {
        f"distil.buckets{PAIR}distil.rate": 0.0,  # 4096 is the middle one of three
        f"distil.buckets{PAIR}distil.epochs": 0.0,
        f"distil.rate{PAIR}distil.epochs": 1.0 * -1.0,
    }
    assert not any(PAIR in name for name in chain.features("prune")), "of one number there are no products"
