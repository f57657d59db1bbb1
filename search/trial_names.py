"""Names of trials that say what they do: in Ray's dashboard and tables, and of their log files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evaluation.escape import file_name

LONGEST = 80
LONGEST_MODEL = 24


def trial_name(number: int, params: Mapping[str, Any]) -> str:
    """Student, pruning in percent and number format, as in `trial_0012_layers4_structured40_int8_dynamic`.

    Args:
        number: of the Optuna trial.
        params: what the sampler suggested, `{"distil.method": …}`.

    Returns:
        at most 80 characters of `[A-Za-z0-9._-]`; `logit`, the usual way to distil, goes without saying.
    """
    pruning, number_format = (str(params.get(f"{stage}.method", "none")) for stage in ("prune", "quantize"))
    parts = [short_name(number), *_student(params)]
    if pruning != "none":
        parts += [_pruned(method, params) for method in pruning.split("+")]
    if number_format != "none":
        parts.append(number_format)
    return file_name("_".join(parts)[:LONGEST]).rstrip("._-")


def short_name(number: int) -> str:
    """The trial's number as a name, which sorts as the number does: `trial_0012`."""
    return f"trial_{number:04d}"


def _student(params: Mapping[str, Any]) -> list[str]:
    method = str(params.get("distil.method", "none"))
    if method == "none":
        return ["teacher"]
    kind = params.get("distil.student", "layers")
    if kind == "ngram":
        student = f"ngrams{params.get('distil.buckets', '')}x{params.get('distil.dimension', '')}"
    elif kind == "encoder":
        student = file_name(str(params.get("distil.model", "encoder")).rstrip("/").rpartition("/")[2])[:LONGEST_MODEL]
    else:
        width = params.get("distil.width")
        student = f"layers{params.get('distil.layers', '')}" + (f"x{width}" if width else "")
    return [student] if method == "logit" else [method, student]


def _pruned(method: str, params: Mapping[str, Any]) -> str:
    share = {"structured": params.get("prune.ratio"), "vocabulary": None}.get(method, params.get("prune.sparsity"))
    return method if share is None else f"{method}{100 * share:.0f}"
