"""Every chain of a space: as many as it has, none twice, and those that a sampler finds."""

from __future__ import annotations

from typing import Any

import optuna
import pytest

from search.every_chain import every_chain
from search.sampler import NumberedRandomSampler
from search.space import Space
from search.study_file import study_from

SPACE: dict[str, Any] = {
    "data": {"label_columns": ["threat", "bully"]},
    "teacher": {"model": "scratch"},
    "distil": {
        "method": {"choices": ["none", "logit"]},
        "student": "layers",
        "layers": {"low": 1, "high": 2},
        "alpha": {"low": 0.1, "high": 0.7, "step": 0.3},
    },
    "prune": {"method": {"choices": ["none", "structured"]}, "ratio": {"choices": [0.2, 0.4]}},
    "quantize": {"method": {"choices": ["none", "int8_dynamic"]}},
}


def test_each_chain_comes_once() -> None:
    students, prunings, quantizations = 1 + 2 * 3, 1 + 2, 2
    chains = [tuple(params.items()) for params in every_chain(study_from(SPACE))]
    assert len(chains) == len(set(chains)) == students * prunings * quantizations


def test_they_are_what_a_sampler_finds() -> None:
    config = study_from(SPACE)
    study = optuna.create_study(sampler=NumberedRandomSampler(0))
    found = {tuple(Space(config).suggest(study.ask()).items()) for _ in range(600)}
    assert found == {tuple(params.items()) for params in every_chain(config)}


def test_a_range_without_steps_has_no_last_chain() -> None:
    config = study_from(SPACE | {"quantize": {"method": "none"}, "prune": {"method": "none"}})
    assert len(list(every_chain(config))) == 7
    endless = study_from(SPACE | {"distil": SPACE["distil"] | {"alpha": {"low": 0.1, "high": 0.7}}})
    with pytest.raises(ValueError, match=r"distil\.alpha.*`step`"):
        list(every_chain(endless))
