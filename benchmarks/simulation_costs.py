"""What a trial of a study costs beside its training: the costs that `search_policies.py` simulates with.

    python benchmarks/simulation_costs.py STUDY.yaml --set data.path=FILE.csv [--chains 24] [--json FILE]

Chains are drawn at random from the study's space and run in this process, one after another, as in a worker that has
run trials before; the store is a new one, in which teacher and a first chain are built untimed. "Timing" is the stage
that measures latency, throughput and memory of a model that is the first of its shape; "measuring" what a new model
takes besides (answers, size, safety); "trial" what the same trial takes once more, when all its models are there: to
find and to judge them. The driver's part of a trial comes on top (`driver_cost.py`). Nothing else may compute
meanwhile.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from pipeline.artifact import Artifact
from pipeline.cache import MANIFEST
from pipeline.storage import open_store
from search.config import StudyConfig
from search.space import Space
from search.start import checked, with_absolute_paths
from search.trial import Row, run_trial
from search.workbench import Workbench

COSTS = ("timing", "measuring", "trial")
QUARTILES = (25, 50, 75)


def main() -> None:
    """Print means and quartiles, and write what was measured."""
    arguments = parsed()
    torch.set_num_threads(arguments.threads)
    loaded, data = checked(arguments.study, arguments.set, resume=False)
    with tempfile.TemporaryDirectory() as folder:
        config = with_absolute_paths(loaded).model_copy(update={"storage": folder})
        count, stored = arguments.chains, data.add_to(open_store(folder))
        chains = list(track(measured(config, stored, count), "chains", total=count))
    show(chains)
    if arguments.json:
        arguments.json.write_text(json.dumps(chains, indent=1), encoding="utf-8")


def measured(config: StudyConfig, data: Artifact, count: int) -> Iterator[dict[str, Any]]:
    """What each of so many chains costs; the first is left out: the teacher is built with it."""
    bench = Workbench.open(config, data.key)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study, space = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=config.seed)), Space(config)
    run_trial(bench, space.suggest(study.ask()), unheard)
    for _ in range(count):
        yield costs(bench, space.suggest(study.ask()))


def costs(bench: Workbench, params: dict[str, Any]) -> dict[str, Any]:
    """Seconds of one chain's trial: `timing` of each model that was timed, `measuring` of a new model, `trial`."""
    known = set(timings(bench))
    first, rows = clocked(bench, params)
    again, _ = clocked(bench, params)
    manifests = [(path / MANIFEST).read_text(encoding="utf-8") for path in timings(bench) if path not in known]
    timed = [float(json.loads(manifest)["seconds"]) for manifest in manifests]
    new = [row for row in rows if not row["cache_hit"]]
    rest = first - again - sum(timed) - sum(float(row["stage_seconds"]) for row in new)
    measuring = max(rest, 0.0) / len(new) if new else None
    return {"params": params, "timing": timed, "measuring": measuring, "trial": again, "models": len(rows)}


def clocked(bench: Workbench, params: dict[str, Any]) -> tuple[float, list[Row]]:
    """Seconds and rows of a trial."""
    began = time.perf_counter()
    rows = run_trial(bench, params, unheard)
    return time.perf_counter() - began, rows


def timings(bench: Workbench) -> list[Path]:
    """Folders of all that was timed."""
    return sorted(bench.store.root.glob("latency/*"))


def unheard(stage: str, row: Row | None) -> None:
    """Progress that nobody reads."""


def show(chains: list[dict[str, Any]]) -> None:
    """Mean and quartiles of each cost over all chains."""
    table = Table("cost", "measured", "mean", *(f"{one} %" for one in QUARTILES), title="seconds")
    for name in COSTS:
        values = np.hstack([chain[name] for chain in chains if chain[name] is not None])
        figures = (values.mean(), *np.percentile(values, QUARTILES))
        table.add_row(name, str(len(values)), *(f"{figure:.2f}" for figure in figures))
    Console().print(table)


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="study file with data, teacher and space")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--chains", type=int, default=24)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    return parser.parse_args()


if __name__ == "__main__":
    main()
