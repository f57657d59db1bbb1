"""The order of what is not safe, against every pair of random models."""

from itertools import combinations

import numpy as np
import pandas as pd
import pytest

from pipeline.model_rows import closest

LIMITS = {"f1_drop": 0.05, "critical_f1_drop": 0.03, "critical_recall_drop": 0.02}


def judged(rng):
    """A model with drops and bounds, and the verdicts that follow from them by their definition."""
    drops = {name: rng.choice([0.0, 0.01, 0.04, 0.1]) for name in LIMITS}
    upper = {name: drop + rng.choice([0.005, 0.02, 0.2]) for name, drop in drops.items()}
    on_test = {name: rng.choice([0.0, 0.01, 0.04]) for name in LIMITS}
    decided = "safe" if all(upper[name] <= limit for name, limit in LIMITS.items()) else "inconclusive"
    unsafe, unsafe_on_test = (any(found[name] > limit for name, limit in LIMITS.items()) for found in (drops, on_test))
    return {
        "model_key": "".join(rng.choice(list("0123456789abcdef"), 64)),
        "stage": rng.choice(["baseline", "after_kd", "classical"], p=[0.1, 0.6, 0.3]),
        "model_size_mb": rng.uniform(0.1, 90),
        "safety_verdict": "unsafe" if unsafe else decided,
        "test_safety_verdict": "unsafe" if unsafe_on_test else "inconclusive",
        **{f"{name}_upper": bound for name, bound in upper.items()},
        **{f"test_{name}": drop for name, drop in on_test.items()},
    }


@pytest.mark.parametrize("seed", range(5))
def test_of_each_pair_the_one_nearer_to_being_recommended_comes_first(seed):
    rng = np.random.default_rng(seed)
    rows = pd.DataFrame([judged(rng) for _ in range(60)])
    ordered = [row for row, _ in closest(rows, LIMITS)]
    assert {row["model_key"] for row in ordered} == set(rows[rows["stage"] != "baseline"]["model_key"])
    for first, second in combinations(ordered, 2):
        unsafe, also = ("unsafe" in (row["safety_verdict"], row["test_safety_verdict"]) for row in (first, second))
        excess, other = (
            max(max(row[f"{name}_upper"], row[f"test_{name}"]) - limit for name, limit in LIMITS.items())
            for row in (first, second)
        )
        smaller = first["model_size_mb"] <= second["model_size_mb"]
        assert unsafe < also or (unsafe == also and (excess < other or (excess == other and smaller)))


def test_each_says_its_verdicts_what_it_exceeds_and_what_would_decide():
    rows = pd.DataFrame(
        [
            {"stage": "after_kd", "safety_verdict": "safe", "f1_drop_upper": 0.01},
            {"stage": "after_kd", "safety_verdict": "inconclusive", "f1_drop_upper": 0.09, "positives_needed": 412},
        ]
    ).assign(critical_f1_drop_upper=0.0, critical_recall_drop_upper=0.0)
    assert [missed for _, missed in closest(rows, LIMITS)] == [
        "safe on validation; not measured on test",
        "inconclusive on validation, where macro F1 may drop by 0.090 (limit 0.05); "
        "412 critical positives in validation would decide",
    ]
    rows.loc[1, "critical_recall_drop_upper"] = None
    assert "critical recall may drop by 1.000 (limit 0.02)" in closest(rows, LIMITS)[1][1]
