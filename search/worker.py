"""What runs on the workers: functions that Ray calls, each with the study's config and the key of its data."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from ray import tune

from cluster.limits import CLOCK, GIGABYTE, memory_limit
from pipeline.artifact import Artifact, Notes
from pipeline.cache import Store
from pipeline.remote import RemoteError
from search.config import StudyConfig
from search.faults import error_text, is_refused, may_pass, pause_seconds
from search.sections import ResourcesConfig
from search.study_keys import CURVES, ERROR, MAY_PASS, ROWS, ROWS_SO_FAR, WAITS
from search.trial import Curve, Row, curves, objectives, reference_rows, run_trial
from search.workbench import Workbench

TrialFunction = Callable[[Workbench, Mapping[str, Any], Callable[[str, Row | None], None]], list[Row]]


def bench(
    config: StudyConfig, data_key: str, threads: int, teacher_threads: int | None = None, waits: bool = True
) -> Workbench:
    """The study's workbench on this worker, which from now on computes with `threads` threads."""
    import torch

    torch.set_num_threads(threads)
    return replace(_open(config.model_dump_json(), data_key), teacher_threads=teacher_threads, waits=waits)


@lru_cache(maxsize=1)
def _open(config_json: str, data_key: str) -> Workbench:
    return Workbench.open(StudyConfig.model_validate_json(config_json), data_key, ClockedStore)


class ClockedStore(Store):
    """A store under the stage clock: waiting for another worker's build does not count."""

    def __init__(self, root: Path, **others: Any) -> None:
        super().__init__(root, waiting=lambda stage: CLOCK.stop(), **others)

    def add(self, stage: str, key: str, build: Callable[[Path], Notes], *others: Any, **named: Any) -> Artifact:
        """See `Store`."""

        def timed(folder: Path) -> Notes:
            CLOCK.start()
            return build(folder)

        try:
            return super().add(stage, key, timed, *others, **named)
        finally:
            CLOCK.start()


def prepare(config: StudyConfig, data_key: str, threads: int) -> tuple[list[Row], dict[str, Any]]:
    """Train and measure teacher and classical floor; their rows, and what the teacher notes of its training."""
    here = bench(config, data_key, threads)
    with CLOCK.limited(config.resources.stage_minutes):
        rows = list(reference_rows(here, lambda stage, row: CLOCK.start()))
        return rows, here.teacher().notes


def with_bench(
    function: Callable[..., Any], config: StudyConfig, data_key: str, teacher_threads: int | None, rows: list[Row]
) -> tuple[Any, str]:
    """`function(workbench, rows)` on a worker, with the threads that a trial has; also the id of its node."""
    import ray

    found = function(bench(config, data_key, trial_threads(config), teacher_threads), rows)
    return found, ray.get_runtime_context().get_node_id()


def trial_threads(config: StudyConfig) -> int:
    """Threads of one trial: whole processors, at least one."""
    return max(1, int(config.resources.cpus_per_trial))


def trial_resources(resources: ResourcesConfig) -> dict[str, float]:
    """What Tune asks of Ray for one trial."""
    asked = {"cpu": resources.cpus_per_trial, "gpu": resources.gpus_per_trial}
    if resources.memory_gb_per_trial is not None:
        asked["memory"] = int(resources.memory_gb_per_trial * GIGABYTE)
    return asked


def run_in_tune(
    suggested: dict[str, Any],
    *,
    config: StudyConfig,
    data_key: str,
    teacher_threads: int | None = None,
    trial: TrialFunction = run_trial,
) -> None:
    """Tune's trainable: run one trial and report every stage as it begins and every model as it is measured.

    The last report has all rows, and the training curves of their models; a model lacks its speed while another of its
    shape is timed in another trial (`search/timings.py`). What the trial raises is reported with the rows so far, and
    raised again, after a pause, if another attempt may succeed: Tune runs a trial again that raises. Where the store
    refuses, only a later run of the study may succeed.
    """
    rows: list[Row] = []
    at_stage = "its start"
    limits = config.resources

    def report(stage: str, row: Row | None) -> None:
        nonlocal at_stage
        at_stage = stage
        if row is not None:
            rows.append(row)
        CLOCK.stop()  # the driver may have to be waited for
        tune.report({"at_stage": stage, ROWS_SO_FAR: list(rows), **summary(row or {}, config)})
        CLOCK.start()

    try:
        here = bench(config, data_key, trial_threads(config), teacher_threads, suggested.get(WAITS, True))
        with CLOCK.limited(limits.stage_minutes), memory_limit(limits.memory_gb_per_trial):
            finished = trial(here, suggested["params"], report)
        trained = curves(here.store, finished)
    except Exception as error:
        again = may_pass(error)
        _open.cache_clear()  # an artifact that it holds may be what is damaged
        later = again or is_refused(error)
        told = {ERROR: error_text(error, limits), MAY_PASS: later, "traceback": traceback.format_exc()}
        tune.report({"at_stage": at_stage, ROWS: rows, CURVES: _curves_of(rows, config, data_key), **told})
        if again:
            time.sleep(pause_seconds(suggested.get("attempt", 1), limits.retries))
            raise
        return
    last = finished[-1] if finished else {}
    tune.report({"at_stage": "done", **summary(last, config), ROWS: finished, CURVES: trained})


def _curves_of(rows: list[Row], config: StudyConfig, data_key: str) -> list[Curve]:
    """Of a trial that has failed: none, if what it failed of is still there."""
    with suppress(OSError, MemoryError, RemoteError):
        return curves(bench(config, data_key, trial_threads(config)).store, rows) if rows else []
    return []


def summary(row: Mapping[str, Any], config: StudyConfig) -> Row:
    """Of a row: objectives, trade-off score and safety values, under the names that Tune's table shows."""
    if not row:
        return {}
    names = ("f1_macro", "model_size_mb", "latency_ratio")
    shown = {name: row.get(name) for name in ("tradeoff_score", "safety_verdict", "status")}
    drops = {name: row.get(name) for name in row if name.endswith(("_drop", "_drop_upper"))}
    return {**dict(zip(names, objectives(row, names), strict=True)), **shown, **drops}
