"""Which models the page shows, and the JSON from which the browser draws them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from evaluation.page.columns import equals, numbers, truth
from evaluation.page.history import History
from evaluation.records import plain_value
from evaluation.study_files import Study
from pipeline.chains import describe_chain

MOST_MODELS = 2000
"""Models in plots and panel; drawn as SVG, since WebGL needs a graphics driver and scripts made at run time."""
BEST_MODELS = 500
"""Models of the table of all models: the fronts, and then the best trade-offs."""

DROPS = ("f1_drop", "critical_f1_drop", "critical_recall_drop")
SETTINGS = ("distil.", "prune.", "quantize.")
_COLUMNS = {
    "f1": "f1_macro",
    "size": "model_size_mb",
    "download": "download_size_mb",
    "parameters": "num_parameters",
    "sparsity": "sparsity_percent",
    "speed": "speedup_factor",
    "speed_low": "speedup_low",
    "speed_high": "speedup_high",
    "p50": "latency_p50_ms",
    "p95": "latency_p95_ms",
    "throughput": "throughput_samples_per_sec",
    "memory": "peak_memory_mb",
    "accuracy": "accuracy_exact",
    "critical_f1": "critical_f1",
    "critical_recall": "critical_recall",
    "roc_auc": "roc_auc",
    "tradeoff": "tradeoff_score",
    "trial": "trial",
    "needed": "positives_needed",
    **{f"{drop}{end}": f"{drop}{end}" for drop in DROPS for end in ("", "_upper")},
}
_BY_LABEL = {"f1": "per_label_f1", "precision": "per_label_precision", "recall": "per_label_recall"}


@dataclass(frozen=True)
class PageModels:
    """The models of the page; a model's position here is its number in the JSON and in the tables."""

    rows: pd.DataFrame
    """Rows of `trials.parquet`, each model once, with `test_*`, `on_front` and `on_safe_front`; index 0…n-1."""
    chains: tuple[str, ...]
    """In words, one a row."""
    measured: int
    """Different models that were measured, shown or not."""
    undrawable: int
    """Measured models without a size or a macro F1."""
    left_out: int
    """Drawable models that are not shown; none of them is on a front."""

    @property
    def teacher(self) -> int | None:
        """The teacher's position; None when it was not measured."""
        found = np.flatnonzero(equals(self.rows, "stage", "baseline"))
        return int(found[0]) if len(found) else None

    def chosen(self, *flags: str) -> npt.NDArray[np.int64]:
        """Positions of the models that have any of these boolean columns true, best macro F1 first."""
        positions = np.flatnonzero(np.logical_or.reduce([truth(self.rows, flag) for flag in flags]))
        return positions[np.argsort(-numbers(self.rows, "f1_macro")[positions], kind="stable")]


def choose_models(study: Study) -> PageModels:
    """Teacher, floor and every model on a front; the best trade-offs; of the others an even share over the trials."""
    trials = study.trials
    known = trials["status"].ne("failed") & trials["model_key"].notna()
    measured = trials[known].drop_duplicates("model_key", keep="last")
    tested = _tested(study)
    f1, sizes = numbers(measured, "f1_macro"), numbers(measured, "model_size_mb")
    drawable = np.isfinite(f1) & np.isfinite(sizes) & (sizes > 0)
    always = measured["stage"].isin(["baseline", "classical"]) | measured["model_key"].isin(tested["model_key"])
    keep = drawable & always.to_numpy(dtype=np.bool_)
    others = np.flatnonzero(drawable & ~keep)
    score = np.nan_to_num(numbers(measured, "tradeoff_score")[others], nan=-np.inf)
    best = others[np.argsort(-score, kind="stable")[:BEST_MODELS]]
    keep[best] = True
    others = np.setdiff1d(others, best)
    room = min(len(others), max(0, MOST_MODELS - int(keep.sum())))
    keep[others[np.linspace(0, len(others) - 1, room).round().astype(np.int64)]] = True
    rows = measured[keep].merge(tested, on="model_key", how="left").reset_index(drop=True)
    settings = [name for name in rows.columns if name == "stage" or name.startswith(SETTINGS)]
    chains = tuple(
        describe_chain({str(name): value for name, value in row.items()}) for row in rows[settings].to_dict("records")
    )
    return PageModels(rows, chains, len(measured), int((~drawable).sum()), int(drawable.sum() - keep.sum()))


def page_data(study: Study, models: PageModels, history: History | None) -> dict[str, Any]:
    """What the browser needs, column by column, numbers to five digits, of JSON types only."""
    rows, labels = models.rows, study.label_columns
    return {
        "critical": study.critical_label,
        "labels": list(labels),
        "teacher": models.teacher,
        "keys": [str(key) for key in rows["model_key"]],
        "stage": _coded(rows["stage"]),
        "verdict": _coded(rows["safety_verdict"]),
        "chain": _coded(models.chains),
        "front": np.flatnonzero(truth(rows, "on_front")).tolist(),
        "safeFront": np.flatnonzero(truth(rows, "on_safe_front")).tolist(),
        "columns": {name: _rounded(numbers(rows, column)) for name, column in _COLUMNS.items()},
        "byLabel": {
            name: [_rounded(numbers(rows, f"{column}.{label}")) for label in labels]
            for name, column in _BY_LABEL.items()
        },
        "test": _test_figures(rows, labels),
        "settings": _settings(rows),
        "history": None if history is None else history.as_json(),
    }


def _tested(study: Study) -> pd.DataFrame:
    """`model_key`, `on_front`, `on_safe_front` and `test_*` of the fronts, teacher and floor, each model once."""
    parts = [study.front] if study.references is None else [study.front, study.references]
    kept = [
        part[[name for name in part.columns if name in ("model_key", "on_front", "on_safe_front") or _is_test(name)]]
        for part in parts
    ]
    together = [part.astype(object) for part in kept if len(part)]
    if not together:
        return pd.DataFrame({"model_key": pd.Series(dtype=object)})
    return pd.concat(together).drop_duplicates("model_key", keep="first")


def _is_test(name: str) -> bool:
    return name.startswith("test_")


def _test_figures(rows: pd.DataFrame, labels: Iterable[str]) -> dict[str, Any]:
    """By a model's position, the figures on the test split of those that were measured there."""
    names = {name: f"test_{column}" for name, column in _COLUMNS.items() if f"test_{column}" in rows.columns}
    columns = {name: _rounded(numbers(rows, column)) for name, column in names.items()}
    by_label = {
        name: [_rounded(numbers(rows, f"test_{column}.{label}")) for label in labels]
        for name, column in _BY_LABEL.items()
    }
    found = np.flatnonzero(np.isfinite(numbers(rows, "test_f1_macro")))
    verdicts = rows["test_safety_verdict"] if "test_safety_verdict" in rows.columns else [None] * len(rows)
    return {
        str(i): {
            **{name: values[i] for name, values in columns.items()},
            "verdict": plain_value(verdicts[i]),
            "byLabel": {name: [values[i] for values in lists] for name, lists in by_label.items()},
        }
        for i in found.tolist()
    }


def _settings(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Each setting that differs between models: its values in order, and for each model which one, or -1."""
    found = []
    for name in rows.columns:
        if not name.startswith(SETTINGS):
            continue
        values = [plain_value(value) for value in rows[name]]
        distinct = {_identity(value): value for value in values if value is not None}
        # One value and "not used" says no more than the method does.
        if len(distinct) + (None in values and name.endswith(".method")) < 2:
            continue
        order = sorted(distinct, key=lambda key: _place(distinct[key]))
        codes = {key: code for code, key in enumerate(order)}
        chosen = [-1 if value is None else codes[_identity(value)] for value in values]
        found.append({"name": name, "values": [_plain(distinct[key]) for key in order], "codes": chosen})
    return found


def _identity(value: Any) -> tuple[str, Any]:
    """Tells True from 1, and takes 1 and 1.0 for the same."""
    kind = "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__
    return kind, value


def _place(value: Any) -> tuple[bool, float, str]:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return (not is_number, float(value) if is_number else 0.0, "" if is_number else str(value))


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return value if isinstance(value, bool | int) else str(value)


def _coded(values: Iterable[Any]) -> dict[str, list[Any]]:
    """Texts as a list of the different ones and, for each model, which one; -1 for null."""
    plain = [plain_value(value) for value in values]
    names = list(dict.fromkeys(str(value) for value in plain if value is not None))
    codes = {name: code for code, name in enumerate(names)}
    return {"names": names, "codes": [-1 if value is None else codes[str(value)] for value in plain]}


def _rounded(values: npt.NDArray[np.float64]) -> list[float | int | None]:
    """To five significant digits, whole numbers whole; null for what is not finite."""
    return [_short(value) if math.isfinite(value) else None for value in values.tolist()]


def _short(value: float) -> float | int:
    rounded = value if value.is_integer() else float(f"{value:.5g}")
    return int(rounded) if rounded.is_integer() else rounded
