"""The stages of a compression side by side: what each kept, and what it saved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from evaluation.stage_metrics import CompressionStageMetrics
from evaluation.tradeoff import compute_safe_compression_score, compute_tradeoff_score

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = (
    "stage",
    "f1_macro",
    "f1_retention",
    "critical_f1",
    "critical_f1_retention",
    "model_size_mb",
    "size_compression",
    "latency_mean_ms",
    "speedup",
    "tradeoff_score",
    "safe_compression_score",
)


def compare_stages(
    metrics: Mapping[str, CompressionStageMetrics] | Sequence[CompressionStageMetrics],
    *,
    baseline: str | None = None,
    weights: Sequence[float] = (0.5, 0.3, 0.2),
) -> pd.DataFrame:
    """Each stage against the baseline.

    Args:
        metrics: of the stages, in the order of the rows; a mapping names them by its keys.
        baseline: name of the stage that the others are compared with; by default `baseline`, else the first.
        weights: of retention, compression and speed in the trade-off score.

    Returns:
        one row a stage with columns `COLUMNS`, null where a value is not known or the baseline's is 0. `f1_retention`
        and `critical_f1_retention` are shares of the baseline's value, in [0, …]; `size_compression` and `speedup` are
        above 1 where the stage is smaller and faster. They are the stage's own `size_compression_ratio` and paired
        `speedup_factor` where it has them, else ratios of `model_size_mb` and of `latency_mean_ms`; the latter is not
        paired, and wrong by several per cent on a busy machine.

    Raises:
        ValueError: no stage, a stage twice, no such baseline, or bad weights.
    """
    import pandas as pd

    stages = _by_name(metrics)
    name = baseline or ("baseline" if "baseline" in stages else next(iter(stages)))
    if name not in stages:
        raise ValueError(f"baseline={name!r}: no such stage (has: {', '.join(stages)}); name one")
    rows = [{"stage": stage, **_against(stages[name], one, weights)} for stage, one in stages.items()]
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(dict.fromkeys(COLUMNS[1:], "float64"))


def _by_name(
    metrics: Mapping[str, CompressionStageMetrics] | Sequence[CompressionStageMetrics],
) -> dict[str, CompressionStageMetrics]:
    pairs = list(metrics.items()) if isinstance(metrics, Mapping) else [(one.stage, one) for one in metrics]
    names = [name for name, _ in pairs]
    twice = [name for name in names if names.count(name) > 1]
    if twice or not names:
        problem = f"stage {twice[0]!r} occurs twice; give the stages different names" if twice else "give at least one"
        raise ValueError(f"metrics: {problem}")
    return dict(pairs)


def _against(
    baseline: CompressionStageMetrics, stage: CompressionStageMetrics, weights: Sequence[float]
) -> dict[str, Any]:
    compression = _first(stage.size_compression_ratio, _times(baseline.model_size_mb, stage.model_size_mb))
    speedup = _first(stage.speedup_factor, _times(baseline.latency_mean_ms, stage.latency_mean_ms))
    return {
        "f1_macro": stage.f1_macro,
        "f1_retention": _ratio(stage.f1_macro, baseline.f1_macro),
        "critical_f1": stage.critical_f1,
        "critical_f1_retention": _ratio(stage.critical_f1, baseline.critical_f1),
        "model_size_mb": stage.model_size_mb,
        "size_compression": compression,
        "latency_mean_ms": stage.latency_mean_ms,
        "speedup": speedup,
        "tradeoff_score": compute_tradeoff_score(stage.f1_macro, baseline.f1_macro, compression, speedup, weights),
        "safe_compression_score": compute_safe_compression_score(compression, stage.critical_f1, baseline.critical_f1),
    }


def _first(value: float | None, otherwise: float | None) -> float | None:
    return otherwise if value is None else value


def _ratio(value: float | None, of: float | None) -> float | None:
    return None if value is None or of is None or not of > 0 else value / of


def _times(baseline: float | None, stage: float | None) -> float | None:
    """How many times smaller the stage's value is; None where one of them is not above 0."""
    inverse = _ratio(stage, baseline)
    return 1.0 / inverse if inverse else None
