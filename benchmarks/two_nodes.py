"""What a second node is worth: time, a node that joins in mid-search, and one that is drained.

    python benchmarks/two_nodes.py [--trials 40] [--json FILE]

Clusters of raylets on this machine: a head without slots, and workers of one processor each that share a folder as the
store. The smoke study is made to search the temperature of a student alone: every trial trains one of its own, for the
same number of epochs, so that all weigh the same and none finds what another has built. Data, teacher and floor are in
the store before. The study runs on one worker, then on two; then on one that a second joins, after which the first
gets a spot notice of 30 s and is killed when they are over. Needs two processors to itself.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path
from random import Random
from typing import Any

from fault_injection.evidence import row_differences
from fault_injection.processes import adopt_orphans, end_all, lock_holder
from fault_injection.ray_cluster import Node
from fault_injection.runs import ROOT, Run, placed
from fault_injection.storage import copied
from rich.console import Console
from rich.table import Table

STUDY = ROOT / "search" / "studies" / "smoke.yaml"
MOST_OF_ONE = 0.6
"""Share of one node's time that two may take."""
FIRST_TRIAL_SECONDS = 30.0
NOTICE_SECONDS = 30
LIMIT_SECONDS = 900.0
ALONE = (
    "data.sample_rows=1500",
    "measure.seconds=0.05",
    "prune.method=none",
    "quantize.method=none",
    "search.sampler=random",
    "safety.rounds=100",
)
STUDENTS = ("distil.method=logit", "distil.temperature={low: 1.0, high: 8.0}", "distil.alpha=0.5")
NO_STUDENT = ("distil.method=none", "search.trials=1")


def main() -> int:
    """Run the study three times, print the figures; 0 when all hold."""
    arguments = parsed()
    adopt_orphans()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder = arguments.keep or Path(tempfile.mkdtemp(prefix="two-nodes-"))
    folder.mkdir(parents=True, exist_ok=True)
    common = (*ALONE, *arguments.set)
    study = (*common, *STUDENTS, f"search.trials={arguments.trials}", f"distil.epochs={arguments.epochs}")
    try:
        with placed("cluster", folder / "teacher", STUDY, (*common, *NO_STUDENT), workers=1) as before:
            before.start()
            finished(before)
        figures: dict[str, Any] = {"trials": arguments.trials}
        runs = {}
        for name, workers in (("one", 1), ("two", 2)):
            with prepared(before.store, folder / name, study, workers) as run:
                run.start()
                finished(run)
                runs[name] = run
                figures |= {f"{name}_seconds": run.seconds, f"{name}_search_seconds": search_seconds(run)}
                print(f"workers: {workers}, {run.seconds:.0f} s, of them search {search_seconds(run):.0f}", flush=True)
        figures |= compared(figures)
        with prepared(before.store, folder / "join", study, workers=1) as run:
            figures |= joined_and_drained(run, Random(arguments.seed))
            figures["row_differences"] = row_differences(runs["one"].rows(), run.rows())
            figures["row_differences"] += row_differences(runs["one"].rows(), runs["two"].rows())
    finally:
        end_all()
        if not arguments.keep:
            shutil.rmtree(folder, ignore_errors=True)
    holds = show(figures)
    if arguments.json:
        arguments.json.write_text(json.dumps({**figures, "holds": holds}, indent=1), encoding="utf-8")
    return 0 if all(holds.values()) else 1


@contextmanager
def prepared(store: Path, folder: Path, study: tuple[str, ...], workers: int) -> Iterator[Run]:
    """A run on a cluster of its own with a copy of a store that has data, teacher and floor."""
    with placed("cluster", folder, STUDY, study, workers) as run:
        copied(store, run.store)
        yield run


def finished(run: Run) -> None:
    """Wait for the study's end.

    Raises:
        RuntimeError: it ended otherwise than with a whole search, or took too long.
    """
    status = run.wait(LIMIT_SECONDS)
    if status not in (0, 1):
        raise RuntimeError(f"{run.folder.name}: ended with status {status}: {run.told()}")


def search_seconds(run: Run) -> float:
    """From the start of the first trial to the end of the last."""
    with closing(sqlite3.connect(run.study_folder / "study.db")) as database:
        [(began, ended)] = database.execute("SELECT min(datetime_start), max(datetime_complete) FROM trials")
    return (datetime.fromisoformat(ended) - datetime.fromisoformat(began)).total_seconds()


def compared(figures: dict[str, Any]) -> dict[str, float]:
    """Share of one node's time that two took, and their efficiency: of the command, and of its trials alone."""
    whole = figures["two_seconds"] / figures["one_seconds"]
    search = figures["two_search_seconds"] / figures["one_search_seconds"]
    return {
        "share_of_time": whole,
        "efficiency": 1 / (2 * whole),
        "search_share_of_time": search,
        "search_efficiency": 1 / (2 * search),
    }


def joined_and_drained(run: Run, rng: Random) -> dict[str, Any]:
    """A second worker joins in mid-search; once it has had a trial the first is drained, and killed at its deadline."""
    run.start()
    [first] = run.cluster.workers()
    some = rng.randint(1, 3)
    run.until(lambda: len(run.evidence().with_state("COMPLETE")) >= some, LIMIT_SECONDS)
    started = time.monotonic()
    second = run.cluster.start_worker()
    joined = time.monotonic()
    run.until(lambda: builds(run, second), 120.0, pause=0.02)
    at_work = time.monotonic()
    time.sleep(rng.uniform(0.0, 5.0))
    open_trials = len(run.evidence().with_state("RUNNING"))
    run.cluster.drain(first, NOTICE_SECONDS)
    deadline = time.monotonic() + NOTICE_SECONDS
    while run.running and time.monotonic() < deadline:
        time.sleep(0.2)
    needed = run.running
    run.cluster.kill(first)
    finished(run)
    evidence = run.evidence()
    return {
        "first_trial_after_start_seconds": at_work - started,
        "first_trial_after_joining_seconds": at_work - joined,
        "trials_open_at_notice": open_trials,
        "searched_beyond_the_notice": needed,
        "failed_trials": len(evidence.with_state("FAIL")),
        "complete_trials": len(evidence.with_state("COMPLETE")),
        "models_by_node": run.rows()["node"].value_counts().to_dict(),
    }


def builds(run: Run, node: Node) -> bool:
    """Whether a process of this node builds an artifact now."""
    folder = run.store / ".building"
    keys = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
    holders = {lock_holder(run.store / ".locks" / f"{key}.lock") for key in keys} - {None}
    return bool(holders and holders & set(node.group.members()))


def show(figures: dict[str, Any]) -> dict[str, bool]:
    """Print the figures beside what they should be; which of them hold."""
    rows: Sequence[tuple[str, str, str, bool]] = (
        (
            "two nodes' share of one node's time",
            f"{figures['share_of_time']:.2f} ({figures['two_seconds']:.0f} of {figures['one_seconds']:.0f} s)",
            f"at most {MOST_OF_ONE:g}",
            figures["share_of_time"] <= MOST_OF_ONE,
        ),
        ("efficiency", f"{figures['efficiency']:.0%} (of the trials {figures['search_efficiency']:.0%})", "", True),
        (
            "first trial of a node that joins",
            f"{figures['first_trial_after_start_seconds']:.1f} s after its start, "
            f"{figures['first_trial_after_joining_seconds']:.1f} s after it joined",
            f"at most {FIRST_TRIAL_SECONDS:g} s",
            figures["first_trial_after_start_seconds"] <= FIRST_TRIAL_SECONDS,
        ),
        (
            "failed trials when a node drains",
            f"{figures['failed_trials']} of {figures['trials']}",
            "0",
            figures["failed_trials"] == 0 and figures["complete_trials"] == figures["trials"],
        ),
        (
            "rows",
            "; ".join(figures["row_differences"]) or "equal",
            "equal",
            not figures["row_differences"],
        ),
    )
    table = Table("", "measured", "should be", "holds")
    for what, measured, target, holds in rows:
        table.add_row(what, measured, target, "yes" if holds else "no")
    Console(width=120, highlight=False).print(table)
    return {what: holds for what, _, _, holds in rows}


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--epochs", type=int, default=100, help="of each student: what a trial weighs")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a key of the study")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep every run's place below this folder")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
