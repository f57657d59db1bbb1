"""Choices against brute force over random fronts, and against what the search itself recommends."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.front import front_rows, non_dominated
from pipeline.budgets import Budgets
from pipeline.choice import by_key, candidates, choose, knee, recommended, reference
from pipeline.errors import InputError

LIMITS = {"f1_drop": 0.05, "critical_f1_drop": 0.03, "critical_recall_drop": 0.03}
VERDICTS = ("safe", "inconclusive", "unsafe", None)


def models(seed, count=12, test=True):
    """Rows of `trials.parquet`, the teacher first; keys of 64 hex digits."""
    rng = np.random.default_rng(seed)
    drops = {
        f"{prefix}{name}{end}": rng.uniform(-0.02, 0.1, count)
        for prefix in ("", "test_")
        for name in LIMITS
        for end in ("", "_upper")
    }
    return pd.DataFrame(
        {
            "model_key": ["".join(rng.choice(list("0123456789abcdef"), 64)) for _ in range(count)],
            "stage": ["baseline", *rng.choice(["after_kd", "after_quantization", "classical"], count - 1)],
            "status": "ok",
            "f1_macro": rng.integers(70, 90, count) / 100,
            "model_size_mb": rng.uniform(0.5, 90, count),
            "latency_mean_ms": rng.uniform(0.05, 15, count),
            "speedup_factor": rng.uniform(1, 300, count),
            "safety_verdict": rng.choice(np.array(VERDICTS, dtype=object), count),
            **({"test_safety_verdict": rng.choice(np.array(VERDICTS[:3], dtype=object), count)} if test else {}),
            **drops,
        }
    )


@st.composite
def losses_of(draw):
    """[n, m] on a coarse lattice, so that ties and duplicates are the rule."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = (draw(st.integers(1, 20)), draw(st.integers(1, 5)))
    return rng.integers(-2, draw(st.integers(0, 8)), shape, endpoint=True).astype(float)


@settings(max_examples=100, deadline=None)
@given(losses_of())
def test_knee_is_the_front_point_nearest_the_ideal(losses):
    index = knee(losses)
    front = losses[non_dominated(losses)]
    spread = front.max(axis=0) - front.min(axis=0)
    used = spread > 0

    def distance(row):
        return np.sqrt((((row - front.min(axis=0))[used] / spread[used]) ** 2).sum())

    assert non_dominated(losses)[index]
    assert distance(losses[index]) == pytest.approx(min(map(distance, front)))


def test_knee_of_a_bent_front_and_without_rows():
    assert knee(np.array([[np.nan, 0.0], [0.0, 1000.0], [0.1, 100.0], [1.0, 0.0], [0.05, 2000.0]])) == 2
    with pytest.raises(ValueError, match="none of 1 rows"):
        knee(np.array([[np.nan, 1.0]]))
    with pytest.raises(ValueError, match="losses: shape"):
        knee(np.zeros(3))


def test_the_package_of_evaluation_offers_the_same_knee():
    import evaluation

    assert evaluation.knee is knee


@pytest.mark.parametrize("seed", range(8))
def test_recommended_is_what_the_search_recommends(seed):
    from search.ending import Outcome

    front = front_rows(models(seed, 40))
    expected = Outcome(front, front, [], True).recommended
    assert recommended(front)["model_key"].tolist() == expected["model_key"].tolist()
    assert recommended(front.drop(columns="test_safety_verdict")).empty


def scaled(values):
    low, high = min(values), max(values)
    return [(value - low) / (high - low) if high > low else 0.0 for value in values]


def loss_by_definition(rows, rule, weights):
    """What each rule minimises, model by model, in plain Python."""
    f1, size = [-row.f1_macro for row in rows], [row.model_size_mb for row in rows]
    latency = [1 / row.speedup_factor for row in rows]
    if rule == "best":
        parts = [scaled(values) for values in (f1, size, latency)]
        return [sum(w * p[i] for w, p in zip(weights.values(), parts, strict=True)) for i in range(len(rows))]
    return {"most_accurate": f1, "smallest": size, "fastest": latency}[rule]


@pytest.mark.parametrize("rule", ["most_accurate", "smallest", "fastest", "best", "knee"])
@pytest.mark.parametrize("seed", range(6))
def test_a_rule_takes_the_best_and_names_the_next(rule, seed):
    weights = {"f1": 1.0, "size": 0.5, "latency": 0.25}
    frame = front_rows(models(seed, 60))
    rows = candidates(frame, frame, LIMITS, unsafe=True)
    budgets = Budgets(max_size_mb=60, max_latency_ms=12, min_speedup=2)
    within = rows[(rows.model_size_mb <= 60) & (rows.latency_mean_ms <= 12) & (rows.speedup_factor >= 2)]
    assert 2 < len(within) < len(rows)
    choice = choose(rows, rule, weights=weights, budgets=budgets)
    listed = list(within.itertuples())
    if rule == "knee":
        losses = np.column_stack([-within.f1_macro, within.model_size_mb, 1 / within.speedup_factor])
        assert choice.row["model_key"] == listed[knee(losses)].model_key
    else:
        loss = loss_by_definition(listed, rule, weights)
        order = sorted(range(len(loss)), key=loss.__getitem__)
        assert choice.row["model_key"] == listed[order[0]].model_key
        assert choice.runner_up["model_key"] == listed[order[1]].model_key
    assert choice.runner_up["model_key"] != choice.row["model_key"]
    assert f"of {len(within)} models with at most 60 MB, at most 12 ms, at least 2 times" in choice.reason


def test_a_single_candidate_has_no_runner_up():
    choice = choose(models(0).iloc[[3]], "knee")
    assert choice.runner_up is None and "of 1 model:" in choice.reason


def test_budgets_that_nothing_meets_name_the_closest():
    rows = models(1)
    smallest = rows.loc[rows.model_size_mb.idxmin()]
    with pytest.raises(
        InputError, match=f"none of 12 models has at most 0.1 MB; the closest is {smallest.model_key[:8]}"
    ):
        choose(rows, "knee", budgets=Budgets(max_size_mb=0.1))
    with pytest.raises(InputError, match="at least 1000 times"):
        choose(rows.assign(speedup_factor=np.nan), "smallest", budgets=Budgets(min_speedup=1000))


def test_without_a_safe_model_the_closest_is_named_with_what_it_misses():
    undecided = dict.fromkeys(("safety_verdict", "test_safety_verdict"), "inconclusive")
    rows = models(2, 6).assign(**undecided, on_front=True, on_safe_front=False)
    for name in LIMITS:
        rows[f"{name}_upper"], rows[f"test_{name}"] = 0.2, 0.0
        rows.loc[4, f"{name}_upper"] = 0.01
    rows.loc[4, "critical_recall_drop_upper"] = 0.045
    with pytest.raises(InputError) as refused:
        candidates(rows, rows, LIMITS)
    assert "--unsafe" in refused.value.problems[0]
    assert rows.loc[4, "model_key"][:8] in refused.value.problems[1]
    told = ": inconclusive on validation, where critical recall may drop by 0.045 (limit 0.03)"
    assert refused.value.problems[1].endswith(told)
    assert set(candidates(rows, rows, LIMITS, unsafe=True)["model_key"]) == set(rows["model_key"][1:])


def test_a_study_that_has_not_ended_and_an_empty_front_are_refused():
    rows = models(3, test=False).assign(on_front=True, on_safe_front=True, safety_verdict="safe")
    with pytest.raises(InputError, match="has not ended.*--resume"):
        candidates(rows, rows, LIMITS)
    for nothing in (rows[:0], rows[:1]):
        with pytest.raises(InputError, match="no compressed model"):
            candidates(nothing, rows, LIMITS, unsafe=True)


def test_teacher_and_floor_go_by_their_names():
    rows = models(4)
    assert reference(rows, "teacher").row["stage"] == "baseline"
    with pytest.raises(InputError, match="'floor': not measured yet"):
        reference(rows[rows["stage"] != "classical"], "floor")
    with pytest.raises(InputError, match="did you mean 'teacher'"):
        by_key(rows, "techer")


def test_keys_by_their_first_digits():
    rows = models(4)
    rows.loc[5, "model_key"] = rows.loc[6, "model_key"][:9] + "0" * 55
    rows.loc[7, "model_key"] = "ABCDEF".lower() + "1" * 58
    assert by_key(rows, "abcdef").row["model_key"] == rows.loc[7, "model_key"]
    assert by_key(rows, rows.loc[6, "model_key"]).row["f1_macro"] == rows.loc[6, "f1_macro"]
    with pytest.raises(InputError, match="give more digits"):
        by_key(rows, rows.loc[5, "model_key"][:9])
    with pytest.raises(InputError, match="at least 6 digits"):
        by_key(rows, "abcde")
    with pytest.raises(InputError, match="did you mean 'abcdef11'"):
        by_key(rows, "abcdee11")
    with pytest.raises(InputError, match="did you mean 'smallest'"):
        by_key(rows, "smalest")
