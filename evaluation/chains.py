"""A chain of compression in words: what was done to a model, and which of the field's presets that makes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from evaluation.records import plain_value

ARROW, TIMES = " \u2192 ", "\u00d7"
_SHORT_METHODS = {"int8_dynamic": "int8", "int8_static": "int8 static", "int8_qat": "int8 QAT"}
_PRESET_WORDS = {"distil": "kd", "prune": "prune", "quantize": "quant"}


def describe_chain(row: Mapping[str, Any]) -> str:
    """A measured model in words, as in `logit 2 layers → wanda 50% → int8`, from its stage and settings.

    Args:
        row: a row of `trials.parquet`: `stage`, and the settings `distil.*`, `prune.*`, `quantize.*` where applied.
    """
    settings = {name: value for name in row if (value := plain_value(row[name])) is not None}
    if settings.get("stage") == "classical":
        return "classical floor"
    pruning, number_format = (str(settings.get(f"{stage}.method", "none")) for stage in ("prune", "quantize"))
    parts = [_student(settings)]
    if pruning != "none":
        parts += [_pruned(method, settings) for method in pruning.split("+")]
    if number_format != "none":
        parts.append(_SHORT_METHODS.get(number_format, number_format))
    return ARROW.join(parts)


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


def _student(settings: Mapping[str, Any]) -> str:
    method = settings.get("distil.method", "none")
    if method == "none":
        return "teacher"
    kind = settings.get("distil.student", "layers")
    if kind == "ngram":
        return f"{method} n-grams {settings['distil.buckets']:g}{TIMES}{settings['distil.dimension']:g}"
    if kind == "encoder":
        return f"{method} {str(settings['distil.model']).rstrip('/').rpartition('/')[2]}"
    layers, width = settings.get("distil.layers"), settings.get("distil.width")
    if layers is None:
        return str(method)
    wide = f", {width:g} wide" if width else ""
    return f"{method} {layers:g} layer{'' if layers == 1 else 's'}{wide}"


def _pruned(method: str, settings: Mapping[str, Any]) -> str:
    share = {"structured": settings.get("prune.ratio"), "vocabulary": None}.get(method, settings.get("prune.sparsity"))
    return method if share is None else f"{method} {100 * share:g}%"
