"""What it costs to prepare a million comments: seconds and peak memory of each step, and of processes that read them.

    python benchmarks/prepare_million.py [--rows N] [--json FILE]

The comments are those of the embedded sample, all of one seed, in a CSV file. A process of its own prepares and stores
them as a study does; its peak is the resident set, libraries included. Then `--readers` processes at once open what is
stored, and read every text, label and token: each one's own memory is what it holds beyond the pages of the files,
which all share (`RssAnon`, so Linux only). The tokenizer is that of a `scratch` teacher, learnt from some comments.
"""

from __future__ import annotations

import argparse
import csv
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from rich.console import Console
from rich.table import Table

SECONDS, PEAK_MB = 300.0, 4096.0
"""What a million comments may take."""
GENERATED_AT_ONCE = 51_200
TOKENIZER_COMMENTS, VOCABULARY, MAX_TOKENS = 50_000, 4000, 96
STEPS = {"read_rows": "load, check", "deduplicate": "deduplicate", "split": "split", "fingerprint": "fingerprint"}
"""What `prepare` calls, and how it is shown."""
Figures = dict[str, Any]


def memory_mb(field: str) -> float:
    """A memory figure of this process as the kernel keeps it, MiB."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{field}:"))


@dataclass
class Clock:
    """Time and peak memory of steps; a step inside another one is told by itself, and its peak counts for both."""

    steps: list[Figures] = field(default_factory=list)
    peaks: list[float] = field(default_factory=list)
    """Highest so far of each step that is open."""

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Note what the body takes, without the steps inside it."""
        self._look()
        self.peaks.append(0.0)
        inside, started = len(self.steps), (time.perf_counter(), time.process_time())
        try:
            yield
        finally:
            ended = (time.perf_counter(), time.process_time())
            self._look()
            figures: Figures = {"step": name, "peak_mb": self.peaks.pop()}
            for kind, begin, end in zip(("seconds", "cpu_seconds"), started, ended, strict=True):
                figures[kind] = end - begin - sum(step[kind] for step in self.steps[inside:])
            self.steps.append(figures)

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, each call of it a step."""

        def call(*args: Any, **kwargs: Any) -> Any:
            with self.step(name):
                return function(*args, **kwargs)

        return call

    def _look(self) -> None:
        """Give the peak since the last look to the open steps, and begin a new one."""
        peak = memory_mb("VmHWM")
        self.peaks = [max(peak, one) for one in self.peaks]
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def write_comments(file: Path, rows: int, seed: int) -> None:
    """The first rows of the embedded sample as a CSV file."""
    from pipeline.sample import SAMPLE_LABELS, generate_comments

    with file.open("w", encoding="utf-8", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow(["comment", *SAMPLE_LABELS])
        for start in range(0, rows, GENERATED_AT_ONCE):
            chunk = generate_comments(min(GENERATED_AT_ONCE, rows - start), seed, start)
            writer.writerows(chunk.itertuples(index=False, name=None))


def prepare_and_store(file: Path, folder: Path) -> Figures:
    """Steps and report of preparing the CSV file into `folder`, as a study does, tokens included."""
    clock = Clock()
    with clock.step("import"):
        from pipeline import data
        from pipeline.config import DataConfig
        from pipeline.models import train_tokenizer
        from pipeline.tokens import tokenise
    with clock.step("report, rest"), ExitStack() as stack:
        for name, shown in STEPS.items():
            stack.enter_context(patch.object(data, name, clock.timed(shown, getattr(data, name))))
        comments = data.prepare(DataConfig(path=str(file)))
    with clock.step("store"):
        comments.save(folder)
    with clock.step("open the stored"):
        comments = data.load_data(folder)
    with clock.step("learn a tokenizer"):
        tokenizer = train_tokenizer(comments.train.texts[:TOKENIZER_COMMENTS], VOCABULARY)
        tokenizer.enable_truncation(MAX_TOKENS)
    with clock.step("tokenise, store"):
        for name, part in comments.splits.items():
            tokenise(tokenizer, part.texts).save(folder, name)
    return {"steps": clock.steps, "report": comments.report}


def read_stored(folder: Path, barrier: Any) -> Figures:
    """Memory of a process that reads all that is stored while the others do too."""
    from pipeline.data import load_data
    from pipeline.tokens import Tokens

    before, started = memory_mb("RssAnon"), time.perf_counter()
    comments = load_data(folder)
    opened = time.perf_counter() - started
    tokens = {name: Tokens.load(folder, name) for name in comments.splits}
    read = sum(len(text) for part in comments.splits.values() for text in part.texts)
    read += sum(int(part.labels.sum(dtype=np.int64)) for part in comments.splits.values())
    read += sum(int(one.ids.max()) for one in tokens.values())
    barrier.wait()
    return {"own_mb": memory_mb("RssAnon") - before, "mapped_mb": memory_mb("RssFile"), "open_s": opened, "read": read}


def measured(rows: int, seed: int, readers: int, folder: Path) -> Figures:
    """All figures; `folder` takes the files."""
    fresh = multiprocessing.get_context("spawn")
    file, stored = folder / "comments.csv", folder / "data"
    load = os.getloadavg()[0]
    with ProcessPoolExecutor(1, fresh) as pool:
        pool.submit(write_comments, file, rows, seed).result()
    with ProcessPoolExecutor(1, fresh) as pool:
        figures = pool.submit(prepare_and_store, file, stored).result()
    with fresh.Manager() as manager, ProcessPoolExecutor(readers, fresh) as pool:
        barrier = manager.Barrier(readers)
        asked = [pool.submit(read_stored, stored, barrier) for _ in range(readers)]
        figures["readers"] = [one.result() for one in asked]
    steps = figures["steps"]
    return figures | {
        "rows": rows,
        "csv_mb": file.stat().st_size / 2**20,
        "stored_mb": sum(one.stat().st_size for one in stored.iterdir()) / 2**20,
        "seconds": sum(step["seconds"] for step in steps),
        "cpu_seconds": sum(step["cpu_seconds"] for step in steps),
        "peak_mb": max(step["peak_mb"] for step in steps),
        "load_average": [load, os.getloadavg()[0]],
    }


def show(figures: Figures) -> None:
    """The figures as tables."""
    console = Console()
    title = f"{figures['rows']:,} comments, {figures['csv_mb']:.0f} MiB of CSV"
    table = Table("step", "seconds", "CPU seconds", "peak MiB", title=title)
    for step in [*figures["steps"], figures | {"step": "all"}]:
        times = f"{step['seconds']:.1f}", f"{step['cpu_seconds']:.1f}"
        table.add_row(step["step"], *times, f"{step['peak_mb']:.0f}", end_section=step is figures["steps"][-1])
    console.print(table)
    table = Table("reader", "opened in s", "own MiB", "of files MiB", title=f"{figures['stored_mb']:.0f} MiB stored")
    for number, one in enumerate(figures["readers"], start=1):
        table.add_row(str(number), f"{one['open_s']:.2f}", f"{one['own_mb']:.1f}", f"{one['mapped_mb']:.0f}")
    console.print(table)
    within = figures["seconds"] <= SECONDS and figures["peak_mb"] <= PEAK_MB
    report, (before, after) = figures["report"], figures["load_average"]
    console.print(
        f"{report['rows_used']:,} different texts, {report['conflicting_texts']:,} with rows that disagree; "
        f"load of the machine {before:.1f} before, {after:.1f} after. "
        f"{'Within' if within else 'Beyond'} the {SECONDS:.0f} s and {PEAK_MB:.0f} MiB of a million rows.",
        highlight=False,
    )


def main() -> None:
    """Print the tables."""
    arguments = parsed()
    with tempfile.TemporaryDirectory() as folder:
        figures = measured(arguments.rows, arguments.seed, arguments.readers, Path(folder))
    show(figures)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1), encoding="utf-8")


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--readers", type=int, default=2, help="processes that read the stored comments at once")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    return parser.parse_args()


if __name__ == "__main__":
    main()
