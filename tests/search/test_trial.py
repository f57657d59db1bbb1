"""The trial on a real, tiny chain: which rows come out, whose child each is, and what stops it."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from sklearn.metrics import f1_score

from evaluation.records import FIXED, RUN_DEPENDENT, SPEED
from evaluation.shape import TIMING
from pipeline.cache import Store
from pipeline.config import DistilConfig, PruneConfig, QuantizeConfig
from pipeline.data import load_data, prepare
from pipeline.runtime import load_classifier, sigmoid
from search.config import StudyConfig
from search.study_file import study_from
from search.trial import Row, constraints, far_from_safe, find_model, objectives, reference_rows, run_trial
from search.workbench import Workbench

TINY: dict[str, Any] = {
    "study": "tiny",
    "data": {"sample_rows": 500},
    "teacher": {
        "model": "scratch",
        "scratch_layers": 2,
        "scratch_width": 32,
        "scratch_vocabulary": 400,
        "epochs": 1,
        "learning_rate": 1e-3,
    },
    "distil": {"layers": 1, "epochs": 1, "learning_rate": 1e-3},
    "prune": {"sparsity": 0.5, "calibration_rows": 32},
    "search": {"stop_margin": 1.0},
    "safety": {"rounds": 200},
    "measure": {"seconds": 0.2, "requests": 20},
}
DISTIL = {"distil.method": "logit", "distil.layers": 1, "distil.epochs": 1, "distil.learning_rate": 1e-3}
NONE = {"distil.method": "none", "prune.method": "none", "quantize.method": "none"}
STAGES = ["teacher", "distil", "prune", "quantize"]
NULLABLE = {"error", "trial", "num_trainable_params", "prunable_sparsity_percent", "positives_needed"}
"""Columns that a measured model may leave null: not of every runtime, or not of every verdict."""


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Workbench:
    config = study_from(TINY | {"results_dir": str(tmp_path_factory.mktemp("results"))})
    return Workbench.open(config, prepare(config.data).add_to(Store(config.store_root)).key)


def run(bench: Workbench, **params: Any) -> tuple[list[Row], list[tuple[str, Row | None]]]:
    told: list[tuple[str, Row | None]] = []
    rows = run_trial(bench, NONE | params, lambda stage, row: told.append((stage, row)))
    return rows, told


def settings_in(row: Row) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name.split(".")[0] in ("distil", "prune", "quantize")}


def with_settings(bench: Workbench, **sections: dict[str, Any]) -> Workbench:
    raw = TINY | {"results_dir": bench.config.results_dir} | sections
    return Workbench(study_from(raw), bench.store, bench.data)


def test_a_chain_of_nones_gives_the_teacher(bench: Workbench) -> None:
    [row], told = run(bench)
    teacher = bench.teacher()
    assert (row["stage"], row["model_key"], row["parent_key"]) == ("baseline", teacher.key, None)
    assert settings_in(row) == {}
    assert (row["speedup_factor"], row["size_compression_ratio"], row["f1_drop"]) == (1.0, 1.0, 0.0)
    assert told == [(stage, None) for stage in STAGES]


def test_the_last_generation_is_the_teacher_of_the_chain(bench: Workbench) -> None:
    raw = {**TINY, "teacher": {**TINY["teacher"], "generations": 2}, "results_dir": bench.config.results_dir}
    again = Workbench(study_from(raw), bench.store, bench.data)
    generations = again.teachers()
    assert [one.parent_key for one in generations] == [None, generations[0].key, generations[1].key]
    assert generations[0].key == bench.teacher().key and generations[-1].key == again.teacher().key
    teacher, _ = reference_rows(again, lambda stage, row: None)
    assert (teacher["model_key"], teacher["parent_key"]) == (again.teacher().key, None)
    [row], _ = run(again, **{"quantize.method": "int8_dynamic"})
    assert row["parent_key"] == again.teacher().key


def test_the_whole_chain(bench: Workbench) -> None:
    rows, told = run(bench, **DISTIL, **{"prune.method": "magnitude", "quantize.method": "int8_dynamic"})
    assert [row["stage"] for row in rows] == ["after_kd", "after_pruning", "after_quantization"]
    assert [row["status"] for row in rows] == ["ok"] * 3
    keys = [bench.teacher().key, *(row["model_key"] for row in rows)]
    assert len(set(keys)) == 4
    assert [row["parent_key"] for row in rows] == keys[:-1]
    for row in rows:
        assert {name for name in FIXED if row.get(name) is None} <= NULLABLE
        assert row["study"] == "tiny"
    assert told == [
        ("teacher", None),
        ("distil", None),
        ("after_kd", rows[0]),
        ("prune", None),
        ("after_pruning", rows[1]),
        ("quantize", None),
        ("after_quantization", rows[2]),
    ]
    assert rows[1]["prunable_sparsity_percent"] == pytest.approx(50.0, abs=0.5)
    assert rows[2]["model_size_mb"] < 0.75 * rows[1]["model_size_mb"]


def test_settings_are_those_that_were_applied_so_far(bench: Workbench) -> None:
    rows, _ = run(bench, **DISTIL, **{"prune.method": "magnitude", "quantize.method": "int8_dynamic"})
    configs = {
        "distil": DistilConfig(method="logit"),
        "prune": PruneConfig(method="magnitude"),
        "quantize": QuantizeConfig(method="int8_dynamic"),
    }
    used = {stage: {f"{stage}.{name}" for name in one.key_fields()} for stage, one in configs.items()}
    expected: set[str] = set()
    for row, stage in zip(rows, used, strict=True):
        expected |= used[stage]
        assert set(settings_in(row)) == expected
    assert {name: rows[2][name] for name in DISTIL} == DISTIL
    assert rows[2]["prune.method"] == "magnitude" and "prune.calibration_rows" not in rows[2]


def test_a_skipped_stage_has_no_row_and_is_no_parent(bench: Workbench) -> None:
    rows, _ = run(bench, **{"prune.method": "wanda", "prune.calibration_rows": 32, "prune.epochs": 0})
    [row] = rows
    assert (row["stage"], row["parent_key"]) == ("after_pruning", bench.teacher().key)
    assert row["distil.method"] == "none" and "distil.layers" not in row
    assert (row["prune.method"], row["prune.calibration_rows"]) == ("wanda", 32)
    rows, _ = run(bench, **{"quantize.method": "fp16"})
    [row] = rows
    assert (row["stage"], row["parent_key"]) == ("after_quantization", bench.teacher().key)
    assert settings_in(row) == {"distil.method": "none", "prune.method": "none", "quantize.method": "fp16"}


def test_figures_agree_with_another_way_to_them(bench: Workbench) -> None:
    """Sizes from the files, F1 by scikit-learn from the stored model's own answers, drops from the teacher's row."""
    [teacher], _ = run(bench)
    [student], _ = run(bench, **DISTIL)
    validation = load_data(bench.data.path).validation
    names = load_data(bench.data.path).label_columns
    for row in (teacher, student):
        model = find_model(bench, row)
        weights = [file for file in model.path.iterdir() if file.suffix == ".onnx"]
        assert row["model_size_mb"] == pytest.approx(sum(file.stat().st_size for file in weights) / 2**20)
        probabilities = sigmoid(load_classifier(model.path).predict_logits(validation.texts, 32))
        thresholds = [row[f"thresholds.{name}"] for name in names]
        predicted = (probabilities >= np.array(thresholds)).astype(int)
        macro = f1_score(validation.labels, predicted, average="macro", zero_division=0)
        assert row["f1_macro"] == pytest.approx(macro)
        matrix = json.loads(row["confusion_matrices.threat"])
        assert np.sum(matrix) == len(validation)
        assert row["critical_recall"] == pytest.approx(matrix[1][1] / sum(matrix[1]))
    for drop, name in (("f1_drop", "f1_macro"), ("critical_f1_drop", "critical_f1")):
        assert student[drop] == pytest.approx(teacher[name] - student[name])
    ratio = teacher["model_size_mb"] / student["model_size_mb"]
    assert student["size_compression_ratio"] == pytest.approx(ratio)


def test_a_repeated_trial_builds_nothing_and_has_the_same_row(bench: Workbench) -> None:
    params = DISTIL | {"distil.alpha": 0.75, "quantize.method": "fp16"}
    first, _ = run(bench, **params)
    again, _ = run(bench, **params)
    assert [row["cache_hit"] for row in first] == [False, False]
    assert [row["cache_hit"] for row in again] == [True, True]
    for one, other in zip(first, again, strict=True):
        assert {k: v for k, v in one.items() if k not in RUN_DEPENDENT} == {
            k: v for k, v in other.items() if k not in RUN_DEPENDENT
        }
        assert one["stage_seconds"] == other["stage_seconds"]


def test_a_speed_that_another_process_measures_is_not_waited_for(bench: Workbench) -> None:
    params = NONE | DISTIL | {"quantize.method": "fp16"}
    hurried = replace(bench, waits=False)
    timed = run_trial(hurried, params, lambda stage, row: None)
    key = timed[0][TIMING]
    shutil.rmtree(bench.store.root / "latency" / key)
    with FileLock(bench.store.root / ".locks" / f"{key}.lock"):
        lacking = run_trial(hurried, params, lambda stage, row: None)
    assert lacking[0][TIMING] == key
    differing = {name for name in timed[0] if lacking[0].get(name) != timed[0][name]}
    speed = {name for name in (*SPEED, "tradeoff_score") if timed[0][name] is not None}
    assert speed <= differing <= speed | {"timestamp", "created_at", "cache_hit"}
    assert lacking[0]["speedup_factor"] is None and "timed_model" not in lacking[0]
    assert {name: lacking[1][name] for name in SPEED} == {name: timed[1][name] for name in SPEED}


def test_a_student_far_from_safe_stops_the_chain(bench: Workbench) -> None:
    chain = DISTIL | {"prune.method": "magnitude", "quantize.method": "fp16"}
    [student, *further], _ = run(bench, **chain)
    worst = max(student[name] for name in ("f1_drop", "critical_f1_drop", "critical_recall_drop"))
    assert len(further) == 2 and worst > 0
    limits = {"max_f1_drop": 0.0, "max_critical_f1_drop": 0.0, "max_critical_recall_drop": 0.0, "rounds": 200}
    strict = with_settings(bench, safety=limits, search={"stop_margin": worst / 2})
    [stopped], told = run(strict, **chain)
    assert (stopped["status"], stopped["stage"]) == ("stopped_unsafe", "after_kd")
    assert (stopped["model_key"], stopped["safety_verdict"]) == (student["model_key"], "unsafe")
    assert [stage for stage, _ in told] == ["teacher", "distil", "after_kd"]
    patient = with_settings(bench, safety=limits, search={"stop_margin": worst * 2})
    rows, _ = run(patient, **chain)
    assert [row["status"] for row in rows] == ["ok"] * 3


def test_a_model_that_is_not_distilled_is_never_stopped(bench: Workbench) -> None:
    limits = {"max_f1_drop": 0.0, "max_critical_f1_drop": 0.0, "max_critical_recall_drop": 0.0, "rounds": 200}
    strict = with_settings(bench, safety=limits, search={"stop_margin": 0.0})
    chain = {"prune.method": "magnitude", "prune.sparsity": 0.95, "prune.epochs": 0, "quantize.method": "fp16"}
    rows, _ = run(strict, **chain)
    assert [row["status"] for row in rows] == ["ok", "ok"]


def test_reference_rows_are_teacher_and_floor(bench: Workbench) -> None:
    told: list[str] = []
    teacher, floor = reference_rows(bench, lambda stage, row: told.append(stage))
    assert told == ["teacher", "classical"]
    assert (teacher["stage"], floor["stage"]) == ("baseline", "classical")
    assert (teacher["safety_verdict"], teacher["parent_key"], floor["parent_key"]) == ("safe", None, None)
    assert teacher["model_key"] != floor["model_key"]
    assert find_model(bench, floor).stage == "classical"


def test_what_is_not_in_the_store_is_named(bench: Workbench) -> None:
    with pytest.raises(FileNotFoundError, match="no data 0123456789ab; does this node see the folder of `storage`"):
        Workbench.open(bench.config, "0123456789abcdef")
    with pytest.raises(FileNotFoundError, match="model 0123456789ab is gone; run the study again"):
        find_model(bench, {"stage": "after_kd", "model_key": "0123456789abcdef"})


def test_objectives_by_hand() -> None:
    row = {"f1_macro": 0.75, "model_size_mb": 3, "speedup_factor": 4.0, "tradeoff_score": 0.5}
    assert objectives(row, ("model_size_mb", "latency_ratio", "f1_macro")) == [3.0, 0.25, 0.75]
    assert objectives(row, ("tradeoff_score",)) == [0.5]
    nothing = {"f1_macro": None, "model_size_mb": math.nan, "speedup_factor": None}
    for missing in (nothing, {}, {"speedup_factor": 0.0}, {"speedup_factor": math.nan}):
        assert all(math.isnan(value) for value in objectives(missing, ("f1_macro", "model_size_mb", "latency_ratio")))


@pytest.fixture(scope="module")
def limits() -> StudyConfig:
    drops = {"max_f1_drop": 0.05, "max_critical_f1_drop": 0.03, "max_critical_recall_drop": 0.0}
    return study_from({"safety": drops, "search": {"stop_margin": 0.1}})


def test_constraints_by_hand(limits: StudyConfig) -> None:
    row = {"f1_drop": 0.25, "critical_f1_drop": 0.01, "critical_recall_drop": -0.5}
    expected = {"f1_drop": 0.20, "critical_f1_drop": -0.02, "critical_recall_drop": -0.5}
    assert constraints(row, limits) == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize("row", [{}, {"f1_drop": None, "critical_f1_drop": math.nan}, {"f1_drop": -1.0}])
def test_an_unknown_drop_is_the_worst(row: dict[str, Any], limits: StudyConfig) -> None:
    unknown = {name: value for name, value in constraints(row, limits).items() if row.get(name) != -1.0}
    assert set(unknown.values()) == {1.0} and len(unknown) >= 2
    assert far_from_safe(row, limits)


def test_a_drop_at_its_limit_is_feasible_as_the_verdict_has_it(limits: StudyConfig) -> None:
    """1 - 0.97 is a little more than 0.03 in binary; `evaluation.safety` does not call it unsafe."""
    row = {"f1_drop": 1 - 0.95, "critical_f1_drop": 1 - 0.97, "critical_recall_drop": 0.0}
    assert row["critical_f1_drop"] > 0.03
    assert max(constraints(row, limits).values()) <= 0
    assert constraints(row | {"critical_f1_drop": 0.03001}, limits)["critical_f1_drop"] > 0


@pytest.mark.parametrize(("drop", "far"), [(0.12, False), (0.131, True), (None, True), (-0.5, False)])
def test_far_from_safe_is_beyond_limit_and_margin(drop: float | None, far: bool, limits: StudyConfig) -> None:
    row = {"f1_drop": 0.0, "critical_f1_drop": drop, "critical_recall_drop": 0.0}
    assert far_from_safe(row, limits) is far
