"""One row and back."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.stage_metrics import DICT_FIELDS, INTEGER_FIELDS, CompressionStageMetrics

# Copied from DESIGN.md §8, which fixes names and order.
FIELDS = """stage, timestamp, model_size_mb, download_size_mb, num_parameters,
num_trainable_params, sparsity_percent, prunable_sparsity_percent, accuracy_exact, accuracy_per_label, f1_macro,
f1_weighted, f1_micro, precision_macro, recall_macro, hamming, roc_auc, per_label_f1, per_label_precision,
per_label_recall, per_label_accuracy, priority_weighted_f1, critical_f1, critical_recall, latency_mean_ms,
latency_p50_ms, latency_p95_ms, latency_p99_ms, throughput_samples_per_sec, peak_memory_mb, size_compression_ratio,
speedup_factor, speedup_low, speedup_high, speedup_vs_eager, thresholds, confusion_matrices"""

LABELS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=6)
NUMBERS = st.none() | st.floats(allow_nan=False)
MATRICES = st.lists(st.lists(st.integers(0, 10**9), min_size=2, max_size=2), min_size=2, max_size=2)


def values_of(name):
    if name == "stage":
        return st.sampled_from(["baseline", "after_kd", "classical"])
    if name == "timestamp":
        return st.none() | st.just("2025-01-31T12:00:00+00:00")
    if name == "confusion_matrices":
        return st.none() | st.dictionaries(LABELS, MATRICES, min_size=1, max_size=3)
    if name in DICT_FIELDS:
        return st.none() | st.dictionaries(LABELS, NUMBERS, min_size=1, max_size=3)
    return st.none() | st.integers(0, 2**53) if name in INTEGER_FIELDS else NUMBERS


METRICS = st.builds(
    CompressionStageMetrics,
    **{field.name: values_of(field.name) for field in dataclasses.fields(CompressionStageMetrics)},
)


def test_fields_are_those_of_the_design_and_only_stage_is_required():
    fields = dataclasses.fields(CompressionStageMetrics)
    assert [field.name for field in fields] == FIELDS.replace("\n", " ").split(", ")
    assert [field.name for field in fields if field.default is dataclasses.MISSING] == ["stage"]
    with pytest.raises(TypeError):
        CompressionStageMetrics("baseline")


@given(METRICS)
def test_roundtrip(metrics):
    row = metrics.to_flat_dict()
    assert all(value is None or isinstance(value, str | int | float) for value in row.values())
    assert CompressionStageMetrics.from_flat_dict(row) == metrics


def test_columns_of_dicts():
    metrics = CompressionStageMetrics(
        stage="after_kd", per_label_f1={"threat": 0.5, "a.b": None}, confusion_matrices={"threat": [[1, 2], [3, 4]]}
    )
    row = metrics.to_flat_dict()
    assert row["per_label_f1.threat"] == 0.5
    assert row["per_label_f1.a.b"] is None
    assert row["confusion_matrices.threat"] == "[[1,2],[3,4]]"
    assert not any(column.startswith("thresholds") for column in row)
    json.dumps(row)


def test_a_row_of_a_table_is_read_with_its_nulls_and_numpy_types():
    rows = [
        {"trial": 3, "distil.method": "none"}
        | CompressionStageMetrics(
            stage="baseline", num_parameters=7, f1_macro=0.5, thresholds={"a": 0.4}
        ).to_flat_dict(),
        CompressionStageMetrics(stage="classical", timestamp="now").to_flat_dict(),
    ]
    frame = pd.DataFrame(rows)
    first = CompressionStageMetrics.from_flat_dict(frame.iloc[0].to_dict() | {"critical_f1": pd.NA})
    assert first == CompressionStageMetrics(stage="baseline", num_parameters=7, f1_macro=0.5, thresholds={"a": 0.4})
    assert isinstance(first.num_parameters, int)
    plain = CompressionStageMetrics.from_flat_dict({"stage": "x", "f1_macro": np.float32(0.5)}).f1_macro
    assert type(plain) is float


def test_a_row_without_stage_is_refused():
    with pytest.raises(ValueError, match="stage"):
        CompressionStageMetrics.from_flat_dict({"f1_macro": 0.5, "stage": float("nan")})
