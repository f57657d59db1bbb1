"""What a front costs with each sampler, in virtual time: the stage tree against TPE, NSGA-II, GP and random search.

    python benchmarks/search_policies.py [--table recorded] --seeds 20 --workers 1 8 64 1000 --json FILE

With `--table FOLDER` the searches run on what `record_chains.py` recorded, with `--table STUDY.yaml` (or none:
`synthetic.yaml`) in synthetic worlds that have the study's space, another for each seed. Every policy but
`stage_tree` is run with reuse of models (the same store as ours) and without. What a search costs until it has 95 %
of the hypervolume of all chains of the space (as in `search/tally.py`: of models that are not unsafe) is told twice:
"computing" is what workers have computed, "held" their number by the clock, the GPU-hours that a cluster is paid for:
one that waits for another's model computes nothing, and is held all the same. A trial takes `--trial-seconds` beside
its new models, also one that has none, and a new model `--measure-seconds` beside its stage, and `--timing-seconds` to
measure its speed, with reuse the first of each shape alone: means of `recorded_mixed.yaml` (`simulation_costs.py`).
`--driver-seconds` is what each trial takes of the one driver, while other workers wait for it; with
`--suggestion-factor 1` they wait for the policy too, as long as its suggestions really take of a core. A search that
ends before has not reached its 95 %; "ended at" says after how many computing seconds, and `share_at` in the file of
`--json` what it had on the way; `--clock` and `--patience` end those of a policy that takes long itself. With
`--to-the-end` a search goes on until it has all its trials. "Clock" is when the 95 % were there. "Program" is what
simulator and policy themselves take of a core. Below each table stands what its workers would cost if they knew
everything before and none was idle.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import fields
from functools import partial
from multiprocessing import Pool
from pathlib import Path

import torch
from policies.figures import judged, show
from policies.kept import KeptRuns
from policies.runs import COSTS, Limits, bounds, one_run, table_digest
from rich.progress import track

POLICIES = [("stage_tree", True)] + [
    (name, reuse) for name in ("tpe", "nsgaii", "gp", "random") for reuse in (True, False)
]
LIMITS = [limit.name for limit in fields(Limits)]
SYNTHETIC = Path(__file__).with_name("synthetic.yaml")


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
        known = pool.map(partial(bounds, place, costs), worlds) * (len(seeds) // len(worlds))
        references, soonest = zip(*known, strict=True)
        limits = Limits(**{name: getattr(arguments, name) for name in LIMITS})
        search = partial(one_run, place, limits, costs, references)
        kept = KeptRuns(arguments.runs, {"table": table_digest(place), "to_the_end": arguments.to_the_end, **costs})
        left = [task for task in tasks if task not in kept.runs and not arguments.kept_only]
        for run in track(pool.imap_unordered(search, left), "searches", total=len(left)):
            kept.add(run)
    rows = judged([kept.runs[task] for task in tasks if task in kept.runs], soonest)
    show(rows)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")


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
    parser.add_argument("--clock", type=float, default=math.inf, help="most seconds of a search, by the virtual clock")
    parser.add_argument("--patience", type=float, default=math.inf, help="most seconds of a core for the policy itself")
    parser.add_argument("--to-the-end", action="store_true", help="go on when 95 % of the hypervolume is there")
    for name, seconds in COSTS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=float, default=seconds)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument(
        "--runs", type=Path, help="keep each run in this file, and take those that are there as they are"
    )
    parser.add_argument("--kept-only", action="store_true", help="run nothing: show what is kept in the file of --runs")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    return parser.parse_args()


if __name__ == "__main__":
    main()
