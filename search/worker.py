"""What runs on the workers: functions that Ray calls, each with the study's config and the key of its data."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from ray import tune

from search.config import StudyConfig
from search.searcher import CURVES, ERROR, ROWS
from search.trial import Row, Workbench, curves, objectives, reference_rows, run_trial

TrialFunction = Callable[[Workbench, Mapping[str, Any], Callable[[str, Row | None], None]], list[Row]]


def bench(config: StudyConfig, data_key: str, threads: int) -> Workbench:
    """The study's workbench on this worker, which from now on computes with `threads` threads."""
    import torch

    torch.set_num_threads(threads)
    return _open(config.model_dump_json(), data_key)


@lru_cache(maxsize=1)
def _open(config_json: str, data_key: str) -> Workbench:
    return Workbench.open(StudyConfig.model_validate_json(config_json), data_key)


def prepare(config: StudyConfig, data_key: str, threads: int) -> tuple[list[Row], dict[str, Any]]:
    """Train and measure teacher and classical floor; their rows, and what the teacher notes of its training."""
    here = bench(config, data_key, threads)
    rows = list(reference_rows(here, lambda stage, row: None))
    return rows, here.teacher().notes


def with_bench(function: Callable[..., Any], config: StudyConfig, data_key: str, rows: list[Row]) -> Any:
    """`function(workbench, rows)` on a worker, with the threads that a trial has."""
    return function(bench(config, data_key, trial_threads(config)), rows)


def trial_threads(config: StudyConfig) -> int:
    """Threads of one trial: whole processors, at least one."""
    return max(1, int(config.resources.cpus_per_trial))


def run_in_tune(
    suggested: dict[str, Any], *, config: StudyConfig, data_key: str, trial: TrialFunction = run_trial
) -> None:
    """Tune's trainable: run one trial and report every stage as it begins and every model as it is measured.

    The last report has all rows, and the training curves of their models. What the trial raises is reported with the
    rows so far, and raised again, so that Tune sees the failure too.
    """
    rows: list[Row] = []
    at_stage = "starting"

    def report(stage: str, row: Row | None) -> None:
        nonlocal at_stage
        at_stage = stage
        if row is not None:
            rows.append(row)
        tune.report({"at_stage": stage, **summary(row or {}, config)})

    try:
        here = bench(config, data_key, trial_threads(config))
        finished = trial(here, suggested["params"], report)
    except Exception as error:
        told = {ERROR: f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
        trained = curves(here.store, rows) if rows else []
        tune.report({"at_stage": at_stage, ROWS: rows, CURVES: trained, **told})
        raise
    last = finished[-1] if finished else {}
    tune.report({"at_stage": "done", **summary(last, config), ROWS: finished, CURVES: curves(here.store, finished)})


def summary(row: Mapping[str, Any], config: StudyConfig) -> Row:
    """Of a row: objectives, trade-off score and safety values, under the names that Tune's table shows."""
    if not row:
        return {}
    names = ("f1_macro", "model_size_mb", "latency_ratio")
    shown = {name: row.get(name) for name in ("tradeoff_score", "safety_verdict", "status")}
    drops = {name: row.get(name) for name in row if name.endswith(("_drop", "_drop_upper"))}
    return {**dict(zip(names, objectives(row, names), strict=True)), **shown, **drops}
