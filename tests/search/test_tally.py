import numpy as np
import pytest

from evaluation.front import hypervolume, non_dominated
from evaluation.gained import F1_MARGIN
from search.goals import losses_of
from search.tally import Tally


def row(key: str, f1: float, size: float, speedup: float, **more: object) -> dict[str, object]:
    base = {"model_key": key, "stage": "after_kd", "status": "ok", "safety_verdict": "safe"}
    return {**base, "f1_macro": f1, "model_size_mb": size, "speedup_factor": speedup, **more}


TEACHER = row("t", 0.8, 100.0, 1.0, stage="baseline")


def test_counts_models_once_and_the_front_of_those_that_are_not_unsafe() -> None:
    tally = Tally()
    assert tally.add([TEACHER])
    assert tally.add([row("a", 0.79, 10.0, 10.0), row("b", 0.9, 1.0, 100.0, safety_verdict="unsafe")])
    assert not tally.add([row("a", 0.79, 10.0, 10.0), row("c", 0.7, 20.0, 5.0, safety_verdict="inconclusive")])
    assert not tally.add([{"stage": "after_kd", "status": "failed", "model_key": None}])
    assert (tally.models, tally.safe, tally.front) == (4, 2, 2)
    assert tally.hypervolume == pytest.approx(0.04 * 1.0 * 1.0)


def test_the_hypervolume_is_that_of_all_rows_at_once() -> None:
    generator = np.random.default_rng(0)
    rows = [
        row(str(i), *values)
        for i, values in enumerate(
            zip(
                generator.uniform(0.7, 0.85, 200),
                generator.uniform(1, 120, 200),
                generator.uniform(0.5, 50, 200),
                strict=True,
            )
        )
    ]
    tally = Tally()
    tally.add([TEACHER])
    for one in rows:
        tally.add([one])
    points = np.array([losses_of(one) for one in [TEACHER, *rows]])
    reference = np.array([-0.8 + F1_MARGIN, 2.0, 0.0])
    assert tally.hypervolume == pytest.approx(hypervolume(points, reference))
    assert tally.front == non_dominated(points).sum()
