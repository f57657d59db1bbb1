from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from evaluation.front import knee
from evaluation.page.models import choose_models
from evaluation.page.provenance import data_section, environment_section, flat
from evaluation.page.summary import recommended, winners_curse
from evaluation.study_files import Study

Trials, Studies = Callable[..., pd.DataFrame], Callable[..., Study]


def test_only_what_is_safe_and_not_unsafe_on_test_is_recommended(make_trials: Trials, make_study: Studies) -> None:
    study = make_study(make_trials(60, seed=3))
    safe = study.front[study.front["on_safe_front"] & (study.front["stage"] != "baseline")]
    smallest = safe.loc[safe["model_size_mb"].idxmin(), "model_key"]
    front = study.front.copy()
    front.loc[front["model_key"] == smallest, "test_safety_verdict"] = "unsafe"
    models = choose_models(replace(study, front=front))
    left = safe[safe["model_key"] != smallest]
    losses = np.column_stack([-left["f1_macro"], left["model_size_mb"], 1 / left["speedup_factor"]])
    chosen = {name: models.rows["model_key"][place] for name, place in recommended(models).items()}
    assert chosen == {
        "Balanced (knee)": left["model_key"].iloc[knee(losses)],
        "Smallest": left.loc[left["model_size_mb"].idxmin(), "model_key"],
        "Fastest": left.loc[left["speedup_factor"].idxmax(), "model_key"],
    }
    assert recommended(choose_models(make_study(make_trials(60, seed=3), tested=False))) == {}
    unsafe = replace(study, front=front.assign(test_safety_verdict="unsafe"))
    assert recommended(choose_models(unsafe)) == {}


def test_the_gap_is_that_of_chosen_models_only(make_trials: Trials, make_study: Studies) -> None:
    study = make_study(make_trials(60, seed=3))
    front = study.front.copy()
    compressed = ~front["stage"].isin(["baseline", "classical"])
    front.loc[compressed, "test_f1_macro"] = front["f1_macro"] - np.arange(len(front)) / 100
    models = choose_models(replace(study, front=front))
    mean = (np.arange(len(front)) / 100)[compressed].mean()
    note = winners_curse(models, models.chosen("on_front", "on_safe_front").tolist())
    assert f"<strong>+{mean:.4f}</strong>" in note
    assert f"over {compressed.sum()} compressed models" in note and "the teacher, which was not chosen" in note
    untested = choose_models(make_study(make_trials(60), tested=False))
    assert "no compressed model" in winners_curse(untested, []).lower()


def test_nested_values_are_laid_flat() -> None:
    nested = {"a": 1, "b": {"c": {"d": [1, "x"]}, "e": None}}
    assert list(flat(nested)) == [("a", 1), ("b.c.d", "1, x"), ("b.e", None)]


@pytest.mark.parametrize("splits", [None, "?", {"train": 3}, {"train": {"texts": 1200, "positives": {"<b>": 7}}}])
def test_data_of_any_shape_are_told(splits: object) -> None:
    text = data_section({"source": "<i>", "rows_read": 12_546, "notice": None, "splits": splits})
    assert "&lt;i&gt;" in text and "12,546" in text and "Notice" not in text
    assert ("1,200" in text and "&lt;b&gt;" in text) == (isinstance(splits, dict) and splits["train"] != 3)
    assert "earlier version" in data_section({}) and "earlier version" in environment_section({})
    assert "avx2, amx" in environment_section({"cpu": {"flags": ["avx2", "amx"]}})
