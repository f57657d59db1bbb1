"""One search in virtual time, and what a search of its world can have at best."""

from __future__ import annotations

import hashlib
import math
import time
import warnings
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch  # noqa: F401  (before Optuna's samplers load it)

from evaluation.front import hypervolume
from evaluation.gained import reference_point
from evaluation.records import read_records
from search.config import STAGES, StudyConfig
from search.every_chain import every_chain
from search.goals import losses_of
from search.outcome_tables import RecordedTable, SyntheticTable
from search.sampler import study_sampler
from search.searcher import ParetoSearcher
from search.simulate import Cluster, History, Simulation, Table, shape_in
from search.study_file import load_study
from search.study_keys import REFERENCES

SHARE = 0.95
CHECKED = [25 * 2**power for power in range(11)]
"""Computing seconds at which a search's share of the hypervolume is noted."""
COSTS = {
    "trial_seconds": 0.2,
    "measure_seconds": 0.1,
    "timing_seconds": 1.8,
    "driver_seconds": 0.0,
    "suggestion_factor": 0.0,
}
"""Means of `recorded_mixed.yaml` as it measures (`simulation_costs.py`), the driver's part of a trial with them: no
worker waits for another's, or for a sampler, unless one of the last two says so."""


def world(place: Path, seed: int, sampler: str, trials: int) -> tuple[StudyConfig, Table]:
    """The study and the table of one run: of a folder with a recorded table, or of a study file for a synthetic one."""
    settings = [f"seed={seed}", f"search.trials={trials}", f"search.sampler={sampler}"]
    if place.is_dir():
        return load_study(place / "study.yaml", [*settings, "search.stop_margin=0.05"]), recorded(place)
    config = load_study(place, settings)
    return config, SyntheticTable(config, seed)


@cache
def recorded(folder: Path) -> RecordedTable:
    """The table of a folder, read once."""
    return RecordedTable(read_records(folder / "trials.parquet"))


def table_digest(place: Path) -> str:
    """Of what a folder recorded, or of a study file: runs on the same can be compared, wherever it is."""
    return hashlib.sha256((place / "trials.parquet" if place.is_dir() else place).read_bytes()).hexdigest()


def bounds(place: Path, costs: Mapping[str, float], seed: int) -> tuple[float, float]:
    """Of the world that a seed is searched in: hypervolume of all its chains, and the seconds to 95 % of it at best.

    A search that knew everything before would have it then, with a worker for each chain; N workers of which none is
    idle so cost N times as much or more, whatever the policy. A policy that leaves workers idle can cost less. A model
    is there when its shape is timed, which the first one of a shape is for all.
    """
    config, table = world(place, seed, "random", 1)
    built: dict[str, tuple[float, Any]] = {}
    timed: dict[str, float] = {}
    for params in every_chain(config):
        seconds = costs["trial_seconds"]
        for row in filter(None, (table.row(stage, params) for stage in STAGES)):
            seconds += row["stage_seconds"] + costs["measure_seconds"]
            built[row["model_key"]] = seconds, row
            timed[shape_in(row)] = min(timed.get(shape_in(row), math.inf), seconds + costs["timing_seconds"])
    curve = Curve(table.teacher())
    soonest = ((max(seconds, timed[shape_in(row)]), row) for seconds, row in built.values())
    curve.follow(sorted(soonest, key=itemgetter(0)))
    return curve.volumes[-1], curve.reached(SHARE * curve.volumes[-1])


class Curve:
    """Hypervolume of the models that are not unsafe, over virtual seconds."""

    def __init__(self, teacher: Any) -> None:
        self.times, self.volumes = [0.0], [0.0]
        self._reference = reference_point(losses_of(teacher))
        self._front = np.empty((0, 3))
        self._seen = 0

    def follow(self, models: Sequence[tuple[float, Any]]) -> None:
        """Take note of what has come since, each with its second, in their order."""
        for second, row in models[self._seen :]:
            point = losses_of(row)
            if row["safety_verdict"] == "unsafe" or not (point < self._reference).all():
                continue
            if not (self._front <= point).all(axis=1).any():
                self._front = np.vstack([self._front[~(point <= self._front).all(axis=1)], point])
                self.times.append(second)
                self.volumes.append(hypervolume(self._front, self._reference))
        self._seen = len(models)

    def reached(self, volume: float) -> float:
        """The second at which the front had so much; infinite if it never had."""
        return next((time for time, found in zip(self.times, self.volumes, strict=True) if found >= volume), math.inf)


@dataclass(frozen=True)
class Limits:
    """When a search ends, though it has not the share that is asked for."""

    trials: int
    budget: float = math.inf
    """Computing seconds of all workers."""
    clock: float = math.inf
    """Virtual seconds."""
    patience: float = math.inf
    """Seconds that simulator and policy may take of a core themselves."""
    to_the_end: bool = False
    """Whether a search goes on when it has the share."""


def one_run(
    place: Path,
    limit: Limits,
    costs: Mapping[str, float],
    references: Sequence[float],
    task: tuple[str, bool, int, int],
) -> dict[str, Any]:
    """One search, until it has the share of its world's hypervolume that is asked for, unless it ends before."""
    sampler, reuse, workers, seed = task
    warnings.filterwarnings("ignore")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    config, table = world(place, seed, sampler, limit.trials)
    names = config.search.objectives
    directions = ["maximize" if name == "f1_macro" else "minimize" for name in names]
    study = optuna.create_study(directions=directions, sampler=study_sampler(config))
    study.set_user_attr(REFERENCES, [table.teacher()])
    curve, asked = Curve(table.teacher()), SHARE * references[seed]

    def enough(history: History) -> bool:
        curve.follow(history.models)
        found = curve.volumes[-1] >= asked and not limit.to_the_end
        return found or time.process_time() - began > limit.patience

    began = time.process_time()
    cluster = Cluster(workers=workers, reuse=reuse, seed=seed, **costs)
    simulation = Simulation(ParetoSearcher(study, config), config, table, cluster)
    history = simulation.run(limit.clock, limit.budget, enough)
    curve.follow(history.models)  # what was at work when the last trial had begun
    program = time.process_time() - began
    figures = figures_of(history, curve, references[seed], workers)
    return {"sampler": sampler, "reuse": reuse, "workers": workers, "seed": seed, **figures, "program_seconds": program}


def figures_of(history: History, curve: Curve, reference: float, workers: int) -> dict[str, Any]:
    """What a search cost and had; `reference` is the hypervolume of all chains."""
    starts, lengths = np.reshape(history.work, (-1, 2)).T
    end = curve.reached(SHARE * reference)
    *spent, cost = (float(np.clip(second - starts, 0.0, lengths).sum()) for second in (*curve.times, end))
    shares = [volume / reference for volume in curve.volumes]
    return {
        "cost": cost if math.isfinite(end) else math.inf,
        "cost_end": cost,
        "clock": end,
        "share_end": shares[-1],
        "share_at": {str(check): shares[bisect_right(spent, check) - 1] for check in CHECKED if check <= cost},
        "utilisation": history.utilisation(workers),
        "trials": history.trials,
    }
