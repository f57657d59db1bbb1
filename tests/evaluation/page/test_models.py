import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from evaluation.page.models import BEST_MODELS, MOST_MODELS, choose_models, page_data
from evaluation.study_files import Study
from pipeline.chains import describe_chain

Trials, Studies = Callable[..., pd.DataFrame], Callable[..., Study]


def test_a_small_study_is_shown_whole(make_trials: Trials, make_study: Studies) -> None:
    trials = make_trials(40)
    models = choose_models(make_study(trials))
    assert models.rows["model_key"].tolist() == trials["model_key"].tolist()
    assert (models.measured, models.undrawable, models.left_out, models.teacher) == (40, 0, 0, 0)
    assert models.chains == tuple(
        describe_chain({str(k): v for k, v in row.items()}) for row in trials.to_dict("records")
    )


def test_failed_rows_copies_and_models_without_figures_are_not_drawn(make_trials: Trials, make_study: Studies) -> None:
    trials = make_trials(20)
    trials.loc[5, ["status", "model_key", "error"]] = ["failed", None, "out of memory"]
    trials.loc[6, "f1_macro"] = np.nan
    trials.loc[7, "model_size_mb"] = 0.0
    doubled = pd.concat([trials, trials[10:12].assign(trial=99)], ignore_index=True)
    models = choose_models(make_study(doubled))
    assert (models.measured, models.undrawable, len(models.rows)) == (19, 2, 17)
    assert models.rows["trial"].eq(99).sum() == 2


def test_of_a_large_study_the_fronts_and_the_best_are_kept(make_trials: Trials, make_study: Studies) -> None:
    trials = make_trials(6000, seed=2)
    study = make_study(trials)
    models = choose_models(study)
    shown = set(models.rows["model_key"])
    assert len(shown) == MOST_MODELS and models.left_out == 6000 - MOST_MODELS
    assert set(study.front["model_key"]) <= shown
    assert set(trials.nlargest(BEST_MODELS, "tradeoff_score")["model_key"]) <= shown
    thirds = pd.cut(models.rows["trial"].astype(float), 4).value_counts()
    assert thirds.min() > 0.8 * thirds.max()
    on_front = models.chosen("on_front", "on_safe_front")
    assert set(models.rows["model_key"].iloc[on_front]) == set(study.front["model_key"])
    assert models.rows["f1_macro"].iloc[on_front].is_monotonic_decreasing


def test_a_front_larger_than_the_plot_is_shown_whole(make_trials: Trials, make_study: Studies) -> None:
    trials = make_trials(5000)
    rank = np.arange(5000)
    trials = trials.assign(f1_macro=0.5 + rank / 20_000, model_size_mb=1.0 + rank, speedup_factor=1.0)
    trials["safety_verdict"] = "safe"
    assert len(choose_models(make_study(trials)).rows) == 5000


def test_the_data_are_the_rows(make_trials: Trials, make_study: Studies) -> None:
    study = make_study(make_trials(30, seed=4))
    models = choose_models(study)
    data = page_data(study, models, None)
    rows = models.rows
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    for name, column in (("f1", "f1_macro"), ("size", "model_size_mb"), ("critical_recall_drop_upper",) * 2):
        assert data["columns"][name] == pytest.approx(rows[column].tolist(), rel=1e-4)
    assert data["columns"]["needed"] == [None if pd.isna(value) else value for value in rows["positives_needed"]]
    assert data["byLabel"]["recall"][1] == pytest.approx(rows["per_label_recall.threat"].tolist(), rel=1e-4)
    verdicts = [data["verdict"]["names"][code] for code in data["verdict"]["codes"]]
    assert verdicts == rows["safety_verdict"].tolist()
    tested = {int(position) for position in data["test"]}
    assert tested == set(data["front"]) | set(data["safeFront"]) | {0, 1}
    for position in tested:
        figures: Any = data["test"][str(position)]
        assert figures["f1"] == pytest.approx(rows["f1_macro"][position] - 0.01, rel=1e-4)
        assert figures["byLabel"]["precision"][0] == pytest.approx(
            rows["per_label_precision.bully"][position] - 0.01, abs=1e-4
        )


def test_settings_that_differ_are_coded_in_their_order(make_trials: Trials, make_study: Studies) -> None:
    trials = make_trials(30)
    trials = trials.assign(**{"distil.seed": 0, "prune.structured": None, "distil.alpha": [1, 0.5, True] * 10})
    trials.loc[3, "distil.alpha"] = np.nan
    study = make_study(trials)
    settings = {setting["name"]: setting for setting in page_data(study, choose_models(study), None)["settings"]}
    assert "distil.seed" not in settings and "prune.structured" not in settings
    assert settings["distil.layers"]["values"] == [1, 2, 3, 4, 5, 6]
    assert settings["distil.layers"]["codes"][:2] == [-1, -1]
    alpha = settings["distil.alpha"]
    assert [repr(value) for value in alpha["values"]] == ["0.5", "1", "True"]
    assert alpha["codes"][:4] == [1, 0, 2, -1]
    for position, code in enumerate(settings["distil.method"]["codes"][2:], start=2):
        assert settings["distil.method"]["values"][code] == trials["distil.method"][position]


def test_before_the_end_there_are_no_test_figures(make_trials: Trials, make_study: Studies) -> None:
    study = make_study(make_trials(20), tested=False)
    assert page_data(study, choose_models(study), None)["test"] == {}
    empty = replace(study, front=study.front[:0])
    assert choose_models(empty).chosen("on_front").tolist() == []
