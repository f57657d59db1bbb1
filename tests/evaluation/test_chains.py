"""Chains in words, and the presets that they are."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from evaluation.chains import best_of_presets, describe_chain, preset_of
from search.config import Preset, preset_stages


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


@pytest.mark.parametrize("preset", Preset.__args__)  # type: ignore[attr-defined]
def test_every_preset_is_recognised_by_its_stages(preset: str) -> None:
    applied = {"distil": "logit", "prune": "wanda", "quantize": "fp16"}
    row = {f"{stage}.method": method for stage, method in applied.items() if stage in preset_stages(preset)}
    assert preset_of({"stage": "after_quantization", **row}) == preset
    nothing = {f"{stage}.method": "none" for stage in applied}
    assert preset_of({**nothing, **row}) == preset


def test_the_best_of_each_preset_is_shown_once() -> None:
    def row(key: str, score: float, verdict: str = "safe", status: str = "ok", **methods: str) -> dict[str, Any]:
        settings = {f"{stage}.method": method for stage, method in methods.items()}
        return {"model_key": key, "tradeoff_score": score, "safety_verdict": verdict, "status": status, **settings}

    trials = pd.DataFrame(
        [
            row("teacher", 0.5) | {"stage": "baseline"},
            row("floor", 0.9) | {"stage": "classical"},
            row("slow", 0.6, quantize="fp16", distil="none"),
            row("fast", 0.7, quantize="int8_dynamic", distil="none"),
            row("broken", 0.9, "unsafe", quantize="int4", distil="none"),
            row("only-unsafe", 0.4, "unsafe", distil="logit"),
            row("gone", 1.0, status="failed", distil="logit"),
            row("whole", 0.8, "inconclusive", distil="logit", prune="wanda", quantize="int8_dynamic"),
        ]
    )
    best = best_of_presets(trials)
    assert list(zip(best["preset"], best["model_key"], strict=True)) == [
        ("baseline", "teacher"),
        ("baseline_kd", "only-unsafe"),
        ("baseline_quant", "fast"),
        ("baseline_kd_prune_quant", "whole"),
    ]
    assert best["chain"].tolist()[:2] == ["teacher", "logit"]
    assert best_of_presets(trials[:0]).empty
