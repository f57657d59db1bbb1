"""What each stage costs and gains, and what reuse saved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from evaluation.page.columns import equals, numbers, truth
from evaluation.records import STAGES

_METHODS = {"after_kd": "distil.method", "after_pruning": "prune.method", "after_quantization": "quantize.method"}


@dataclass(frozen=True)
class StageCost:
    """Medians over the models of one stage and method, each against the model that it was made from."""

    stage: str
    method: str
    models: int
    """Different models, unsafe ones too."""
    seconds: float
    """To build one; NaN when it is not known."""
    f1_change: float
    """Of macro F1, in [-1, 1]."""
    size_ratio: float
    """Size over the parent's: 0.25 is a quarter."""
    speed_ratio: float
    """Speed-up over the parent's: 2 is twice as fast."""


@dataclass(frozen=True)
class Reuse:
    """Seconds of the stages of one kind; rows without a time count for nothing."""

    stage: str
    built: int
    """Rows that were computed."""
    built_seconds: float
    reused: int
    """Rows that came from the store."""
    saved_seconds: float
    """What they took when they were computed."""


def stage_costs(trials: pd.DataFrame) -> list[StageCost]:
    """By stage and method, in the order of the chain; stages of which nothing was measured are left out.

    Args:
        trials: rows of `trials.parquet`. A model whose parent is not among them has a cost and no gain.
    """
    known = trials["status"].ne("failed") & trials["model_key"].notna()
    models = trials[known].drop_duplicates("model_key", keep="last")
    parent = pd.Index(models["model_key"]).get_indexer(pd.Index(models["parent_key"].astype(object)))
    f1, size, speedup = (numbers(models, name) for name in ("f1_macro", "model_size_mb", "speedup_factor"))

    def of_parent(values: Any) -> Any:
        return np.where(parent >= 0, values[parent], np.nan) if len(values) else values

    with np.errstate(divide="ignore", invalid="ignore"):
        compared = pd.DataFrame(
            {
                "stage": models["stage"].to_numpy(),
                "method": _methods(models),
                "seconds": numbers(models, "stage_seconds"),
                "f1_change": f1 - of_parent(f1),
                "size_ratio": size / of_parent(size),
                "speed_ratio": speedup / of_parent(speedup),
            }
        )
    figures = ["seconds", "f1_change", "size_ratio", "speed_ratio"]
    compared[figures] = compared[figures].where(np.isfinite(compared[figures]))
    found = []
    for (stage, method), rows in compared.groupby(["stage", "method"], sort=True):
        middle = rows[figures].median()
        found.append(StageCost(str(stage), str(method), len(rows), *(float(middle[name]) for name in figures)))
    return sorted(found, key=lambda cost: STAGES.index(cost.stage))


def reuse(trials: pd.DataFrame) -> list[Reuse]:
    """By stage, in the order of the chain; failed rows are left out."""
    rows = trials[trials["status"].ne("failed")]
    hit, seconds = truth(rows, "cache_hit"), np.nan_to_num(numbers(rows, "stage_seconds"))
    found = []
    for stage in _present(rows["stage"]):
        of_stage = equals(rows, "stage", stage)
        built, reused = of_stage & ~hit, of_stage & hit
        sums = float(seconds[built].sum()), float(seconds[reused].sum())
        found.append(Reuse(stage, int(built.sum()), sums[0], int(reused.sum()), sums[1]))
    return found


def _present(stages: pd.Series[Any]) -> Sequence[str]:
    present = set(stages)
    return [stage for stage in STAGES if stage in present]


def _methods(models: pd.DataFrame) -> pd.Series[Any]:
    """The method of each row's own stage; empty for teacher, floor and what has none."""
    method = pd.Series("", index=models.index, dtype=object)
    for stage, column in _METHODS.items():
        if column in models.columns:
            chosen = models["stage"].eq(stage) & models[column].notna()
            method[chosen] = models.loc[chosen, column].astype(object)
    return method.reset_index(drop=True)
