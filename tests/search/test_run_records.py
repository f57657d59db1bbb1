"""Records of runs from rows as trials return them: names, the field's figures, curves, and what a failed trial has."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

import optuna
import pytest

from cluster.study_runs import Point
from search.run_records import (
    AGAIN,
    FIRST,
    curve_points,
    reference_curves,
    reference_records,
    remeasured,
    run_name,
    stage_points,
    study_points,
    study_record,
    trial_record,
)
from search.study_file import study_from
from search.study_keys import CURVES, ERROR, QUIET, REFERENCE_CURVES, REFERENCES, ROWS

MADE = "2026-01-02T03:04:05+00:00"
MADE_MS = 1_767_323_045_000
EPOCHS = [
    {"epoch": 1, "total_loss": 0.9, "soft_loss": 1.0, "hard_loss": 0.8, "val_loss": 0.7, "val_f1": 0.1, "seconds": 2.0},
    {"epoch": 2, "total_loss": 0.5, "soft_loss": 0.6, "hard_loss": 0.4, "val_loss": 0.3, "val_f1": 0.2, "seconds": 3.0},
]


def row(stage: str, key: str, parent: str | None, **changes: Any) -> dict[str, Any]:
    measured = {"study": "s", "stage": stage, "model_key": key, "parent_key": parent, "status": "ok", "error": None}
    measured |= {"cache_hit": False, "stage_seconds": 4.0, "node": "n", "created_at": MADE, "safety_verdict": "safe"}
    measured |= {"f1_macro": 0.75, "model_size_mb": 8.0, "num_parameters": 1000, "sparsity_percent": 50.0}
    measured |= {"size_compression_ratio": 2.0, "latency_mean_ms": 1.5, "throughput_samples_per_sec": 900.0}
    measured |= {
        "roc_auc": None,
        "speedup_factor": 3.0,
        "f1_drop": 0.0,
        "per_label_f1.হুমকি": 0.5,
        "hamming": float("nan"),
    }
    measured |= {"tradeoff_score": 0.9, "positives_needed": None, "confusion_matrices.হুমকি": "[[1,2],[3,4]]"}
    return measured | changes


STUDENT = {"distil.method": "logit", "distil.layers": 2, "distil.student": "layers"}
PRUNED = STUDENT | {"prune.method": "wanda", "prune.sparsity": 0.5}
COMPACT = PRUNED | {"quantize.method": "int8_dynamic"}
CHAIN = [
    row("after_kd", "b", "a", **STUDENT),
    row("after_pruning", "c", "b", **PRUNED),
    row("after_quantization", "d", "c", **COMPACT, model_size_mb=2.0, f1_macro=0.7),
]


@pytest.fixture
def study() -> optuna.Study:
    """A trial that ended well, one that failed after its first stage, and one that is not over."""
    made = optuna.create_study(directions=["maximize"])
    made.set_user_attr(REFERENCES, [row("baseline", "a", None), row("classical", "z", None)])
    folds = [{"fold": fold, **entry} for fold in (1, 2) for entry in EPOCHS]
    made.set_user_attr(REFERENCE_CURVES, reference_curves({"history": EPOCHS, "folds": folds}))
    good, bad, _ = (made.ask() for _ in range(3))
    good.set_user_attr(ROWS, CHAIN)
    good.set_user_attr(CURVES, [{"name": "after_kd", "epochs": EPOCHS}])
    made.tell(good, 0.7)
    failed = {"study": "s", "stage": "after_kd", "status": "failed", ERROR: "ValueError: torn", "prune.method": "wanda"}
    bad.set_user_attr(ROWS, [CHAIN[0], failed])
    bad.set_user_attr(ERROR, "ValueError: torn")
    made.tell(bad, state=optuna.trial.TrialState.FAIL)
    return made


def latest(points: Iterator[Point] | Any) -> dict[str, float]:
    return {point.name: point.value for point in points}


def test_the_field_s_names_of_each_stage(study: optuna.Study) -> None:
    record = trial_record(study.trials[0], study.user_attrs[REFERENCES])
    figures = latest(record.metrics)
    assert figures["after_kd/student_params"] == 1000 and figures["after_kd/compression_ratio"] == 2.0
    assert figures["after_pruning/sparsity"] == 0.5
    sizes = [figures[f"after_quantization/{name}"] for name in ("original_size_mb", "quantized_size_mb")]
    assert sizes == [8.0, 2.0] and figures["after_quantization/size_reduction_pct"] == 75.0
    for stage in ("after_kd", "after_pruning", "after_quantization"):
        assert figures[f"{stage}/latency_mean_ms"] == 1.5 and figures[f"{stage}/throughput_samples_per_sec"] == 900.0
    methods = [record.params[f"{one['stage']}/method"] for one in CHAIN]
    assert methods == ["logit", "wanda", "int8_dynamic"]


def test_every_number_is_a_metric_and_nothing_else(study: optuna.Study) -> None:
    points = trial_record(study.trials[0], [])
    names = {name for name, value in CHAIN[0].items() if isinstance(value, bool | int | float) and value == value}
    names -= set(STUDENT)
    logged = {point.name for point in points.metrics if point.name.startswith("after_kd/")}
    of_curves = {"total_loss", "soft_loss", "hard_loss", "val_loss", "val_f1", "seconds"}
    fields = {"student_params", "compression_ratio", "sparsity"}
    assert logged == {f"after_kd/{name}" for name in names | of_curves | fields}
    assert "after_kd/per_label_f1.হুমকি" in logged and "after_kd/cache_hit" in logged


def test_figures_of_the_last_model_stand_without_its_stage(study: optuna.Study) -> None:
    record = trial_record(study.trials[0], [])
    figures = latest(record.metrics)
    assert (figures["f1_macro"], figures["model_size_mb"], figures["after_kd/f1_macro"]) == (0.7, 2.0, 0.75)
    assert record.params["pipeline"] == "baseline_kd_prune_quant"
    assert record.params["pipeline_description"] == "logit 2 layers \u2192 wanda 50% \u2192 int8"
    assert {name: record.params[name] for name in COMPACT} == COMPACT
    assert (record.name, record.status, record.tags["status"]) == ("trial 0", "FINISHED", "ok")
    assert 0 < record.started_ms <= record.ended_ms


def test_a_failed_trial_has_its_error_and_the_models_so_far(study: optuna.Study) -> None:
    record = trial_record(study.trials[1], [])
    assert (record.name, record.status) == ("trial 1", "FAILED")
    assert (record.tags[ERROR], record.tags["status"]) == ("ValueError: torn", "failed")
    assert latest(record.metrics)["after_kd/f1_macro"] == 0.75
    assert record.params["prune.method"] == "wanda" and record.params["pipeline"] == "baseline_kd"


def test_a_trial_that_died_at_once() -> None:
    study = optuna.create_study()
    study.tell(study.ask(), state=optuna.trial.TrialState.FAIL)
    record = trial_record(study.trials[0], [])
    assert (record.status, dict(record.params), list(record.metrics)) == ("FAILED", {}, [])


def test_curves_have_a_point_an_epoch_in_order_of_time() -> None:
    points = list(curve_points([{"name": "after_kd", "epochs": EPOCHS}], 1_000))
    loss = [(point.step, point.value, point.timestamp_ms) for point in points if point.name == "after_kd/val_loss"]
    assert loss == [(1, 0.7, 3_000), (2, 0.3, 6_000)]
    assert {point.name for point in points} == {f"after_kd/{name}" for name in EPOCHS[0] if name != "epoch"}


def test_curves_are_the_same_however_often_they_are_logged(study: optuna.Study) -> None:
    frozen = study.trials[0]
    assert trial_record(frozen, []) == trial_record(frozen, [])


def test_teacher_and_floor(study: optuna.Study) -> None:
    teacher, floor = reference_records(study)
    assert (teacher.name, floor.name) == ("teacher", "classical")
    curves = [
        [p.value for p in teacher.metrics if p.name == f"{name}/val_loss"] for name in ("baseline", "fold_1", "fold_2")
    ]
    assert curves == [[0.7, 0.3]] * 3
    assert not [point for point in floor.metrics if "loss" in point.name]
    assert (teacher.started_ms, teacher.ended_ms) == (MADE_MS - 4_000, MADE_MS)
    assert latest(floor.metrics)["classical/f1_macro"] == latest(floor.metrics)["f1_macro"] == 0.75
    assert floor.params["pipeline_description"] == "classical floor"


def test_a_study_of_an_earlier_version_has_no_curves() -> None:
    study = optuna.create_study()
    assert list(reference_records(study)) == []
    study.set_user_attr(REFERENCES, [row("baseline", "a", None)])
    [teacher] = reference_records(study)
    assert latest(teacher.metrics)["baseline/f1_macro"] == 0.75


def test_settings_of_the_study() -> None:
    config = study_from(
        {
            "study": "s",
            "preset": "baseline_kd_quant",
            "distil": {"method": {"choices": ["none", "logit"]}},
            "priorities": {"threat": 2},
            "search": {"trials": 7},
        }
    )
    record = study_record(config)
    assert (record.params["pipeline"], record.name) == ("baseline_kd_quant", "s")
    assert record.params["pipeline_description"] == "teacher \u2192 distil \u2192 quantize"
    assert record.params["distil.method"] == '{"choices": ["none", "logit"]}'
    assert (record.params["priorities.threat"], record.params["teacher.epochs"]) == (2, config.teacher.epochs)
    assert record.params["seed"] == 0 and record.tags["search.trials"] == 7
    may_change = ("resources", "results_dir", "storage", "write_models", "tracking", "search.trials")
    assert not [name for name in record.params if name.startswith(may_change)]


def test_what_the_end_measures_anew(study: optuna.Study) -> None:
    study.set_user_attr(QUIET, {"c": {"latency_mean_ms": 1.25}, "d": {"latency_mean_ms": 0.5}})
    tested = [{**CHAIN[2], "trial": 0, "test_f1_macro": 0.625, "on_front": True, "latency_mean_ms": 0.5}]
    tested += [{**one, "trial": None} for one in study.user_attrs[REFERENCES]]
    rows = remeasured(study, [*tested, tested[-1]])
    assert [run_name(one) for one in rows] == ["trial 0", "teacher", "classical", "trial 0"]
    assert [one["model_key"] for one in rows] == ["d", "a", "z", "c"]
    points = stage_points(rows[0], None, MADE_MS, AGAIN)
    assert {point.step for point in points} == {AGAIN} and AGAIN > FIRST
    figures = latest(points)
    assert figures["after_quantization/test_f1_macro"] == 0.625 and figures["after_quantization/latency_mean_ms"] == 0.5
    assert not [name for name in figures if name.endswith(("on_front", "/trial"))]
    assert latest(stage_points(rows[3], None, MADE_MS, AGAIN))["after_pruning/latency_mean_ms"] == 1.25


def test_counts_of_the_study(study: optuna.Study) -> None:
    points = list(study_points(study, [{"on_front": True}, {"on_front": False}]))
    expected = {"trials": 2, "failed_trials": 1, "models": 5, "safe_models": 5, "front_models": 1}
    assert latest(points) == expected and {point.step for point in points} == {2}
    assert abs(points[0].timestamp_ms / 1000 - datetime.now().timestamp()) < 60
