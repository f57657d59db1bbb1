"""What a search tells Prometheus: metrics that the driver sets and the metrics agent of its node exports.

Every Ray node serves its agent's metrics under `http://NODE:MetricsExportPort/metrics` (see `ray.nodes()`); Prometheus
finds them with `/tmp/ray/prom_metrics_service_discovery.json` of the head node. `grafana.json` beside this file shows
them. A gauge vanishes from there some 20 s after it was last set, so that one has to be set again and again; counters
stay as long as the node. A driver outside of the cluster (`ray://…`) exports nothing: submit it as a job.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

PREFIX = "ray_"
"""Before every name that Ray exports."""
SUFFIXES = {"gauge": ("",), "counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}
"""After a name, by the kind of metric."""
BOUNDARIES = (
    0.1,
    0.3,
    1.0,
    3.0,
    10.0,
    30.0,
    60.0,
    120.0,
    300.0,
    600.0,
    1200.0,
    1800.0,
    3600.0,
    7200.0,
    14400.0,
    43200.0,
)
"""Upper bounds of the histogram's buckets, in seconds: a stage takes from parts of a second to hours."""
STATES = ("waiting", "running", "complete", "failed")


@dataclass(frozen=True)
class Metric:
    """A metric as it is declared."""

    kind: Literal["gauge", "counter", "histogram"]
    description: str
    tags: tuple[str, ...] = ()
    """Names of its tags, `study` apart, which all have."""


METRICS: Mapping[str, Metric] = {
    "pareto_trials": Metric("gauge", "Trials of the study: waiting, running, complete or failed.", ("state",)),
    "pareto_hypervolume": Metric(
        "gauge", "Volume that the front dominates: macro F1 x decades of size x decades of latency."
    ),
    "pareto_models": Metric("gauge", "Different models measured, teacher and classical floor included."),
    "pareto_safe_models_ratio": Metric("gauge", "Share of the measured models whose verdict is safe, from 0 to 1."),
    "pareto_cache_hits": Metric("counter", "Stages whose model was found in the store.", ("stage",)),
    "pareto_stages_built": Metric("counter", "Stages whose model had to be built.", ("stage",)),
    "pareto_stage_seconds": Metric("histogram", "Seconds that building a stage's model took.", ("stage",)),
}


def exported_names() -> set[str]:
    """The names under which Prometheus finds the metrics."""
    return {f"{PREFIX}{name}{suffix}" for name, metric in METRICS.items() for suffix in SUFFIXES[metric.kind]}


class StudyMetrics:
    """The metrics of one study, in a Ray session; to set one takes some microseconds."""

    def __init__(self, study: str) -> None:
        """Declare them; `study` is their tag of that name."""
        self._metrics = {name: _declared(name, metric, study) for name, metric in METRICS.items()}

    def trials(self, counts: Mapping[str, int]) -> None:
        """Set how many trials there are in each of `STATES`."""
        for state in STATES:
            self._metrics["pareto_trials"].set(counts.get(state, 0), {"state": state})

    def found(self, hypervolume: float, models: int, safe: int) -> None:
        """Set what the search has found so far: the front's hypervolume, different models and how many are safe."""
        self._metrics["pareto_hypervolume"].set(hypervolume)
        self._metrics["pareto_models"].set(models)
        if models:
            self._metrics["pareto_safe_models_ratio"].set(safe / models)

    def stage(self, stage: str, seconds: float, cache_hit: bool) -> None:
        """Count a stage that has ended.

        Args:
            stage: `teacher`, `distil`, `prune` or `quantize`.
            seconds: that building its model took; of one that was found in the store, once upon a time.
            cache_hit: whether it was found in the store.
        """
        tag = {"stage": stage}
        if cache_hit:
            self._metrics["pareto_cache_hits"].inc(tags=tag)
        else:
            self._metrics["pareto_stages_built"].inc(tags=tag)
            self._metrics["pareto_stage_seconds"].observe(seconds, tag)


def _declared(name: str, metric: Metric, study: str) -> Any:
    from ray.util import metrics

    keys = ("study", *metric.tags)
    made: Any
    if metric.kind == "histogram":
        made = metrics.Histogram(name, metric.description, list(BOUNDARIES), keys)
    else:
        made = (metrics.Gauge if metric.kind == "gauge" else metrics.Counter)(name, metric.description, keys)
    return made.set_default_tags({"study": study})
