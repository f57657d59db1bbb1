"""The stages that measure a model: what it answers to a split, and how fast it is beside the teacher."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from evaluation.environment import machine
from evaluation.latency import (
    LONGEST_WAIT,
    clock,
    measure_latency,
    node_slot,
    panel,
    single_requests,
    throughput,
)
from evaluation.memory import peak_memory_mb
from evaluation.size import measure_size
from evaluation.speedup import paired_speedup, summarise
from evaluation.usual import name_of, remember, usual_times
from pipeline.artifact import Artifact, Notes, stage
from pipeline.config import Config
from pipeline.data import Split, load_data
from pipeline.runtime import Classifier, EagerClassifier, load_classifier, load_deployment

MEMORY_COMMENTS = 64
SEEDS = {"search": 0, "quiet": 1}
"""Of the comments drawn and the orders: the second session does not repeat the first."""
WAITS = {"search": 8.0, "quiet": LONGEST_WAIT}
"""Seconds that a measurement waits for a machine that is slower than usual: in a search a trial waits with it."""
SplitName = Literal["validation", "test"]


class PredictConfig(Config):
    """Which split is answered."""

    split: SplitName = "validation"


class LatencyConfig(Config):
    """The measuring protocol, and the machine that its figures hold for."""

    seconds: float = Field(1.0, gt=0.0, le=600.0)
    """Shortest time of the alternating rounds, in seconds."""
    requests: int = Field(100, ge=20, le=1_000_000)
    """Fewest timed requests to each model in the rounds that are kept."""
    threads: int = Field(1, ge=1, le=1024)
    """Threads of every model."""
    machine: str = ""
    """One line: processor, instruction set, threads and versions of the runtimes."""
    session: Literal["search", "quiet"] = "search"
    """`search` measures while other trials compute; `quiet` when nothing else of the study runs."""

    @property
    def longest_wait(self) -> float:
        """Seconds of `WAITS`; a measurement of less than a second, of which less is expected, waits as much less."""
        return WAITS[self.session] * min(self.seconds, 1.0)


@stage("predictions", version=2)
def predict_split(config: PredictConfig, folder: Path, data: Artifact, model: Artifact) -> Notes:
    """Logits of the deployed model on one split, and the size of its files.

    A model whose logits depend on the batch answers one comment at a time, as a single request would be answered.
    """
    split: Split = getattr(load_data(data.path), config.split)
    batch = 32 if load_deployment(model.path).batch_invariant else 1
    np.save(folder / "logits.npy", load_classifier(model.path).predict_logits(split.texts, batch))
    return {"size": measure_size(model.path)}


@stage("latency", version=7)
def measure_speed(config: LatencyConfig, folder: Path, data: Artifact, model: Artifact, teacher: Artifact) -> Notes:
    """Latency of the model beside the teacher's in the same runtime; of the teacher itself, beside eager PyTorch."""
    return latency_figures(config, model.path, teacher.path, load_data(data.path).validation.texts)


def latency_figures(config: LatencyConfig, model: Path, teacher: Path, texts: Sequence[str]) -> dict[str, Any]:
    """All latency, throughput and memory fields of `CompressionStageMetrics`, timed alone on the machine's slot.

    And what they are bound to: `machine`, `rounds_repeated`, and `waited_percent`, the share of the rounds' time in
    which the scheduler gave the core to others.
    """
    import torch

    seed, now, here = SEEDS[config.session], clock(config.threads), machine(config.threads)
    threads = torch.get_num_threads()
    memory = peak_memory_mb(model, texts[:MEMORY_COMMENTS], config.threads)  # by no clock: nobody needs to wait for it
    with node_slot():
        torch.set_num_threads(config.threads)
        try:
            candidate = load_classifier(model, config.threads)
            # Eager PyTorch would take most of the time of every measurement: it is asked beside the teacher alone.
            baseline, other = "candidate", "eager"
            models: dict[str, Classifier] = {"candidate": candidate}
            if model != teacher:
                baseline = other = "baseline"
            models[other] = EagerClassifier(teacher) if other == "eager" else load_classifier(teacher, config.threads)
            least: dict[str, Any] = {"requests": config.requests, "now": now, "seed": seed}
            asked = name_of(teacher, here, panel(texts))
            rounds = measure_latency(
                models,
                texts,
                baseline=baseline,
                seconds=config.seconds,
                usual_ms=usual_times(asked),
                longest_wait=config.longest_wait,
                **least,
            )
            remember(asked, rounds.usual_ms, changed=rounds.changed)
            requests = single_requests(candidate, texts, seconds=config.seconds / 4, **least)
            per_second = throughput(candidate, texts, seconds=config.seconds / 2, threads=config.threads, seed=seed)
        finally:
            torch.set_num_threads(threads)
    times = rounds.times_ms
    low = high = speedup = 1.0  # of the teacher over itself, by definition
    if "baseline" in times:
        speedup, low, high = paired_speedup(times["baseline"], times["candidate"])
    return {
        **summarise(requests),
        "throughput_samples_per_sec": per_second,
        "peak_memory_mb": memory,
        "speedup_factor": speedup,
        "speedup_low": low,
        "speedup_high": high,
        "speedup_vs_eager": paired_speedup(times["eager"], times["candidate"])[0] if "eager" in times else None,
        "machine": here,
        "rounds_repeated": rounds.repeated,
        "waited_percent": 100.0 * rounds.waited,
    }
