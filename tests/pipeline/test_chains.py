"""Chains in words."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from pipeline.chains import describe_chain


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"stage": "baseline"}, "teacher"),
        ({"stage": "classical"}, "classical floor"),
        ({"stage": "after_kd", "distil.method": "none", "distil.layers": float("nan")}, "teacher"),
        ({"stage": "after_kd", "distil.method": "logit", "distil.layers": 1.0}, "logit 1 layer"),
        (
            {"distil.method": "logit", "distil.student": "ngram", "distil.buckets": 65536.0, "distil.dimension": 32.0},
            "logit n-grams 65536×32",
        ),
        ({"distil.method": "logit", "distil.student": "ngram"}, "logit n-grams"),
        (
            {"distil.method": "logit", "distil.student": "encoder", "distil.model": "/models/tiny-bn/"},
            "logit tiny-bn",
        ),
        (
            {"distil.method": "hidden", "distil.student": "layers", "distil.layers": 4, "distil.width": 192},
            "hidden 4 layers, 192 wide",
        ),
        (
            {"prune.method": "vocabulary+structured+wanda", "prune.ratio": 0.25, "prune.sparsity": 0.5},
            "teacher → vocabulary → structured 25% → wanda 50%",
        ),
        ({"distil.method": "none", "prune.method": "wanda", "prune.sparsity": 0.3}, "teacher → wanda 30%"),
        (
            {"distil.method": "logit", "distil.layers": 3, "prune.method": "none", "quantize.method": "fp16"},
            "logit 3 layers → fp16",
        ),
        (
            {
                "distil.method": "logit",
                "distil.layers": 2,
                "prune.method": "magnitude",
                "prune.sparsity": 0.625,
                "quantize.method": "int8_dynamic",
            },
            "logit 2 layers → magnitude 62.5% → int8",
        ),
        ({"distil.method": pd.NA, "quantize.method": "int4"}, "teacher → int4"),
    ],
)
def test_describe_chain(settings: dict[str, Any], words: str) -> None:
    assert describe_chain(settings) == words
