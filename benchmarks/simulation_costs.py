"""What a trial of a study costs beside its training: the costs that `search_policies.py` simulates with.

    python benchmarks/simulation_costs.py STUDY.yaml --set data.path=FILE.csv [--chains 24] [--json FILE]

Chains are drawn at random from the study's space and run in this process, one after another, as in a worker that has
run trials before; the store is a new one, in which the teacher is trained first, untimed. "Timing" is the stage that
measures latency, throughput and memory of a model that is the first of its shape; "measuring" what a new model takes
besides (answers, size, safety); "trial" what the same trial takes once more, when all its models are there: to find and
to judge them. The driver's part of a trial comes on top (`driver_cost.py`). Nothing else may compute meanwhile.
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
from search.trial import Row, reference_rows, run_trial
from search.workbench import Workbench

COSTS = ("timing", "measuring", "trial")
QUARTILES = (25, 50, 75)


def main() -> None:
    """Print quartiles of each cost, and write what was measured."""
    arguments = parsed()
    torch.set_num_threads(arguments.threads)
    loaded, data = checked(arguments.study, arguments.set, resume=False)
    with tempfile.TemporaryDirectory() as folder:
        config = with_absolute_paths(loaded).model_copy(update={"storage": folder})
        chains = list(track(measured(config, data.add_to(open_store(folder)), arguments.chains), total=arguments.chains))
    show(chains)
    if arguments.json:
        arguments.json.write_text(json.dumps(chains, indent=1), encoding="utf-8")


def measured(config: StudyConfig, data: Artifact, count: int) -> Iterator[dict[str, Any]]:
    """What each of so many chains costs; the first that is run is not told of: it also imports what all need."""
    bench = Workbench.open(config, data.key)
    list(reference_rows(bench, unheard))
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
    timed = [float(json.loads((path / MANIFEST).read_text())["seconds"]) for path in timings(bench) if path not in known]
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
    """Quartiles of each cost over all chains."""
    table = Table("cost", "measured", *(f"{one} %" for one in QUARTILES), title="seconds")
    for name in COSTS:
        values = np.hstack([chain[name] for chain in chains if chain[name] is not None])
        table.add_row(name, str(len(values)), *(f"{value:.2f}" for value in np.percentile(values, QUARTILES)))
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
