"""What a front costs with each sampler, in virtual time: the stage tree against TPE, NSGA-II, GP and random search.

    python benchmarks/search_policies.py [--table recorded] --seeds 20 --workers 1 8 64 1000 --json FILE

With `--table FOLDER` the searches run on what `record_chains.py` recorded, with `--table STUDY.yaml` (or none:
`synthetic.yaml`) in synthetic worlds that have the study's space, another for each seed. Every policy but `stage_tree`
is run with reuse of models (the same store as ours) and without. The cost is computing seconds of all workers until
95 % of the hypervolume of all chains of the space, as in `search/tally.py`: models that are not unsafe. A trial takes
`--trial-seconds` beside its new models, also one that has none, and a new model `--measure-seconds` beside its stage,
and `--timing-seconds` to measure its speed, with reuse the first of each shape alone (`quantize_trial.py` measures
these). A search that ends before has not reached its 95 %; "ended at" says after how many seconds. With `--to-the-end`
a search goes on until it has all its trials. "Program" is what simulator and policy themselves take of a core. Below
each table stands what its workers would cost if they knew everything before and none was idle.
"""

from __future__ import annotations

import argparse
import json
import math
import time
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cache, partial
from multiprocessing import Pool
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch  # before Optuna's samplers load it
from rich.console import Console
from rich.progress import track
from rich.table import Table as PrintedTable

from evaluation.front import hypervolume
from evaluation.gained import reference_point
from evaluation.records import read_records
from search.config import STAGES, StudyConfig
from search.every_chain import every_chain
from search.outcome_tables import RecordedTable, SyntheticTable
from search.sampler import study_sampler
from search.searcher import ParetoSearcher
from search.simulate import Cluster, History, Simulation, Table
from search.study_file import load_study
from search.study_keys import REFERENCES
from search.tally import losses_of

SHARE = 0.95
COSTS = {"trial_seconds": 0.5, "measure_seconds": 0.3, "timing_seconds": 5.0}
"""Of n-gram models (`quantize_trial.py`): a trial finds and judges two models that are there in 0.4 s, the rest is the
driver's (`driver_cost.py`); a new model's answers and safety; its latency and memory."""
POLICIES = [("stage_tree", True)] + [
    (name, reuse) for name in ("tpe", "nsgaii", "gp", "random") for reuse in (True, False)
]
SYNTHETIC = Path(__file__).with_name("synthetic.yaml")


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


def limits(place: Path, costs: Mapping[str, float], seed: int) -> tuple[float, float]:
    """Of the world that a seed is searched in: hypervolume of all its chains, and the seconds to 95 % of it at best.

    A search that knew everything before would have it then, with a worker for each chain; N workers of which none is
    idle so cost N times as much or more, whatever the policy. A policy that leaves workers idle can cost less.
    """
    config, table = world(place, seed, "random", 1)
    soonest: dict[str, tuple[float, Any]] = {}
    for params in every_chain(config):
        seconds = costs["trial_seconds"]
        for row in filter(None, (table.row(stage, params) for stage in STAGES)):
            seconds += row["stage_seconds"] + costs["measure_seconds"]
            soonest[row["model_key"]] = seconds, row
    curve = Curve(table.teacher())
    curve.follow(sorted(soonest.values(), key=itemgetter(0)))
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


def one_run(
    place: Path,
    trials: int,
    budget: float,
    to_the_end: bool,
    costs: Mapping[str, float],
    references: Sequence[float],
    task: tuple[str, bool, int, int],
) -> dict[str, Any]:
    """One search, until it has the share of its world's hypervolume that is asked for, unless it ends before."""
    sampler, reuse, workers, seed = task
    warnings.filterwarnings("ignore")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    config, table = world(place, seed, sampler, trials)
    names = config.search.objectives
    directions = ["maximize" if name == "f1_macro" else "minimize" for name in names]
    study = optuna.create_study(directions=directions, sampler=study_sampler(config))
    study.set_user_attr(REFERENCES, [table.teacher()])
    curve, asked = Curve(table.teacher()), SHARE * references[seed]

    def enough(history: History) -> bool:
        curve.follow(history.models)
        return curve.volumes[-1] >= asked and not to_the_end

    began = time.process_time()
    cluster = Cluster(workers=workers, reuse=reuse, seed=seed, **costs)
    history = Simulation(ParetoSearcher(study, config), config, table, cluster).run(busy_seconds=budget, enough=enough)
    program = time.process_time() - began
    starts, lengths = np.array(history.work).T
    end = curve.reached(asked)
    cost = float(np.clip(end - starts, 0.0, lengths).sum())
    return {
        "sampler": sampler,
        "reuse": reuse,
        "workers": workers,
        "seed": seed,
        "cost": cost if math.isfinite(end) else math.inf,
        "cost_end": cost,
        "share_end": curve.volumes[-1] / references[seed],
        "utilisation": history.utilisation(workers),
        "trials": history.trials,
        "program_seconds": program,
    }


def judged(runs: list[dict[str, Any]], soonest: Sequence[float]) -> list[dict[str, Any]]:
    """For each policy and number of workers: median and quartiles over seeds.

    Args:
        runs: as `one_run` returns them.
        soonest: seconds to the share at best, by seed.
    """
    groups: dict[tuple[int, str, bool], list[dict[str, Any]]] = defaultdict(list)
    for run in runs:
        groups[run["workers"], run["sampler"], run["reuse"]].append(run)
    rows = []
    for (workers, sampler, reuse), members in sorted(groups.items()):
        costs = [run["cost"] for run in members]
        low, middle, high = np.quantile(costs, [0.25, 0.5, 0.75], method="nearest")
        rows.append(
            {
                "workers": workers,
                "sampler": sampler,
                "reuse": reuse,
                "cost_median": float(middle),
                "cost_low": float(low),
                "cost_high": float(high),
                "reached": float(np.mean(np.isfinite(costs))),
                "cost_end": float(np.median([run["cost_end"] for run in members])),
                "share_end": float(np.median([run["share_end"] for run in members])),
                "cost_bound": workers * float(np.median([soonest[run["seed"]] for run in members])),
                "utilisation": float(np.median([run["utilisation"] for run in members])),
                "trials": float(np.median([run["trials"] for run in members])),
                "program_seconds": float(np.median([run["program_seconds"] for run in members])),
            }
        )
    return rows


def main() -> None:
    """Run all searches and print a table for each number of workers."""
    arguments = parsed()
    tasks = [
        (sampler, reuse, workers, seed)
        for workers in arguments.workers
        for sampler, reuse in POLICIES
        if sampler in arguments.samplers and (reuse or not arguments.reuse_only)
        for seed in range(arguments.seeds)
    ]
    with Pool(arguments.processes, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        place, seeds = arguments.table, range(arguments.seeds)
        costs = {name: getattr(arguments, name) for name in COSTS}
        worlds = seeds[:1] if place.is_dir() else seeds  # a recorded table is the same for each seed
        bounds = pool.map(partial(limits, place, costs), worlds) * (len(seeds) // len(worlds))
        references, soonest = zip(*bounds, strict=True)
        search = partial(one_run, place, arguments.trials, arguments.budget, arguments.to_the_end, costs, references)
        runs = list(track(pool.imap_unordered(search, tasks), "searches", total=len(tasks)))
    rows = judged(runs, soonest)
    show(rows)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")


def show(rows: list[dict[str, Any]]) -> None:
    """One table for each number of workers."""
    for workers in sorted({row["workers"] for row in rows}):
        table = PrintedTable("sampler", "reuse", "cost to 95 %, s [quartiles]", "times ours", "reached")
        for name in ("ended at, s", "hypervolume", "utilisation", "trials", "program, s"):
            table.add_column(name)
        members = [row for row in rows if row["workers"] == workers]
        table.title = f"{workers} worker{'s' if workers > 1 else ''}"
        table.caption = (
            f"With everything known before and no worker idle: {spelled(members[0]['cost_bound'])} s or more."
        )
        ours = next((row["cost_median"] for row in members if row["sampler"] == "stage_tree"), None)
        for row in sorted(members, key=lambda row: row["cost_median"]):
            table.add_row(
                row["sampler"],
                "yes" if row["reuse"] else "no",
                f"{spelled(row['cost_median'])} [{spelled(row['cost_low'])}, {spelled(row['cost_high'])}]",
                spelled(row["cost_median"] / ours, ".2f") if ours else "",
                f"{row['reached']:.0%}",
                spelled(row["cost_end"]),
                f"{row['share_end']:.0%}",
                f"{row['utilisation']:.1%}",
                f"{row['trials']:,.0f}",
                f"{row['program_seconds']:,.0f}",
            )
        Console(width=130).print(table)


def spelled(number: float, form: str = ",.0f") -> str:
    """A number as it is printed; a cost is infinite where the search ended before."""
    return format(number, form) if math.isfinite(number) else "not reached"


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, default=SYNTHETIC, help="folder of record_chains.py, or a study file")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 8, 64, 1000])
    parser.add_argument("--samplers", nargs="+", default=["stage_tree", "tpe", "nsgaii", "gp", "random"])
    parser.add_argument("--reuse-only", action="store_true", help="leave out the policies without reuse of models")
    parser.add_argument("--trials", type=int, default=400, help="most trials of a search")
    parser.add_argument("--budget", type=float, default=60_000.0, help="most computing seconds of a search")
    parser.add_argument("--to-the-end", action="store_true", help="go on when 95 % of the hypervolume is there")
    for name, seconds in COSTS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=float, default=seconds)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    return parser.parse_args()


if __name__ == "__main__":
    main()
