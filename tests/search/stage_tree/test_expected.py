"""What is expected of stages before any has run, and that the sampler learns how wrong it is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from optuna import create_study

from search.config import STAGES
from search.stage_tree.beliefs import OVERHEAD_SECONDS, QUANTITIES, StageOutcome
from search.stage_tree.chains import Chain, draw_chain
from search.stage_tree.expected import FORMATS, Expected
from search.stage_tree.tree import StageTree
from search.study_file import study_from

SIZE, LATENCY, SECONDS = 1, 2, 4
TEACHER = {"model": "scratch", "scratch_layers": 12, "scratch_width": 384, "scratch_heads": 12, "epochs": 6}
LAYERS_MB = 12 * 12 * 384**2 * 4 / 2**20
WORDS_MB = 20.0
TEACHER_SECONDS = 600.0


def expected(**params: Any) -> dict[str, Any]:
    study = {"data": {"label_columns": ["threat", "bully"]}, "teacher": TEACHER}
    guess = Expected(study_from(study), LAYERS_MB + WORDS_MB, TEACHER_SECONDS)
    return guess({name.replace("__", "."): value for name, value in params.items()})


def after(changes: dict[str, Any], what: int) -> float:
    """The whole chain's factor."""
    return float(10 ** sum(changes[stage][what] for stage in STAGES))


def test_a_chain_without_stages_changes_nothing() -> None:
    changes = expected(distil__method="none", prune__method="none", quantize__method="none")
    for stage in STAGES:
        np.testing.assert_array_equal(changes[stage][:4], 0.0)
        assert changes[stage][SECONDS] == pytest.approx(np.log10(OVERHEAD_SECONDS))


def test_layers_count_and_widths_do() -> None:
    half = expected(distil__method="logit", distil__layers=6, distil__epochs=3, prune__method="none")
    assert after(half, SIZE) == pytest.approx((LAYERS_MB / 2 + WORDS_MB) / (LAYERS_MB + WORDS_MB))
    assert after(half, LATENCY) == pytest.approx(0.5)
    assert 10 ** half["distil"][SECONDS] == pytest.approx(TEACHER_SECONDS / 6 * 3 * 0.5 + OVERHEAD_SECONDS)
    narrow = expected(distil__method="logit", distil__layers=6, distil__width=192)
    assert after(narrow, SIZE) == pytest.approx((LAYERS_MB / 8 + WORDS_MB / 2) / (LAYERS_MB + WORDS_MB))


def test_a_bag_is_its_table() -> None:
    bag = expected(distil__method="logit", distil__student="ngram", distil__buckets=131_072, distil__dimension=16)
    assert after(bag, SIZE) * (LAYERS_MB + WORDS_MB) == pytest.approx(8.0, abs=0.2)
    assert after(bag, LATENCY) < 0.01
    assert bag["distil"][SECONDS] < expected(distil__method="logit", distil__layers=2)["distil"][SECONDS]


@pytest.mark.parametrize("method", FORMATS)
def test_formats(method: str) -> None:
    changes = expected(distil__method="none", prune__method="vocabulary+structured", quantize__method=method)
    assert 10 ** changes["quantize"][SIZE] == pytest.approx(FORMATS[method][0])
    assert changes["prune"][SIZE] < 0 and changes["prune"][LATENCY] < 0
    trained = expected(quantize__method="int8_qat")["quantize"][SECONDS]
    assert trained > expected(quantize__method="int8_dynamic")["quantize"][SECONDS]


def test_what_is_measured_outweighs_what_was_expected() -> None:
    """Expected: ten times smaller, 100 s. Measured again and again: twice as small, 10 s."""

    def space(trial: Any) -> None:
        trial.suggest_int("s.index", 0, 10_000)

    def guess(chain: Chain) -> dict[str, Any]:
        return {"s": np.array([0.0, -1.0, 0.0, 0.0, 2.0])}

    generator = np.random.default_rng(0)
    tree = StageTree(("s",), 0, guess)
    tree.plant(StageOutcome((-0.8, 2.0, 0.0), -0.03))
    news = [draw_chain(space, ("s",), generator) for _ in range(40)]
    before = tree.prospects(news, generator, 8).per_second.mean()
    for number in range(30):
        chain = draw_chain(space, ("s",), generator)
        tree.begin(number, chain)
        tree.end(number, chain, [StageOutcome((-0.8, 1.7, -0.01), -0.03, 10.0)])
    assert before > 0
    assert np.median(tree.prospects(news, generator, 8).per_second) < before  # the front has what they bring
    features = [chain.features("s") for chain in news]
    quantities = tree.beliefs.quantities["s"].sample(features, generator, 8)
    learnt = (quantities + guess(news[0])["s"][QUANTITIES]).mean(axis=(0, 1))
    np.testing.assert_allclose(learnt, [-0.3, -0.01, np.log10(12)], atol=0.1)


def test_a_study_is_begun_with_what_promises_most_a_second() -> None:
    """No student of 12 layers and 20 passes before there is a smaller and cheaper one."""
    from search.sampler import study_sampler
    from search.study_keys import REFERENCES

    study = {
        "data": {"label_columns": ["threat", "bully"]},
        "teacher": TEACHER,
        "distil": {"method": "logit", "student": {"choices": ["layers", "ngram"]}, "layers": 12, "epochs": 20},
        "search": {"sampler": "stage_tree"},
    }
    first = []
    for seed in range(10):
        config = study_from(study | {"seed": seed})
        running = create_study(directions=["maximize", "minimize", "minimize"], sampler=study_sampler(config))
        teacher = {"f1_macro": 0.8, "model_size_mb": 88.0, "speedup_factor": 1.0, "stage_seconds": TEACHER_SECONDS}
        drops = dict.fromkeys(("f1_drop", "critical_f1_drop", "critical_recall_drop"), 0.0)
        running.set_user_attr(REFERENCES, [{"stage": "baseline", "model_key": "t", "status": "ok", **teacher, **drops}])
        first.append(running.ask().suggest_categorical("distil.student", ["layers", "ngram"]))
    assert first.count("ngram") >= 8
