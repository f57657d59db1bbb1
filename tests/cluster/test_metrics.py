"""The metrics as Prometheus gets them: from the metrics agent of a real Ray node."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cluster.metrics import BOUNDARIES, METRICS, PREFIX, STATES, StudyMetrics, exported_names
from cluster.session import session

REPORT_SECONDS = 1
"""How often Ray's processes report to the agent; 10 unless told."""
Scrape = Callable[[], dict[tuple[str, str, str], float]]


@pytest.fixture(scope="module")
def scrape() -> Iterator[Scrape]:
    """Samples of ours that the agent exports, by name, study, and the tag beside it (a state, a stage, a bucket)."""
    import ray
    from prometheus_client.parser import text_string_to_metric_families

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_metrics_report_interval_ms", str(1000 * REPORT_SECONDS))
        with session("local"):
            node = ray.nodes()[0]
            url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"

            def samples() -> dict[tuple[str, str, str], float]:
                with urllib.request.urlopen(url, timeout=10) as answer:
                    families = list(text_string_to_metric_families(answer.read().decode()))
                ours = [one for family in families for one in family.samples if one.name.startswith(f"{PREFIX}pareto_")]
                return {(one.name, one.labels["study"], _beside(one.labels)): one.value for one in ours}

            yield samples


def _beside(labels: dict[str, str]) -> str:
    return "/".join(labels[name] for name in ("state", "stage", "le") if name in labels)


def wait_for(scrape: Scrape, wanted: dict[tuple[str, str, str], float]) -> dict[tuple[str, str, str], float]:
    """All samples, once these are among them."""
    deadline = time.monotonic() + 30
    while not wanted.items() <= (samples := scrape()).items():
        assert time.monotonic() < deadline, {key: samples.get(key) for key in wanted}
        time.sleep(0.3)
    return samples


def test_what_is_set_is_exported_under_the_names_that_are_told(scrape: Scrape) -> None:
    ours, other = StudyMetrics("ours"), StudyMetrics("other-1")
    ours.trials({"waiting": 9, "running": 2, "complete": 5, "failed": 1})
    ours.found(hypervolume=0.125, models=8, safe=2)
    other.trials({"running": 1})
    other.found(hypervolume=0.0, models=0, safe=0)
    for seconds in (2.0, 2.5, 50.0):
        ours.stage("distil", seconds, cache_hit=False)
    for _ in range(4):
        ours.stage("teacher", 100.0, cache_hit=True)
    ours.stage("prune", 1e6, cache_hit=False)
    samples = wait_for(
        scrape,
        {
            ("ray_pareto_trials", "ours", "waiting"): 9,
            ("ray_pareto_trials", "ours", "running"): 2,
            ("ray_pareto_trials", "ours", "complete"): 5,
            ("ray_pareto_trials", "ours", "failed"): 1,
            ("ray_pareto_trials", "other-1", "running"): 1,
            ("ray_pareto_trials", "other-1", "failed"): 0,
            ("ray_pareto_hypervolume", "ours", ""): 0.125,
            ("ray_pareto_models", "ours", ""): 8,
            ("ray_pareto_safe_models_ratio", "ours", ""): 0.25,
            ("ray_pareto_stages_built_total", "ours", "distil"): 3,
            ("ray_pareto_stages_built_total", "ours", "prune"): 1,
            ("ray_pareto_cache_hits_total", "ours", "teacher"): 4,
            ("ray_pareto_stage_seconds_count", "ours", "distil"): 3,
            ("ray_pareto_stage_seconds_bucket", "ours", "distil/1.0"): 0,
            ("ray_pareto_stage_seconds_bucket", "ours", "distil/3.0"): 2,
            ("ray_pareto_stage_seconds_bucket", "ours", "distil/60.0"): 3,
            ("ray_pareto_stage_seconds_bucket", "ours", f"prune/{BOUNDARIES[-1]}"): 0,
            ("ray_pareto_stage_seconds_bucket", "ours", "prune/+Inf"): 1,
        },
    )
    assert {name for name, _, _ in samples} == exported_names()
    assert ("ray_pareto_safe_models_ratio", "other-1", "") not in samples, "of no models there is no share"
    assert ("ray_pareto_cache_hits_total", "ours", "distil") not in samples


def test_later_values_replace_and_counters_add_up(scrape: Scrape) -> None:
    metrics = StudyMetrics("later")
    for running in (1, 2, 0):
        metrics.trials({"running": running})
        metrics.stage("quantize", 1.0, cache_hit=True)
    again: Any = StudyMetrics("later")  # a second run of the study in the same process
    again.stage("quantize", 1.0, cache_hit=True)
    wait_for(
        scrape,
        {("ray_pareto_trials", "later", "running"): 0, ("ray_pareto_cache_hits_total", "later", "quantize"): 4},
    )


def test_names_are_as_prometheus_wants_them() -> None:
    """Lower case with a prefix, `_total` left to the exporter, base units, a share as a ratio; states are told."""
    for name, metric in METRICS.items():
        assert name.startswith("pareto_") and name == name.lower() and not name.endswith(("_total", "_count", "_sum"))
        assert metric.description.endswith(".") and (metric.kind == "histogram") == name.endswith("_seconds")
    description = METRICS["pareto_trials"].description
    assert all(state in description for state in STATES)
