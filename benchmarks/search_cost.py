"""What a front costs: a competent loop without reuse against this project's search, in the same run on this machine.

    python benchmarks/search_cost.py STUDY.yaml --set data.path=FILE.csv --set teacher.model=FOLDER \\
        [--rows 3000] --minutes 10

The loop is Ray Tune with its own `OptunaSearch` (TPE) over the same typed space; each trial runs its whole chain with
the same stages, padding and measuring, and finds nothing that another trial has built. Ours is `search.sampler:
stage_tree` with a store that holds nothing but the teacher. Data and teacher are made before, and cost neither of them
anything. Both get the same trials at a time and the same minutes, one after the other, for each seed in turn. Cost is
computing seconds (of all workers) from the start of a trial until its model is measured; hypervolume as in
`search/tally.py`.
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

Curve = list[tuple[float, float]]
"""(computing seconds, hypervolume from then on), ascending."""


def main() -> None:
    """Search with both, seed after seed, and print what each paid."""
    arguments = parsed()
    import ray

    from search.config import StudyConfig
    from search.start import checked, with_absolute_paths
    from search.worker import prepare

    overrides = list(arguments.overrides)
    if arguments.rows:
        loaded, _ = checked(arguments.study, overrides, resume=False)
        overrides.append(f"data.path={subset(Path(loaded.data.path), arguments.rows, arguments.work)}")
    loaded, data = checked(arguments.study, overrides, resume=False)
    config: StudyConfig = with_absolute_paths(loaded)
    ray.init(include_dashboard=False, log_to_driver=False, num_cpus=arguments.cpus, configure_logging=False)
    from pipeline.storage import open_store

    key = data.add_to(open_store(config.store_place)).key
    references, _ = ray.get(ray.remote(prepare).options(num_cpus=arguments.cpus).remote(config, key, arguments.cpus))
    results = []
    for seed in arguments.seeds:
        for name, search in (("plain", plain_search), ("ours", our_search)):
            with tempfile.TemporaryDirectory() as folder:
                rows = search(config, data, key, references, seed, 60 * arguments.minutes, Path(folder))
            curve = hypervolumes(rows, references)
            results.append({"seed": seed, "search": name, "models": len(rows), "curve": curve})
            print(
                f"seed {seed} {name}: {len(rows)} models, {curve[-1][0]:.0f} s, hypervolume {curve[-1][1]:.4f}",
                flush=True,
            )
    ray.shutdown()
    rows = compared(results)
    show(rows)
    if arguments.json:
        arguments.json.write_text(json.dumps({"compared": rows, "runs": results}, indent=1), encoding="utf-8")


def subset(comments: Path, rows: int, folder: Path) -> Path:
    """A CSV file with that many rows of the comments, always the same ones."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{rows}_rows.csv"
    pd.read_csv(comments, dtype=str).sample(n=rows, random_state=0).to_csv(file, index=False)
    return file


def bare_store(shared: Path, folder: Path, keep: Sequence[str]) -> None:
    """A store at `folder` that has data, teacher and what was measured of the teacher, and nothing else."""
    for path in shared.glob("*/*"):
        if path.name in keep or path.parent.name in ("data", "teacher", "classical"):
            (folder / path.parent.name).mkdir(parents=True, exist_ok=True)
            (folder / path.parent.name / path.name).symlink_to(path, target_is_directory=True)


def of_references(shared: Path, references: Sequence[Any]) -> list[str]:
    """Keys of what was measured of teacher and floor."""
    keys = {row["model_key"] for row in references}
    found = []
    for manifest in shared.glob("*/*/manifest.json"):
        parents = json.loads(manifest.read_text(encoding="utf-8")).get("parents", [])
        if manifest.parent.parent.name in ("predictions", "latency") and parents and parents[0] in keys:
            found.append(manifest.parent.name)
    return found


class TypedSpace:
    """The study's space as `OptunaSearch` asks for it; it is pickled with the searcher's state."""

    def __init__(self, config: Any) -> None:
        self._config = config

    def __call__(self, trial: Any) -> dict[str, Any]:
        """Ask for every setting; what is returned reaches the trial beside them."""
        from search.space import Space

        return {"params": Space(self._config).suggest(trial)}


def plain_search(
    config: Any, data: Any, key: str, references: Any, seed: int, seconds: float, folder: Path
) -> list[tuple[float, Any]]:
    """Ray Tune's OptunaSearch, every chain whole; (computing seconds, row) of each model."""
    from ray import tune
    from ray.tune.search.optuna import OptunaSearch

    shared, keep = config.store_root, of_references(config.store_root, references)

    def trainable(given: dict[str, Any]) -> None:
        import torch

        from pipeline.cache import Store
        from search.trial import objectives, run_trial
        from search.workbench import Workbench

        torch.set_num_threads(1)
        with tempfile.TemporaryDirectory() as own:
            bare_store(shared, Path(own), keep)
            alone = config.model_copy(update={"storage": own})
            bench = Workbench(alone, Store(Path(own)), Workbench.open(alone, key).data)
            measured: list[tuple[float, Any]] = []
            began = time.time()
            run_trial(bench, given["params"], lambda stage, row: row and measured.append((time.time() - began, row)))
        last = measured[-1][1] if measured else references[0]
        named = dict(zip(config.search.objectives, objectives(last, config.search.objectives), strict=True))
        tune.report({**named, "measured": measured, "began": began})

    modes = ["max" if name == "f1_macro" else "min" for name in config.search.objectives]
    searcher = OptunaSearch(TypedSpace(config), metric=list(config.search.objectives), mode=modes, seed=seed)
    tuner = tune.Tuner(
        tune.with_resources(trainable, {"cpu": 1}),
        tune_config=tune.TuneConfig(search_alg=searcher, num_samples=-1, time_budget_s=seconds, reuse_actors=True),
        run_config=tune.RunConfig(storage_path=str(folder / "tune"), verbose=0),
    )
    finished = [result.metrics for result in tuner.fit() if result.metrics and "measured" in result.metrics]
    return by_computing_seconds([Work.told(one) for one in finished])


def our_search(
    config: Any, data: Any, key: str, references: Any, seed: int, seconds: float, folder: Path
) -> list[tuple[float, Any]]:
    """The stage tree with a store of its own; (computing seconds, row) of each model."""
    import ray

    from search.optuna_study import opened
    from search.sampler import study_sampler
    from search.study import StudyRun
    from search.study_keys import REFERENCES

    store, notes = folder / "store", folder / "notes"
    notes.mkdir()
    bare_store(config.store_root, store, of_references(config.store_root, references))
    search = config.search.model_copy(
        update={"sampler": "stage_tree", "trials": 100_000, "max_seconds": seconds, "points": ()}
    )
    ours = config.model_copy(
        update={
            "seed": seed,
            "study": "ours",
            "search": search,
            "storage": str(store),
            "results_dir": str(folder),
            "tracking": config.tracking.model_copy(update={"uri": "none"}),
        }
    )
    ours.folder.mkdir(parents=True)
    quiet, cpus = Console(file=io.StringIO()), int(ray.cluster_resources()["CPU"])
    with opened(ours, study_sampler(ours)) as study:
        study.set_user_attr(REFERENCES, list(references))
        StudyRun(ours, data, cpus, quiet, trial=noted(notes)).search(study, key, lambda trial: None)
    told = [json.loads(file.read_text(encoding="utf-8")) for file in notes.iterdir()]
    return by_computing_seconds(with_speeds([Work.told(one) for one in told], references, ours.tradeoff_weights))


def noted(notes: Path) -> Callable[..., list[Any]]:
    """Our trial, which leaves in `notes` what the plain one reports: its start, and when each model was measured."""

    def trial(bench: Any, params: Any, report: Any) -> list[Any]:
        import json
        import time
        import uuid

        from search.trial import run_trial

        began = time.time()
        measured: list[tuple[float, Any]] = []

        def told(stage: str, row: Any) -> None:
            if row:
                measured.append((time.time() - began, row))
            report(stage, row)

        try:
            return run_trial(bench, params, told)
        finally:
            file = notes / f"{uuid.uuid4().hex}.json"
            file.write_text(json.dumps({"began": began, "measured": measured}), encoding="utf-8")

    return trial


@dataclass(frozen=True)
class Work:
    """What a worker did for a trial."""

    began: float
    """By the clock, in seconds."""
    length: float
    """Seconds until its last model was measured."""
    models: list[tuple[float, Any]]
    """By the clock when each was measured, and its row."""

    @classmethod
    def told(cls, told: dict[str, Any]) -> Work:
        """Of what a trial reports: its start, and its models with the seconds since."""
        began, measured = told["began"], told["measured"]
        return cls(
            began, max((after for after, _ in measured), default=0.0), [(began + at, row) for at, row in measured]
        )


def with_speeds(trials: Sequence[Work], references: Sequence[Any], weights: tuple[float, float, float]) -> list[Work]:
    """The trials, with the speeds that others of them measured: a model is measured when its speed is."""
    from evaluation.shape import TIMING
    from search.timings import Timings, is_untimed

    timings = Timings(references[0]["f1_macro"], weights)
    known: dict[str, float] = {}
    for at, row in sorted((model for work in trials for model in work.models), key=lambda model: model[0]):
        if row.get(TIMING) and not is_untimed(row):
            known.setdefault(row[TIMING], at)
            timings.hear([row])
    completed = []
    for work in trials:
        models = [(max(at, known.get(row.get(TIMING), at)), timings.completed([row])) for at, row in work.models]
        completed.append(replace(work, models=[(at, row) for at, rows in models for row in rows]))
    return completed


def by_computing_seconds(trials: Sequence[Work]) -> list[tuple[float, Any]]:
    """Models with what all workers had computed when each was measured."""
    starts, lengths = np.array([work.began for work in trials]), np.array([work.length for work in trials])
    models = [model for work in trials for model in work.models]
    found = [(float(np.clip(at - starts, 0.0, lengths).sum()), row) for at, row in models]
    return sorted(found, key=lambda item: item[0])


def hypervolumes(rows: Sequence[tuple[float, Any]], references: Sequence[Any]) -> Curve:
    """The curve of a search."""
    from search.tally import Tally

    tally = Tally()
    tally.add(references[:1])
    curve: Curve = [(0.0, tally.hypervolume)]
    for cost, row in rows:
        tally.add([row])
        curve.append((cost, tally.hypervolume))
    return curve


def compared(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Seed by seed: ours at the other's end, and what each paid to get to the other's final hypervolume."""
    rows = []
    for seed in sorted({one["seed"] for one in results}):
        plain, ours = (
            next(one["curve"] for one in results if one["seed"] == seed and one["search"] == name)
            for name in ("plain", "ours")
        )
        end_cost, end_volume = plain[-1]
        cost, paid = (
            next((cost for cost, volume in curve if volume >= end_volume), float("inf")) for curve in (ours, plain)
        )
        rows.append(
            {
                "seed": seed,
                "plain_cost": end_cost,
                "plain_hypervolume": end_volume,
                "our_cost_to_it": cost,
                "share": cost / paid if paid > 0 else float("nan"),
                "our_hypervolume_at_equal_cost": max(volume for spent, volume in ours if spent <= end_cost),
            }
        )
    return rows


def show(rows: Sequence[dict[str, Any]]) -> None:
    """One row a seed, and the median share."""
    table = Table("seed", "plain: s", "hypervolume", "ours: s to reach it", "share of the cost", "ours at equal cost")
    for row in rows:
        table.add_row(
            str(row["seed"]),
            f"{row['plain_cost']:.0f}",
            f"{row['plain_hypervolume']:.4f}",
            f"{row['our_cost_to_it']:.0f}",
            f"{row['share']:.2f}",
            f"{row['our_hypervolume_at_equal_cost']:.4f}",
        )
    console = Console(width=110)
    console.print(table)
    console.print(f"median share: {np.median([row['share'] for row in rows]):.2f}")


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="study file with data, teacher and space")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    parser.add_argument("--minutes", type=float, default=10.0, help="of each search")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rows", type=int, help="search on so many of the comments; all without it")
    parser.add_argument("--work", type=Path, default=Path("."), metavar="FOLDER", help="where their file is written")
    parser.add_argument("--cpus", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    return parser.parse_args()


if __name__ == "__main__":
    main()
