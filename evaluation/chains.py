"""The chains of a study: which of the field's presets each of them is, and the best of each preset."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from evaluation.records import plain_value
from pipeline.chains import describe_chain

_PRESET_WORDS = {"distil": "kd", "prune": "prune", "quantize": "quant"}


def preset_of(row: Mapping[str, Any]) -> str | None:
    """The preset that has just the stages of this model, as `baseline_kd_quant`; None for the classical floor."""
    if plain_value(row.get("stage")) == "classical":
        return None
    words = [
        word for stage, word in _PRESET_WORDS.items() if (plain_value(row.get(f"{stage}.method")) or "none") != "none"
    ]
    return "_".join(["baseline", *words])


def best_of_presets(trials: pd.DataFrame) -> pd.DataFrame:
    """The model with the best trade-off of each preset, in the presets' order, with `preset` and `chain` as columns.

    Models that are not unsafe come before those that are; failed trials do not count.

    Args:
        trials: rows of `trials.parquet`.
    """
    measured = trials[trials["status"].ne("failed") & trials["model_key"].notna()]
    rows = [{str(name): value for name, value in row.items()} for row in measured.to_dict("records")]
    named = measured.assign(
        preset=pd.Series([preset_of(row) for row in rows], index=measured.index, dtype=object),
        chain=pd.Series([describe_chain(row) for row in rows], index=measured.index, dtype=object),
    )
    named = named[named["preset"].notna()].sort_values("tradeoff_score", ascending=False, kind="stable")
    unsafe = named["safety_verdict"].eq("unsafe")
    best = pd.concat([named[~unsafe], named[unsafe]]).drop_duplicates("preset")
    return best.sort_values("preset", key=lambda names: names.str.count("_").astype(str) + names, kind="stable")
