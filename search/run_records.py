"""What a study logs with MLflow: its settings, rows and training curves as records of runs.

One parent run a study; nested runs `teacher`, `classical` and `trial 0`, `trial 1`, … In a nested run a metric or curve
is called `<stage>/<name>`, with the stages of `trials.parquet`; some figures of its last model stand without the stage
too.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from itertools import accumulate
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from cluster.study_runs import Point, RunRecord
from evaluation.chains import preset_of
from pipeline.chains import ARROW, describe_chain
from search.config import STAGES, StudyConfig, preset_stages
from search.optuna_study import ENDED, collected_rows
from search.study_file import MAY_CHANGE
from search.study_keys import CURVES, ERROR, QUIET, REFERENCE_CURVES, REFERENCES, ROWS
from search.trial import Curve, Row

METHODS = {"after_kd": "distil.method", "after_pruning": "prune.method", "after_quantization": "quantize.method"}
REFERENCE_RUNS = {"baseline": "teacher", "classical": "classical"}
IN_SHORT = (
    "f1_macro",
    "model_size_mb",
    "speedup_factor",
    "latency_mean_ms",
    "throughput_samples_per_sec",
    "tradeoff_score",
    "f1_drop",
    "critical_f1_drop",
    "critical_recall_drop",
)
"""Figures that a run has of its last model without the stage's name, to sort and compare trials by."""
FIRST, AGAIN = 0, 1
"""Steps of a figure: as the search measured it, and as the end of the study did."""
NO_FIGURES = {"trial", "on_front", "on_safe_front"}
"""Columns that are no figures of the model."""


def study_record(config: StudyConfig) -> RunRecord:
    """The parent run: the study's settings."""
    params: dict[str, object] = {
        "pipeline": config.preset,
        "pipeline_description": ARROW.join(["teacher", *preset_stages(config.preset)]),
    }
    for key, value in config.model_dump(mode="json").items():
        inner = value if isinstance(value, dict) else {"": value}
        params |= {f"{key}.{name}".rstrip("."): _shown(below) for name, below in inner.items()}
    # A run's params cannot change, and these may: they stand in `study.yaml`.
    kept = {name: value for name, value in params.items() if not name.startswith(MAY_CHANGE)}
    now = round(datetime.now().timestamp() * 1000)
    return RunRecord(config.study, now, now, params=kept, tags={"search.trials": config.search.trials})


def reference_records(study: optuna.Study) -> Iterator[RunRecord]:
    """The runs of teacher and classical floor."""
    curves: list[Curve] = study.user_attrs.get(REFERENCE_CURVES, [])
    for row in study.user_attrs.get(REFERENCES, []):
        ended = milliseconds(row["created_at"])
        started = ended - round(1000 * row["stage_seconds"])
        own = [curve for curve in curves if row["stage"] == "baseline"]
        points = [*curve_points(own, started), *stage_points(row, None, ended), *_in_short(row, ended)]
        tags = {"safety_verdict": row["safety_verdict"], "model_key": row["model_key"]}
        params = {"pipeline_description": describe_chain(row)}
        yield RunRecord(REFERENCE_RUNS[row["stage"]], started, ended, params=params, metrics=points, tags=tags)


def reference_curves(notes: Mapping[str, Any]) -> list[Curve]:
    """The teacher's training on all of train, and on each fold, from what it noted."""
    folds: dict[int, list[dict[str, float]]] = {}
    for entry in notes.get("folds") or []:
        folds.setdefault(entry["fold"], []).append(entry)
    of_folds: list[Curve] = [{"name": f"fold_{fold}", "epochs": epochs} for fold, epochs in folds.items()]
    return [{"name": "baseline", "epochs": notes.get("history") or []}, *of_folds]


def trial_record(trial: FrozenTrial, references: Sequence[Row]) -> RunRecord:
    """The run of a trial that has ended: settings, curves and figures of each of its models."""
    begun, over = trial.datetime_start, trial.datetime_complete
    ended = milliseconds(over) if over else 0
    started = milliseconds(begun) if begun else ended
    rows: list[Row] = trial.user_attrs.get(ROWS, [])
    measured = [row for row in rows if row.get("model_key")]
    by_key = {row["model_key"]: row for row in [*references, *measured]}
    points = list(curve_points(trial.user_attrs.get(CURVES, []), started))
    params: dict[str, object] = {}
    for row in measured:
        points += stage_points(row, by_key.get(row.get("parent_key")), ended)
        if METHODS.get(row["stage"]) in row:
            params[f"{row['stage']}/method"] = row[METHODS[row["stage"]]]
    for row in rows:
        params |= {name: value for name, value in row.items() if _is_setting(name) and value is not None}
    tags: dict[str, object] = {"status": rows[-1]["status"] if rows else "failed"}
    if measured:
        last = measured[-1]
        points += _in_short(last, ended)
        params |= {"pipeline": preset_of(last), "pipeline_description": describe_chain(last)}
        tags |= {name: last[name] for name in ("stage", "safety_verdict", "model_key") if last.get(name)}
    if problem := trial.user_attrs.get(ERROR):
        tags[ERROR] = problem
    failed = trial.state == TrialState.FAIL
    return RunRecord(f"trial {trial.number}", started, ended, "FAILED" if failed else "FINISHED", params, points, tags)


def remeasured(study: optuna.Study, tested: Sequence[Row]) -> list[Row]:
    """Each row with figures of the study's end once: those tested, and those that were on the front for a while."""
    ends = {row["model_key"]: row for row in tested}
    quiet: Mapping[str, Row] = study.user_attrs.get(QUIET, {})
    left = (row for row in collected_rows(study) if row.get("model_key") in quiet and row["model_key"] not in ends)
    return [*ends.values(), *left]


def run_name(row: Mapping[str, Any]) -> str:
    """The nested run that a collected row belongs to."""
    return f"trial {row['trial']}" if row.get("trial") is not None else REFERENCE_RUNS[row["stage"]]


def curve_points(curves: Sequence[Curve], started_ms: int) -> Iterator[Point]:
    """Every figure of every epoch as `<stage>/<name>`, the epoch as step, times as if training began at the start."""
    for curve in curves:
        epochs = curve["epochs"]
        seconds = accumulate(entry.get("seconds", 0.0) for entry in epochs)
        for entry, passed in zip(epochs, seconds, strict=True):
            for name, value in entry.items():
                if name not in ("epoch", "fold") and _is_number(value):
                    yield Point(f"{curve['name']}/{name}", value, entry["epoch"], started_ms + round(1000 * passed))


def stage_points(row: Row, parent: Row | None, timestamp_ms: int, step: int = FIRST) -> list[Point]:
    """Every number of a measured model as `<stage>/<name>`, and the field's names for what its stage is about.

    Args:
        row: the model's.
        parent: that of the model it was made from, for the quantized size.
        timestamp_ms: of all points.
        step: of all points.
    """
    figures = {name: value for name, value in row.items() if not _is_setting(name) and name not in NO_FIGURES}
    size, before = row.get("model_size_mb"), (parent or {}).get("model_size_mb")
    figures |= {"student_params": row.get("num_parameters"), "compression_ratio": row.get("size_compression_ratio")}
    if _is_number(row.get("sparsity_percent")):
        figures["sparsity"] = row["sparsity_percent"] / 100.0
    if row["stage"] == "after_quantization" and size and before:
        figures |= {"original_size_mb": before, "quantized_size_mb": size}
        figures["size_reduction_pct"] = 100.0 * (1.0 - size / before)
    return [
        Point(f"{row['stage']}/{name}", float(value), step, timestamp_ms)
        for name, value in figures.items()
        if _is_number(value)
    ]


def study_points(study: optuna.Study, front: Sequence[Row]) -> Iterator[Point]:
    """Counts of a study so far, with the number of ended trials as step."""
    rows = collected_rows(study)
    models = [row for row in rows if row.get("model_key")]
    ended = study.get_trials(deepcopy=False, states=ENDED)
    times = [trial.datetime_complete for trial in ended if trial.datetime_complete]
    timestamp = milliseconds(max(times)) if times else 0
    counts = {
        "trials": len(ended),
        "failed_trials": sum(trial.state == TrialState.FAIL for trial in ended),
        "models": len(models),
        "safe_models": sum(row.get("safety_verdict") == "safe" for row in models),
        "front_models": sum(bool(row.get("on_front")) for row in front),
    }
    yield from (Point(name, float(count), len(ended), timestamp) for name, count in counts.items())


def _in_short(row: Row, timestamp_ms: int) -> list[Point]:
    return [Point(name, float(row[name]), FIRST, timestamp_ms) for name in IN_SHORT if _is_number(row.get(name))]


def _is_setting(name: str) -> bool:
    return name.partition(".")[0] in STAGES


def _is_number(value: object) -> bool:
    return isinstance(value, bool | int | float) and math.isfinite(value)


def milliseconds(moment: str | datetime) -> int:
    """Since 1970, UTC; a time without a zone is local."""
    return round((datetime.fromisoformat(moment) if isinstance(moment, str) else moment).timestamp() * 1000)


def _shown(value: object) -> object:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else value
