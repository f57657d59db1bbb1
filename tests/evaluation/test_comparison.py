"""Stages side by side, against figures worked out by hand."""

import dataclasses

import pandas as pd
import pytest

from evaluation.comparison import COLUMNS, compare_stages
from evaluation.stage_metrics import CompressionStageMetrics

TEACHER = CompressionStageMetrics(
    stage="baseline", f1_macro=0.8, critical_f1=0.5, model_size_mb=40.0, latency_mean_ms=10.0
)
SMALL = CompressionStageMetrics(
    stage="after_kd", f1_macro=0.72, critical_f1=0.45, model_size_mb=8.0, latency_mean_ms=4.0
)


def test_the_rows_by_hand():
    table = compare_stages([TEACHER, SMALL])
    assert list(table) == list(COLUMNS) and table["stage"].tolist() == ["baseline", "after_kd"]
    first, second = table.drop(columns="stage").to_dict("records")
    assert first == pytest.approx(
        {
            "f1_macro": 0.8,
            "f1_retention": 1.0,
            "critical_f1": 0.5,
            "critical_f1_retention": 1.0,
            "model_size_mb": 40.0,
            "size_compression": 1.0,
            "latency_mean_ms": 10.0,
            "speedup": 1.0,
            "tradeoff_score": 0.5 + 0.03 + 0.04,
            "safe_compression_score": 1.0,
        }
    )
    assert (second["f1_retention"], second["size_compression"], second["speedup"]) == pytest.approx((0.9, 5.0, 2.5))
    assert second["tradeoff_score"] == pytest.approx(0.45 + 0.15 + 0.1)
    assert second["safe_compression_score"] == pytest.approx(5 * 0.81)


def test_measured_ratios_come_before_those_of_means():
    paired = CompressionStageMetrics(
        stage="x", model_size_mb=8.0, latency_mean_ms=4.0, size_compression_ratio=4.9, speedup_factor=2.2
    )
    row = compare_stages([TEACHER, paired]).iloc[1]
    assert (row["size_compression"], row["speedup"]) == (4.9, 2.2)


def test_the_baseline_may_be_any_stage_and_a_mapping_names_them():
    table = compare_stages({"mine": SMALL, "theirs": TEACHER}, baseline="theirs")
    assert table["stage"].tolist() == ["mine", "theirs"]
    assert table["f1_retention"].tolist() == pytest.approx([0.9, 1.0])
    assert compare_stages({"mine": SMALL, "theirs": TEACHER})["f1_retention"].iloc[1] == pytest.approx(0.8 / 0.72)
    assert compare_stages([SMALL, TEACHER])["f1_retention"].tolist() == pytest.approx([0.9, 1.0])
    weighted = compare_stages([TEACHER, SMALL], weights=(0, 1, 0))
    assert weighted["tradeoff_score"].tolist() == pytest.approx([0.1, 0.5])


def test_nothing_is_divided_by_zero_and_nothing_is_made_up():
    nothing = CompressionStageMetrics(stage="baseline", f1_macro=0.0, critical_f1=0.0, model_size_mb=0.0)
    table = compare_stages([nothing, SMALL, CompressionStageMetrics(stage="bare")])
    derived = ["f1_retention", "critical_f1_retention", "size_compression", "speedup"]
    derived += ["tradeoff_score", "safe_compression_score"]
    assert table[derived].isna().all(axis=None)
    lost = compare_stages([TEACHER, dataclasses.replace(SMALL, f1_macro=0.0, model_size_mb=0.0)]).iloc[1]
    assert lost["f1_retention"] == 0.0 and pd.isna(lost["size_compression"])
    assert table.iloc[2].drop("stage").isna().all()


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="metrics: give at least one"):
        compare_stages([])
    with pytest.raises(ValueError, match="stage 'after_kd' occurs twice"):
        compare_stages([TEACHER, SMALL, SMALL])
    with pytest.raises(ValueError, match=r"baseline='techer': no such stage \(has: baseline, after_kd\)"):
        compare_stages([TEACHER, SMALL], baseline="techer")
    with pytest.raises(ValueError, match="weights"):
        compare_stages([TEACHER], weights=(1, 1))
