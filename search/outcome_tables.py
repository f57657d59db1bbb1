"""Tables of stage outcomes for `simulate.py`: what a real study measured, or a formula with its random numbers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cache, lru_cache
from typing import Any

import numpy as np
import pandas as pd

from evaluation.records import plain_value
from evaluation.tradeoff import compute_safe_compression_score, compute_tradeoff_score
from search.config import STAGES, StudyConfig
from search.trial import DROPS, ROW_STAGES, Row

TEACHER_F1, TEACHER_MB = 0.80, 88.0
"""Of the synthetic worlds."""


class RecordedTable:
    """The rows of a study that ran every chain of its space."""

    def __init__(self, trials: pd.DataFrame) -> None:
        """Take the rows of `trials.parquet`."""
        rows: list[Row] = [
            {str(name): plain_value(value) for name, value in row.items()} for row in trials.to_dict("records")
        ]
        self._teacher = next(row for row in rows if row["stage"] == "baseline")
        self._rows = {
            (row["stage"], _settings(row)): row for row in rows if row["status"] != "failed" and row["model_key"]
        }

    def teacher(self) -> Row:
        """The teacher's row."""
        return self._teacher

    def row(self, stage: str, params: Mapping[str, Any]) -> Row | None:
        """See `simulate.Table`.

        Raises:
            KeyError: no trial of the study ran this chain.
        """
        if params[f"{stage}.method"] == "none":
            return None
        upto = list(STAGES)[: list(STAGES).index(stage) + 1]
        settings = _settings({name: value for name, value in params.items() if name.partition(".")[0] in upto})
        found = self._rows.get((ROW_STAGES[stage], settings))
        if found is None:
            raise KeyError(f"{stage}: no recorded model has {dict(params)}; search only what the study ran")
        return found


def _settings(row: Mapping[str, Any]) -> frozenset[tuple[str, Any]]:
    """The settings of the stages that were applied, numbers as floats."""
    return frozenset(
        (name, float(value) if isinstance(value, int | float) else value)
        for name, value in row.items()
        if name.partition(".")[0] in STAGES and value is not None and row.get(f"{name.partition('.')[0]}.method")
    )


class SyntheticTable:
    """A formula with the manners of real compression: sizes multiply, F1 drops add up, and chains differ by chance.

    The constants are of the order of those measured on Bangla comments with a teacher of 12 layers; they are there to
    compare policies, not to predict models.
    """

    def __init__(self, config: StudyConfig, seed: int) -> None:
        """Take the study for its limits, and the seed that decides what is good in this world."""
        self._limits, self._weights = config.safety, config.tradeoff_weights
        self._seed = seed
        self._luck, self._chance = lru_cache(1 << 16)(self._drawn), cache(self._drawn_evenly)  # chains share beginnings

    def teacher(self) -> Row:
        """The teacher's row."""
        return self._measured("baseline", np.array([TEACHER_F1, TEACHER_MB, 1.0]), 0.0, ())

    def row(self, stage: str, params: Mapping[str, Any]) -> Row | None:
        """See `simulate.Table`."""
        if params[f"{stage}.method"] == "none":
            return None
        values, seconds = np.array([TEACHER_F1, TEACHER_MB, 1.0]), 0.0
        path: tuple[Any, ...] = ()
        for name in STAGES:
            own = {key.partition(".")[2]: value for key, value in params.items() if key.startswith(f"{name}.")}
            path += (name, json.dumps(own, sort_keys=True))
            if own["method"] != "none":
                values, seconds = getattr(self, f"_{name}")(values, own, params)
                values[0] += self._luck(path, 0.004)
            if name == stage:
                break
        return self._measured(ROW_STAGES[stage], values, seconds, path)

    def _distil(self, values: Any, own: Mapping[str, Any], params: Mapping[str, Any]) -> tuple[Any, float]:
        f1, size, _ = values
        if own.get("student") == "ngram":
            buckets, dimension = own.get("buckets", 131072), own.get("dimension", 16)
            f1 -= 0.015 + 0.12 / dimension + 0.004 * np.log2(262144 / buckets)
            size, latency, seconds = buckets * dimension * 4 / 2**20 + 0.2, 1 / 170, 12.0
        else:
            layers = own.get("layers", 3)
            f1 -= 0.05 / layers
            size, latency, seconds = 7.0 + 6.8 * layers, layers / 12.5, 12.0 * layers * own.get("epochs", 3)
        best_alpha, best_temperature = 0.5 + 0.4 * self._chance("alpha"), 1.0 + 3.0 * self._chance("temperature")
        f1 -= 0.03 * (own.get("alpha", 0.5) - best_alpha) ** 2
        f1 -= 0.002 * (own.get("temperature", 2.0) - best_temperature) ** 2
        f1 += self._taste(own["method"], 0.004)
        return np.array([f1, size, latency]), seconds

    def _prune(self, values: Any, own: Mapping[str, Any], params: Mapping[str, Any]) -> tuple[Any, float]:
        f1, size, latency = values
        share = own.get("ratio", own.get("sparsity", 0.0)) or 0.0
        if "structured" in own["method"]:
            size, latency = size * (1 - 0.8 * share), latency * (1 - 0.75 * share)
            f1 -= 0.08 * share**2
        elif share:
            f1 -= 0.04 * share**2
        if "vocabulary" in own["method"]:
            size -= 3.0 if size > 10.0 else 0.0
            f1 -= 0.001
        return np.array([f1 + self._taste(own["method"], 0.003), size, latency]), 40.0 + 100.0 * latency

    def _quantize(self, values: Any, own: Mapping[str, Any], params: Mapping[str, Any]) -> tuple[Any, float]:
        f1, size, latency = values
        smaller, faster, lost = {
            "fp16": (0.5, 1.2, 0.0),
            "int8_dynamic": (0.26, 0.45, 0.002),
            "int8_static": (0.26, 0.42, 0.006),
            "int8_qat": (0.26, 0.42, 0.001),
            "int4": (0.16, 0.9, 0.008),
        }[own["method"]]
        if params.get("distil.student") == "ngram":
            faster = 1.0
        seconds = 60.0 if own["method"] == "int8_qat" else 5.0
        return np.array([f1 - lost + self._taste(own["method"], 0.002), size * smaller, latency * faster]), seconds

    def _measured(self, stage: str, values: Any, seconds: float, path: tuple[Any, ...]) -> Row:
        f1, size, latency = (float(value) for value in values)
        drops = dict.fromkeys(DROPS, 0.0)
        if stage != "baseline":
            drops = {
                name: TEACHER_F1 - f1 + self._luck((*path, name), 0.01 * index) for index, name in enumerate(DROPS)
            }
        critical_f1 = TEACHER_F1 - drops["critical_f1_drop"]
        unsafe = any(value > getattr(self._limits, f"max_{name}") for name, value in drops.items())
        return {
            "stage": stage,
            "status": "ok",
            "model_key": hashlib.sha256(repr((stage, path)).encode()).hexdigest(),
            "stage_seconds": seconds,
            "f1_macro": f1,
            "model_size_mb": size,
            "speedup_factor": 1.0 / latency,
            "critical_f1": critical_f1,
            "tradeoff_score": compute_tradeoff_score(f1, TEACHER_F1, TEACHER_MB / size, 1.0 / latency, self._weights),
            "safe_compression_score": compute_safe_compression_score(TEACHER_MB / size, critical_f1, TEACHER_F1),
            "safety_verdict": "unsafe" if unsafe else "inconclusive",
            **drops,
        }

    def _drawn(self, path: tuple[Any, ...], deviation: float) -> float:
        """What this chain has by chance; the same whenever it is asked for."""
        if not deviation:
            return 0.0
        digest = hashlib.sha256(repr((self._seed, path)).encode()).digest()
        return float(np.random.default_rng(int.from_bytes(digest[:8], "big")).normal()) * deviation

    def _taste(self, method: str, deviation: float) -> float:
        return self._luck(("taste", method), deviation)

    def _drawn_evenly(self, name: str) -> float:
        return float(np.random.default_rng([self._seed, len(name)]).random())
