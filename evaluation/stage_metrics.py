"""What is measured of one model at one stage: `CompressionStageMetrics`, one row of `trials.parquet`."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final, TypeAlias

import numpy as np

Scalar: TypeAlias = str | int | float | None
LabelValues: TypeAlias = dict[str, float | None]
"""By label; None where the value is undefined."""
ConfusionMatrices: TypeAlias = dict[str, list[list[int]]]
"""By label: [[tn, fp], [fn, tp]]."""


@dataclass(frozen=True, kw_only=True)
class CompressionStageMetrics:
    """Size, quality, speed of one model; None is a value that was not measured or is not defined."""

    stage: str
    """`baseline`, `after_kd`, `after_pruning`, `after_quantization` or `classical`."""
    timestamp: str | None = None
    """ISO 8601, UTC."""
    model_size_mb: float | None = None
    """Bytes of the deployable weight files / 2²⁰; an encoder's tokenizer comes on top."""
    download_size_mb: float | None = None
    """The same after zstd."""
    num_parameters: int | None = None
    """Every stored weight, packed and quantized ones too."""
    num_trainable_params: int | None = None
    sparsity_percent: float | None = None
    """Zeros among all weights, 0 to 100."""
    prunable_sparsity_percent: float | None = None
    """Zeros among the weights that pruning may touch, 0 to 100."""
    accuracy_exact: float | None = None
    """Share of comments with every label right."""
    accuracy_per_label: float | None = None
    """Mean over labels of the share of comments with that label right."""
    f1_macro: float | None = None
    """Mean over labels of the positive class's F1; with one label, of both classes' F1."""
    f1_weighted: float | None = None
    f1_micro: float | None = None
    precision_macro: float | None = None
    recall_macro: float | None = None
    hamming: float | None = None
    """Hamming loss: share of wrong label decisions."""
    roc_auc: float | None = None
    """Mean over the labels that have both classes."""
    per_label_f1: LabelValues | None = None
    per_label_precision: LabelValues | None = None
    per_label_recall: LabelValues | None = None
    per_label_accuracy: LabelValues | None = None
    priority_weighted_f1: float | None = None
    critical_f1: float | None = None
    """F1 of the critical label's positive class."""
    critical_recall: float | None = None
    """Recall of the critical label's positive class."""
    latency_mean_ms: float | None = None
    """Single request, text in to probabilities out."""
    latency_p50_ms: float | None = None
    latency_p95_ms: float | None = None
    latency_p99_ms: float | None = None
    throughput_samples_per_sec: float | None = None
    """At batch 32."""
    peak_memory_mb: float | None = None
    """None where the system does not tell it (all but Linux)."""
    size_compression_ratio: float | None = None
    """Baseline size / this size."""
    speedup_factor: float | None = None
    """Paired, against the baseline in the same runtime; above 1 is faster."""
    speedup_low: float | None = None
    """Lower end of the 95 % interval of `speedup_factor`."""
    speedup_high: float | None = None
    """Upper end of the 95 % interval of `speedup_factor`."""
    speedup_vs_eager: float | None = None
    """Against the baseline in plain PyTorch eager."""
    thresholds: LabelValues | None = None
    confusion_matrices: ConfusionMatrices | None = None

    def to_flat_dict(self) -> dict[str, Scalar]:
        """One row: scalars under their own name, dicts as `per_label_f1.<label>`, matrices as compact JSON.

        A dict field that is None or empty has no key.
        """
        row: dict[str, Scalar] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name not in DICT_FIELDS:
                row[field.name] = value
                continue
            for label, entry in (value or {}).items():
                row[f"{field.name}.{label}"] = _matrix_text(entry) if field.name == "confusion_matrices" else entry
        return row

    @classmethod
    def from_flat_dict(cls, row: Mapping[str, Any]) -> "CompressionStageMetrics":
        """The inverse of `to_flat_dict`, also on a row of `trials.parquet`.

        NaN and pandas' NA are read as None, NumPy scalars as Python's; columns of other names are ignored.

        Args:
            row: column -> scalar; `stage` is required.

        Raises:
            ValueError: `stage` is absent or null, or a confusion matrix is not JSON.
        """
        values: dict[str, Any] = {}
        for column, cell in row.items():
            name, dot, label = column.partition(".")
            value = _plain(cell)
            if dot and name in DICT_FIELDS:
                parse = json.loads if name == "confusion_matrices" and value is not None else _identity
                values.setdefault(name, {})[label] = parse(value)
            elif not dot and name in SCALAR_FIELDS:
                values[name] = int(value) if name in INTEGER_FIELDS and value is not None else value
        if values.get("stage") is None:
            raise ValueError(f"stage: absent or null in a row with columns {sorted(row)[:8]}; each row names its stage")
        return cls(**values)


DICT_FIELDS: Final = frozenset(
    {
        "per_label_f1",
        "per_label_precision",
        "per_label_recall",
        "per_label_accuracy",
        "thresholds",
        "confusion_matrices",
    }
)
INTEGER_FIELDS: Final = frozenset({"num_parameters", "num_trainable_params"})
SCALAR_FIELDS: Final = frozenset(field.name for field in fields(CompressionStageMetrics)) - DICT_FIELDS


def _matrix_text(matrix: list[list[int]] | None) -> str | None:
    return None if matrix is None else json.dumps(matrix, separators=(",", ":"))


def _identity(value: Any) -> Any:
    return value


def _plain(cell: Any) -> Any:
    """A Python scalar; None for None, NaN and NA."""
    value = cell.item() if isinstance(cell, np.generic) else cell
    # NaN differs from itself; pandas' NA has no truth value, so it is known by its type's name.
    if value is None or type(value).__name__ in ("NAType", "NaTType") or (isinstance(value, float) and value != value):
        return None
    return value
