"""Chains in words, and the presets that they are."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from evaluation.chains import best_of_presets, preset_of
from search.config import Preset, preset_stages


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
