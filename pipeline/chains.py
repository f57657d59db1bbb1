"""A chain of compression in words: what was done to a model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Real
from typing import Any

ARROW, TIMES = " \u2192 ", "\u00d7"
_SHORT_METHODS = {"int8_dynamic": "int8", "int8_static": "int8 static", "int8_qat": "int8 QAT"}


def describe_chain(row: Mapping[str, Any]) -> str:
    """A measured model in words, as in `logit 2 layers → wanda 50% → int8`, from its stage and settings.

    Args:
        row: a row of `trials.parquet`: `stage`, and the settings `distil.*`, `prune.*`, `quantize.*` where applied;
            None, NaN and pandas' NA are no settings.
    """
    settings = {name: value for name, value in row.items() if _is_known(value)}
    if settings.get("stage") == "classical":
        return "classical floor"
    pruning, number_format = (str(settings.get(f"{stage}.method", "none")) for stage in ("prune", "quantize"))
    parts = [_student(settings)]
    if pruning != "none":
        parts += [_pruned(method, settings) for method in pruning.split("+")]
    if number_format != "none":
        parts.append(_SHORT_METHODS.get(number_format, number_format))
    return ARROW.join(parts)


def _is_known(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, Real) and math.isfinite(value))


def _student(settings: Mapping[str, Any]) -> str:
    method = settings.get("distil.method", "none")
    if method == "none":
        return "teacher"
    kind = settings.get("distil.student", "layers")
    if kind == "ngram":
        size = [f"{settings[name]:g}" for name in ("distil.buckets", "distil.dimension") if name in settings]
        return " ".join(filter(None, [str(method), "n-grams", TIMES.join(size)]))
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
