"""What a study optimises, as a function of what the stage tree predicts: equal to what is measured of a model."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import optuna
import pytest

from evaluation.tradeoff import compute_safe_compression_score, compute_tradeoff_score
from search.config import StudyConfig
from search.goals import aims_not_worth_having, aims_of, goal, losses_of, quality, without_goal
from search.outcome_tables import SyntheticTable
from search.sampler import study_sampler
from search.searcher import ParetoSearcher
from search.simulate import Cluster, Simulation
from search.study_file import study_from
from search.study_keys import REFERENCES, ROWS
from search.tally import Tally

SPACE = {
    "distil": {"method": "logit", "layers": {"choices": [1, 2, 3, 4, 6]}, "epochs": {"choices": [1, 2, 4]}},
    "prune": {"method": {"choices": ["none", "structured"]}, "ratio": {"choices": [0.1, 0.3, 0.5]}},
    "quantize": {"method": {"choices": ["none", "fp16", "int8_dynamic", "int4"]}},
}
pytestmark = pytest.mark.usefixtures("quiet_optuna")
SCORES = ("tradeoff_score", "safe_compression_score")


def study(*objectives: str, **search: Any) -> StudyConfig:
    teacher = {"model": "scratch", "scratch_layers": 12, "scratch_width": 384, "scratch_heads": 12}
    data = {"label_columns": ["threat", "bully"]}
    search = {"objectives": list(objectives), **search}
    return study_from(
        {"data": data, "teacher": teacher, "search": search, "tradeoff_weights": [0.2, 0.7, 0.4], **SPACE}
    )


def row(key: str, quality: float, size: float, speedup: float, **more: Any) -> dict[str, Any]:
    scores = {
        "tradeoff_score": compute_tradeoff_score(quality, 0.8, 100.0 / size, speedup, (0.2, 0.7, 0.4)),
        "safe_compression_score": compute_safe_compression_score(100.0 / size, quality, 0.8),
    }
    figures = {"f1_macro": quality, "critical_f1": quality, "model_size_mb": size, "speedup_factor": speedup}
    base = {"model_key": key, "stage": "after_kd", "status": "ok", "safety_verdict": "safe"}
    return {**base, **figures, **scores, **more}


TEACHER = row("t", 0.8, 100.0, 1.0, stage="baseline")


@pytest.mark.parametrize("score", SCORES)
def test_the_goal_of_a_score_is_the_score_of_the_same_model(score: str) -> None:
    generator = np.random.default_rng(0)
    made = study(score)
    assert quality(made) == ("f1_macro" if score == "tradeoff_score" else "critical_f1")
    for _ in range(200):
        own = row("a", generator.uniform(0.0, 1.0), 10 ** generator.uniform(0, 2.5), 10 ** generator.uniform(-0.5, 2))
        predicted = goal(made)(losses_of(own), losses_of(TEACHER))
        assert predicted.tolist() == pytest.approx([-own[score]]) and aims_of(own, (score,)).tolist() == [-own[score]]


@pytest.mark.parametrize("score", SCORES)
def test_a_model_that_does_not_count_has_no_score(score: str) -> None:
    losses = np.full((2, 3, 1, 3), np.inf)
    losses[0, 0, 0] = losses_of(row("a", 0.8, 10.0, 10.0))
    found = goal(study(score))(losses, losses_of(TEACHER))
    assert found.shape == (2, 3, 1, 1) and np.isfinite(found).sum() == 1 and np.isposinf(found).sum() == 5
    untimed = np.array([-0.8, 1.0, math.nan])
    assert np.isnan(goal(study("tradeoff_score"))(untimed, losses_of(TEACHER))).all()


@pytest.mark.parametrize(
    ("names", "columns"), [(("latency_ratio", "f1_macro"), [0, 2]), (("model_size_mb",), [1]), (("f1_macro",), [0])]
)
def test_of_objectives_the_losses_of_the_same_name_count(names: tuple[str, ...], columns: list[int]) -> None:
    own = row("a", 0.79, 10.0, 4.0)
    assert goal(study(*names))(losses_of(own), losses_of(TEACHER)).tolist() == losses_of(own)[columns].tolist()
    assert aims_of(own, names).tolist() == losses_of(own)[columns].tolist()
    assert (aims_not_worth_having(TEACHER, names) >= aims_of(TEACHER, names)).all()


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("f1_macro",), [0.05, 0.05, 0.06, 0.06]),
        (("tradeoff_score",), [0.0, 0.7 * 0.3 + 0.4 * 0.2, 0.7 * 0.3 + 0.4 * 0.2 + 0.2 * 0.01 / 0.8, None]),
        (("f1_macro", "model_size_mb"), [0.0, 0.05 * math.log10(4), 0.06 * math.log10(4), None]),
    ],
)
def test_progress_is_made_in_what_the_study_optimises(names: tuple[str, ...], expected: list[float | None]) -> None:
    tally = Tally(names)
    better = row("b", 0.81, 25.0, 2.0)
    smaller, unsafe = row("c", 0.76, 1.0, 50.0), row("d", 0.9, 1.0, 50.0, safety_verdict="unsafe")
    for own, progress in zip([TEACHER, row("a", 0.8, 25.0, 2.0), better, smaller], expected, strict=True):
        before = tally.progress
        tally.add([own, unsafe])
        if progress is not None:
            assert tally.progress == pytest.approx(progress)
        else:
            assert tally.progress > before
    assert tally.hypervolume > 0.0


def best(sampler: str, aimed_at: str, wanted: str, seed: int, seconds: float) -> float:
    """The highest score of a model that is not unsafe after so many seconds, in a synthetic world."""
    made = study(aimed_at, sampler=sampler, trials=100).model_copy(update={"seed": seed})
    table = SyntheticTable(made, seed)
    optuna_study = optuna.create_study(direction="maximize", sampler=study_sampler(made))
    optuna_study.set_user_attr(REFERENCES, [table.teacher()])
    Simulation(ParetoSearcher(optuna_study, made), made, table, Cluster()).run(busy_seconds=seconds)
    rows = [one for trial in optuna_study.trials for one in trial.user_attrs.get(ROWS, [])]
    return max((one[wanted] for one in rows if one["safety_verdict"] != "unsafe"), default=0.0)


@pytest.mark.parametrize("score", SCORES)
def test_a_stage_tree_aimed_at_a_score_finds_more_of_it_than_chance(score: str) -> None:
    aimed, at_random = (
        np.mean([best(sampler, score, score, seed, 800.0) for seed in range(4)]) for sampler in ("stage_tree", "random")
    )
    assert aimed > at_random


def test_a_stage_tree_finds_what_it_is_aimed_at() -> None:
    accurate, compressed = (
        np.mean([best("stage_tree", aim, "safe_compression_score", seed, 800.0) for seed in range(4)])
        for aim in ("f1_macro", "safe_compression_score")
    )
    assert compressed > accurate


def test_a_share_of_nothing_is_no_goal() -> None:
    told = without_goal(study("safe_compression_score"), TEACHER | {"critical_f1": 0.0})
    assert told and told.startswith("search.objectives=[safe_compression_score]: a share of the teacher's critical_f1")
    told = without_goal(study("tradeoff_score"), TEACHER | {"f1_macro": 0.0})
    assert told and "f1_macro, which is 0.0 on validation; take f1_macro, model_size_mb" in told
    assert without_goal(study("tradeoff_score"), TEACHER | {"critical_f1": 0.0}) is None
    assert without_goal(study("f1_macro", "model_size_mb"), TEACHER | {"f1_macro": 0.0, "critical_f1": 0.0}) is None
