"""Trials' names: what they say, and that they are safe wherever they stand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import optuna
import pytest

from search.space import Space
from search.study_file import load_study
from search.trial_names import LONGEST, short_name, trial_name

STUDIES = Path(__file__).parents[2] / "search" / "studies"
LAYERS = {"distil.method": "logit", "distil.student": "layers", "distil.layers": 4, "distil.width": 0}
NGRAMS = {"distil.method": "logit", "distil.student": "ngram", "distil.buckets": 65536, "distil.dimension": 16}


def encoder(model: str) -> dict[str, Any]:
    return {"distil.method": "multi_level", "distil.student": "encoder", "distil.model": model}


@pytest.mark.parametrize(
    ("params", "name"),
    [
        ({"distil.method": "none", "prune.method": "none", "quantize.method": "none"}, "teacher"),
        (
            LAYERS | {"prune.method": "structured", "prune.ratio": 0.4, "quantize.method": "int8_dynamic"},
            "layers4_structured40_int8_dynamic",
        ),
        (LAYERS | {"distil.width": 128, "prune.method": "wanda", "prune.sparsity": 1 / 3}, "layers4x128_wanda33"),
        (LAYERS | {"distil.method": "hidden", "quantize.method": "fp16"}, "hidden_layers4_fp16"),
        (NGRAMS | {"quantize.method": "int4"}, "ngrams65536x16_int4"),
        (
            {"distil.method": "none", "prune.method": "vocabulary+gradual", "prune.sparsity": 0.9},
            "teacher_vocabulary_gradual90",
        ),
        (encoder("sagor/bangla-bert-small/"), "multi_level_bangla-bert-small"),
        (encoder("/models/ছোট মডেল; rm -rf $HOME"), "multi_level__rm_-rf_HOME"),
    ],
)
def test_what_a_name_says(params: dict[str, Any], name: str) -> None:
    assert trial_name(12, params) == f"trial_0012_{name}"


@pytest.mark.parametrize("study", sorted(STUDIES.glob("*.yaml")), ids=lambda file: file.stem)
def test_names_of_every_study_are_short_safe_and_differ(study: Path) -> None:
    space = Space(load_study(study, []))
    sampled = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    names = [trial_name(number, space.suggest(sampled.ask())) for number in range(60)]
    assert all(re.fullmatch(r"trial_\d{4}_[A-Za-z0-9][A-Za-z0-9._-]*", name) for name in names)
    assert all(len(name) <= LONGEST and name.isascii() and not name.endswith((".", "_", "-")) for name in names)
    assert len(set(names)) == len(names) and names == sorted(names)
    assert all(name.startswith(short_name(number)) for number, name in enumerate(names))


def test_a_long_chain_is_cut() -> None:
    everything = "vocabulary+magnitude+wanda+gradual+structured"
    params = encoder("x" * 90) | {"prune.method": everything, "prune.sparsity": 0.5, "prune.ratio": 0.5}
    name = trial_name(123_456, params)
    assert name.startswith("trial_123456_multi_level_xxx") and len(name) <= LONGEST
