"""What the driver of a search costs: trials of no work through the whole of it.

    python benchmarks/driver_cost.py --trials 2000 --sampler random stage_tree

Ray, Ray Tune, the sampler, the Optuna database, the snapshots of the Parquet files and MLflow are those of a real study
of the embedded space; only the trial does nothing, and returns a row as large as a real one. The time of a trial is the
whole time by the number of trials, with as many at a time as there are processors. Where it goes is found by looking
at the driver's stack a hundred times a second.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any

from rich.console import Console
from rich.table import Table

from cluster.session import session
from pipeline.storage import open_store
from search.config import StudyConfig
from search.optuna_study import open_study
from search.sampler import study_sampler
from search.start import checked, claim_folder, with_absolute_paths
from search.study import StudyRun
from search.study_keys import REFERENCES
from search.tracked_study import TrackedStudy
from search.trial import Row

LOOK_SECONDS = 0.01
WARM_TRIALS = 100
"""Trials after which memory is first read: imports, pools and caches are filled by then."""
PARTS = {
    "database": ("/optuna/storages/", "/sqlalchemy/"),
    "sampler": ("/search/stage_tree/", "/search/sampler.py", "/optuna/samplers/"),
    "snapshots": ("/search/snapshots.py",),
    "our searcher": ("/search/searcher.py", "/search/space.py", "/search/tally.py"),
    "tracking": ("/search/tracked_study.py", "/search/run_records.py", "/cluster/tracking", "/mlflow/"),
    "display": ("/search/progress.py",),
}
"""Where a thread is at: the first part that has a file on its stack."""


def main() -> None:
    """Print a row for each sampler."""
    arguments = parsed()
    if len(arguments.sampler) == 1:
        overrides = [f"search.trials={arguments.trials}", f"search.sampler={arguments.sampler[0]}", *arguments.set]
        with TemporaryDirectory() as folder, session("local") as up:
            rows = [measured(Path(folder), overrides, max(1, int(up.cpus)))]
    else:
        rows = [row for sampler in arguments.sampler for row in apart(sampler, arguments)]
    show(rows)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")


def apart(sampler: str, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows of this program with one sampler, in a process of its own: memory is counted from a fresh start."""
    with TemporaryDirectory() as folder:
        figures = Path(folder) / "figures.json"
        command = [sys.executable, __file__, "--trials", str(arguments.trials), "--sampler", sampler]
        command += [word for one in arguments.set for word in ("--set", one)]
        subprocess.run([*command, "--json", str(figures)], check=True, stdout=subprocess.DEVNULL)
        rows: list[dict[str, Any]] = json.loads(figures.read_text("utf-8"))
        return rows


def measured(folder: Path, overrides: list[str], cpus: int) -> dict[str, Any]:
    """Search the embedded space with trials of no work, inside a Ray session."""
    places = [f"results_dir={folder}", "data.sample_rows=600"]
    config, data = checked(None, [*places, *overrides], resume=False)
    config = with_absolute_paths(config)
    claim_folder(config, resume=False)
    run = StudyRun(config, data, cpus, Console(file=io.StringIO()), trial=no_work())
    data_key = data.add_to(open_store(config.store_place)).key
    study = open_study(config, study_sampler(config))
    study.set_user_attr(REFERENCES, [model_row("baseline", {}), model_row("classical", {})])
    memory: list[int] = []

    def ended(trial: Any) -> None:
        tracked.trial(trial)
        memory.append(resident_bytes())

    with TrackedStudy(study, config, run.console) as tracked, Looking() as looking:
        before = time.perf_counter(), time.process_time(), cpu_seconds(os.getpid())
        run.search(study, data_key, ended)
        after = time.perf_counter(), time.process_time(), cpu_seconds(os.getpid())
    logged = time.perf_counter()
    seconds, computing, by_all = (later - earlier for later, earlier in zip(after, before, strict=True))
    trials = len(memory)
    assert_all_ended(study, config)
    study._storage.close()  # type: ignore[attr-defined]  # a StudyDatabase: one whole file from here on
    warm = min(WARM_TRIALS, trials // 2)
    return {
        "sampler": config.search.sampler,
        "trials": trials,
        "milliseconds_per_trial": 1e3 * seconds / trials,
        "driver_cpu_milliseconds_per_trial": 1e3 * computing / trials,
        "all_cpu_milliseconds_per_trial": 1e3 * by_all / trials,
        "growth_kb_per_trial": (memory[-1] - memory[warm]) / 1024 / max(1, trials - 1 - warm),
        "seconds_of_logging_after_the_search": logged - after[0],
        "database_mb": (config.folder / "study.db").stat().st_size / 2**20,
        "milliseconds_by_part": {part: 1e3 * seconds * share / trials for part, share in looking.shares().items()},
    }


def assert_all_ended(study: Any, config: StudyConfig) -> None:
    """Raise RuntimeError unless every trial is complete: a search that ends early costs little."""
    states = Counter(trial.state.name for trial in study.get_trials(deepcopy=False))
    if states != {"COMPLETE": config.search.trials}:
        raise RuntimeError(f"search.trials={config.search.trials}, but the trials ended as {dict(states)}")


def no_work() -> Callable[..., list[Row]]:
    """A trial that returns one row at once; local, so that it is pickled by value."""
    row = model_row

    def trial(bench: Any, params: Mapping[str, Any], report: Callable[..., None]) -> list[Row]:
        report("quantize", None)
        return [row("after_quantization", dict(params))]

    return trial


def model_row(stage: str, params: dict[str, Any]) -> Row:
    """A row with every column that a real one has; its figures follow from the settings."""
    import hashlib
    import random

    from evaluation.records import BY_LABEL, FIXED

    key = hashlib.sha256(repr((stage, params)).encode()).hexdigest()
    chance = random.Random(key)
    row: Row = {name: chance.random() for name, kind in FIXED.items() if str(kind) == "double"}
    row |= {"num_parameters": 467_717, "num_trainable_params": 467_717, "positives_needed": None}
    row |= {"study": "embedded", "stage": stage, "model_key": key, "parent_key": key[::-1], "status": "ok"}
    row |= {"error": None, "cache_hit": False, "node": "node", "safety_verdict": chance.choice(["safe", "unsafe"])}
    row |= dict.fromkeys(("created_at", "timestamp"), "2026-01-02T03:04:05+00:00")
    for label in ("bully", "sexual", "religious", "threat", "spam"):
        row |= {f"{name}.{label}": chance.random() for name in BY_LABEL}
        row[f"confusion_matrices.{label}"] = "[[931,36],[29,971]]"
    return row | {name: value for name, value in params.items() if value is not None}


def resident_bytes() -> int:
    """Resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def cpu_seconds(pid: int) -> float:
    """Processor time of a process and all below it that live: driver, Ray's own processes and the workers."""
    ticks: dict[int, tuple[int, int]] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = status.read_text().rpartition(")")[2].split()
            ticks[int(status.parent.name)] = int(fields[1]), int(fields[11]) + int(fields[12])
    family = {pid}
    while more := {child for child, (parent, _) in ticks.items() if parent in family} - family:
        family |= more
    return sum(ticks[one][1] for one in family if one in ticks) / os.sysconf("SC_CLK_TCK")


class Looking:
    """Looks at the stack of the thread that made it while the block runs."""

    def __init__(self) -> None:
        self._watched = threading.get_ident()
        self._over = threading.Event()
        self._seen: Counter[str] = Counter()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Looking:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def shares(self) -> dict[str, float]:
        """Share of the looks that found the thread in each part."""
        return {part: seen / self._seen.total() for part, seen in self._seen.most_common()}

    def _look(self) -> None:
        while not self._over.wait(LOOK_SECONDS):
            self._seen[part_of(sys._current_frames()[self._watched])] += 1


def part_of(frame: FrameType) -> str:
    """The part of the driver that a stack is in."""
    files = files_of(frame)
    for part, places in PARTS.items():
        if any(place in file for file in files for place in places):
            return part
    if frame.f_code.co_name == "wait" or any("/ray/air/execution/_internal/event_manager" in file for file in files):
        return "Ray: waiting, and taking results"
    return "Ray Tune"


def files_of(frame: FrameType | None) -> list[str]:
    """Files of a stack."""
    files = []
    while frame is not None:
        files.append(frame.f_code.co_filename)
        frame = frame.f_back
    return files


def show(rows: list[dict[str, Any]]) -> None:
    """The rows as a table, and the parts of each."""
    console = Console()
    table = Table("sampler", "trials", "ms/trial", "driver CPU ms", "all CPU ms", "growth KB/trial", "study.db MB")
    for row in rows:
        table.add_row(
            row["sampler"],
            str(row["trials"]),
            f"{row['milliseconds_per_trial']:.1f}",
            f"{row['driver_cpu_milliseconds_per_trial']:.1f}",
            f"{row['all_cpu_milliseconds_per_trial']:.1f}",
            f"{row['growth_kb_per_trial']:.1f}",
            f"{row['database_mb']:.1f}",
        )
    console.print(table)
    for row in rows:
        rest = row["seconds_of_logging_after_the_search"]
        console.print(f"{row['sampler']}: MLflow's process needed {rest:.1f} s more after the search", soft_wrap=True)
        parts = ", ".join(f"{part} {ms:.1f}" for part, ms in row["milliseconds_by_part"].items())
        console.print(f"{row['sampler']}, milliseconds a trial by part: {parts}", soft_wrap=True)


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--sampler", nargs="+", default=["random", "stage_tree"])
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of the study, as in pareto.py")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    return parser.parse_args()


if __name__ == "__main__":
    main()
