"""Whom the recommended models newly harm, and which models are off the front only within noise."""

import re

import pandas as pd
import pytest

from evaluation.flip_files import Flips
from evaluation.page.harm import flips_section, noise_section
from evaluation.page.models import choose_models
from evaluation.page.summary import recommended

HOSTILE = '<img src=x onerror="alert(1)">'


@pytest.fixture
def study(make_trials, make_study):
    """A study whose front was compared with the teacher on test, with a label that is none to render."""
    plain = make_study(make_trials(40))
    keys = tuple(dict.fromkeys(plain.front["model_key"]))
    rows = [
        {"model_key": key, "split": "test", "comment": comment, "label": HOSTILE, "truth": truth, "teacher": truth}
        | {"candidate": 1 - truth}
        for key in keys
        for comment, truth in enumerate([1, 1, 1, 0, 0])
    ]
    flips = Flips(pd.DataFrame(rows), keys, {"test": {HOSTILE: 77}, "validation": {HOSTILE: 5}}, "data", "0" * 64)
    return make_study(plain.trials, flips=flips, within_noise=plain.trials)


def cells(html):
    """Text of the body's cells, a list a row."""
    body = html[html.index("<tbody") :]
    return [
        [re.sub(r"<[^>]+>", "", cell) for cell in re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row, re.S)]
        for row in re.findall(r"<tr.*?</tr>", body, re.S)
    ]


def test_flips_are_counted_on_test_for_what_is_recommended(study):
    models = choose_models(study)
    html = flips_section(study, models)
    rows = cells(html)
    assert len(rows) == len(set(recommended(models).values())) >= 1
    assert all(row[2:] == ["77", "3", "2", "0", "0"] for row in rows), "missed, false, found, cleared"
    assert "<img" not in html and "&lt;img" in html


def test_without_flips_or_test_figures_the_page_says_when_they_come(study, make_study):
    for early in (make_study(study.trials), make_study(study.trials, tested=False, flips=study.flips)):
        assert "when the study has ended" in flips_section(early, choose_models(early))


def test_models_off_the_front_within_noise_are_listed_once_without_the_teacher(study):
    models = choose_models(study)
    front = set(study.front.loc[study.front["on_front"], "model_key"])
    others = [key for key in dict.fromkeys(study.trials["model_key"]) if key not in front]
    baseline = set(study.trials.loc[study.trials["stage"] == "baseline", "model_key"])
    html = noise_section(study, models)
    expected = [key for key in others if key not in baseline]
    assert [row[-1] for row in cells(html)] == [key[:8] for key in expected][:30]
    assert ("more in front_within_noise.parquet" in html) == (len(expected) > 30)


def test_where_noise_hides_nothing_the_page_says_so(study, make_study):
    only_front = make_study(study.trials, within_noise=study.front)
    assert "off the front by more than noise" in noise_section(only_front, choose_models(only_front))
    early = make_study(study.trials)
    assert noise_section(early, choose_models(early)) == ""
