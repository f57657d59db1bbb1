"""One trial: the whole chain on one worker, every model of it measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from cluster.nodes import node_name
from evaluation.evaluator import CompressionEvaluator
from evaluation.safety import ROUNDING
from evaluation.stage_metrics import SCALAR_FIELDS
from pipeline.artifact import Artifact
from pipeline.cache import Store
from pipeline.stages import distil, prune, quantize
from pipeline.study_results import STORED_AS
from search.config import StudyConfig
from search.shared_models import fetching, with_digest
from search.space import Space, flat_settings
from search.workbench import Workbench

Row = dict[str, Any]
Curve = dict[str, Any]
"""`name`: stage, or fold of the teacher; `epochs`: one entry an epoch, as `pipeline.training.train` returns them."""
Report = Callable[[str, Row | None], None]
"""Told the stage that is at work, and then the row of the model that came out."""

ROW_STAGES = {stored: stage for stage, stored in STORED_AS.items()}
"""Stage names of the store, and of `trials.parquet`."""
PARAMS = "params"
"""What a row may be sent to a worker with, beside its columns: its trial's settings."""
DROPS = ("f1_drop", "critical_f1_drop", "critical_recall_drop")


def run_trial(bench: Workbench, params: Mapping[str, Any], report: Report) -> list[Row]:
    """Teacher, student, sparse and compact model, each measured; stops before pruning if the student is far from safe.

    Args:
        bench: config, store and data of the study.
        params: what the sampler suggested, `{"distil.method": …}`.
        report: told each stage as it begins, and each row as it is measured.

    Returns:
        One row for each model that this chain has beyond the teacher, in the chain's order; of a chain of `none`s, the
        teacher's.
    """
    config, store, data = bench.config, bench.store, bench.data
    distil_config, prune_config, quantize_config = Space(config).configs(params)
    settings: Row = {}
    rows: list[Row] = []

    report("teacher", None)
    teacher = bench.teacher()
    evaluator = bench.evaluator(teacher)

    def measured(stage: str, model: Artifact, parent: Artifact, applied: Row) -> bool:
        """Measure a new model; whether the chain should go on from it."""
        settings.update(applied)
        if model.key == parent.key:
            return True
        rows.append(measure(evaluator, stage, model, settings, bench.waits) | {"study": config.study})
        report(stage, rows[-1])
        return stage != "after_kd" or not far_from_safe(rows[-1], config)

    report("distil", None)
    student = store.run(fetching(store, distil), with_digest(config, distil_config), data, teacher)
    if not measured("after_kd", student, teacher, flat_settings("distil", distil_config)):
        rows[-1]["status"] = "stopped_unsafe"
        return rows

    report("prune", None)
    sparse = store.run(prune, prune_config, data, student, teacher)
    measured("after_pruning", sparse, student, flat_settings("prune", prune_config))

    report("quantize", None)
    compact = store.run(quantize, quantize_config, data, sparse, teacher)
    measured("after_quantization", compact, sparse, flat_settings("quantize", quantize_config))
    return rows or [measure(evaluator, "baseline", teacher, {}) | {"study": config.study}]


def reference_rows(bench: Workbench, report: Report) -> Iterator[Row]:
    """The rows that every study has before its first trial: the teacher and the classical floor."""
    report("teacher", None)
    teacher = bench.teacher()
    evaluator = bench.evaluator(teacher)
    yield measure(evaluator, "baseline", teacher, {}) | {"study": bench.config.study}
    report("classical", None)
    yield measure(evaluator, "classical", bench.classical(), {}) | {"study": bench.config.study}


def measure(
    evaluator: CompressionEvaluator, stage: str, model: Artifact, settings: Mapping[str, Any], wait: bool = True
) -> Row:
    """The row of `trials.parquet` for one model, but for study and trial.

    Without `wait` it also tells the `TIMING` of its speed, and lacks the speed while another process measures that.
    """
    speed = evaluator.speed(model, wait=wait)
    metrics = evaluator.evaluate_model(model, stage, speed)
    safety = evaluator.safety(model, "validation").to_flat_dict()
    del safety["safe_for_deployment"]
    return {
        "stage": stage,
        "model_key": model.key,
        "parent_key": None if stage == "baseline" else model.parent_key,  # a born-again one has earlier ones in no row
        "status": "ok",
        "error": None,
        "cache_hit": model.cache_hit,
        "stage_seconds": model.seconds,
        "node": node_name(),
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        **settings,
        **metrics.to_flat_dict(),
        **{name: value for name, value in speed.items() if name not in SCALAR_FIELDS},
        **evaluator.scores(
            metrics.f1_macro, metrics.critical_f1, metrics.size_compression_ratio, metrics.speedup_factor
        ),
        **safety,
    }


def objectives(row: Mapping[str, Any], names: tuple[str, ...]) -> list[float]:
    """The row's values of the study's objectives; NaN where it has none."""
    derived = {"latency_ratio": 1.0 / row["speedup_factor"] if row.get("speedup_factor") else None}
    values = [derived[name] if name in derived else row.get(name) for name in names]
    return [math.nan if value is None else float(value) for value in values]


def constraints(row: Mapping[str, Any], config: StudyConfig) -> dict[str, float]:
    """How far each drop is beyond its limit: feasible at 0 or below. A drop that is not known counts as the worst."""
    # With the verdict's own tolerance: what it does not call unsafe is feasible.
    limits = {name: float(getattr(config.safety, f"max_{name}")) + ROUNDING for name in DROPS}
    drops = {name: row.get(name) for name in DROPS}
    return {
        name: 1.0 if drop is None or math.isnan(drop) else float(drop) - limits[name] for name, drop in drops.items()
    }


def far_from_safe(row: Mapping[str, Any], config: StudyConfig) -> bool:
    """Whether a drop is beyond its limit by more than the study's margin: the later stages will not bring it back."""
    return max(constraints(row, config).values()) > config.search.stop_margin


def curves(store: Store, rows: Sequence[Mapping[str, Any]]) -> list[Curve]:
    """The training of each row's model, in the rows' order, from the artifact: a stage that was found has it too."""
    found: list[Curve] = []
    for row in rows:
        model = store.find(STORED_AS[row["stage"]], row["model_key"]) if row.get("model_key") else None
        if model is not None and model.notes.get("history"):
            found.append({"name": row["stage"], "epochs": model.notes["history"]})
    return found


def find_model(bench: Workbench, row: Mapping[str, Any]) -> Artifact:
    """The stored model of a row; built again if it was damaged or removed, and the row has its trial's `params`.

    Raises:
        FileNotFoundError: it is no longer in the store.
    """
    stored_as = STORED_AS[row["stage"]]
    found = bench.store.find(stored_as, row["model_key"])
    if found is None:
        match row["stage"]:
            case "baseline":
                bench.teacher()
            case "classical":
                bench.classical()
            case _ if row.get(PARAMS):
                run_trial(bench, row[PARAMS], lambda stage, _: None)  # all that is still there is found
        found = bench.store.find(stored_as, row["model_key"])
    if found is None:
        raise FileNotFoundError(
            f"{bench.store.root}: model {row['model_key'][:12]} is gone; run the study again to rebuild it"
        )
    return found
