"""How many comments a second does `python -m pipeline.predict` answer on one core, and does its memory stay the same?

    python benchmarks/predict_speed.py [FOLDER…] [--data FILE] [--comments N] --json FILE

The command runs as a user would run it, reading from a pipe and writing to another. It gets a chunk of comments, its
processor time is read when the last answer has come, and then ONNX Runtime alone, in this process, gets the same
comments, tokenised and padded before the clock starts: in the same batches, next to it in time, on the same core. The
clock is the process's own time on the processor, of all its threads: what the other processes of a machine take away
does not count. The start of the command is told apart.
Targets: an n-gram model 5,000 comments a second; a transformer student 90 % of the rate of ONNX Runtime alone (the
median over chunks); the resident set at the end at most a tenth larger than after a tenth of the comments. Exit status
1 when one is missed. Each FOLDER is an exported model; without one, small models are made from the embedded sample.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import cycle, islice
from math import ceil
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from evaluation.environment import machine
from pipeline.artifact import Artifact
from pipeline.cache import Store
from pipeline.comment_stream import CHUNK, SUFFIXES, Comment, read_comments
from pipeline.config import DataConfig, DistilConfig, TeacherConfig
from pipeline.data import prepare
from pipeline.deployed import Decisions, Deployed, load_deployed, write_sums
from pipeline.line_stream import read_lines
from pipeline.runtime import OnnxClassifier, load_deployment
from pipeline.sample import generate_comments
from pipeline.stages import distil, train_teacher
from pipeline.tokens import sorted_batches, tokenise

LEAST_RATE, LEAST_SHARE, MOST_GROWTH = 5000.0, 0.9, 0.1
"""Comments a second of an n-gram model; of ONNX Runtime's rate; of the resident set from a tenth to the end."""
SAMPLE_ROWS = 20_000
MEBIBYTE = 2**20
ROWS: dict[str, Callable[[Mapping[str, Any]], str | None]] = {
    "comments": lambda one: f"{one['comments']:,}",
    "answered together": lambda one: str(one["batch"]),
    "start, s": lambda one: f"{one['start_seconds']:.2f}",
    "the command, comments/s": lambda one: f"{one['comments_per_second']:,.0f}",
    "ONNX Runtime alone, comments/s": lambda one: (
        f"{one['runtime_alone_per_second']:,.0f}" if one["share_of_runtime"] is not None else None
    ),
    "share of its rate": lambda one: f"{one['share_of_runtime']:.1%}" if one["share_of_runtime"] is not None else None,
    "resident after a tenth, MiB": lambda one: f"{one['resident_tenth_mib']:.1f}",
    "resident at the end, MiB": lambda one: f"{one['resident_end_mib']:.1f}",
    "most ever resident, MiB": lambda one: f"{one['peak_mib']:.1f}",
    "targets": lambda one: "met" if one["met"] else "missed",
}


class Command:
    """The command, running; it is given one chunk after the other."""

    def __init__(self, folder: Path) -> None:
        root = Path(__file__).resolve().parent.parent
        started = [sys.executable, "-m", "pipeline.predict", str(folder.resolve())]
        self._process = subprocess.Popen(started, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        pipes = (self._process.stdin, self._process.stdout)
        self._input, self._output = (pipe for pipe in pipes if pipe is not None)

    def answer(self, texts: Sequence[str]) -> list[bytes]:
        """The answers to these comments, a line each."""
        # A thread feeds: while the command writes answers it takes no comments, and neither side may wait for ever.
        feeder = Thread(target=self._feed, args=("".join(f"{text}\n" for text in texts).encode(),))
        feeder.start()
        answers = list(islice(self._output, len(texts)))
        feeder.join()
        return answers

    def _feed(self, lines: bytes) -> None:
        self._input.write(lines)
        self._input.flush()

    def seconds(self) -> float:
        """Processor time that it has taken since its start, of all threads, user and system."""
        return time.clock_gettime(~self._process.pid << 3 | 2)  # the kernel's name for another process's clock

    def resident_mib(self, field: str = "VmRSS") -> float:
        """Memory that it holds now; the most that it ever held with `VmHWM`."""
        status = Path(f"/proc/{self._process.pid}/status").read_text(encoding="utf-8")
        return int(status.split(f"{field}:")[1].split()[0]) * 1024 / MEBIBYTE

    def end(self) -> int:
        """Close its input; its exit status."""
        self._input.close()
        self._output.close()
        return self._process.wait()


def main() -> None:
    """Print the figures of each model, and write them to a file."""
    arguments = parsed()
    os.sched_setaffinity(0, {arguments.core})
    texts = comments(arguments.data, arguments.text_column)
    with folders(arguments.folder) as models:
        found = {name: measured(folder, texts, arguments.comments) for name, folder in models.items()}
    show(found)
    if arguments.json:
        figures = {"machine": machine(1), "comments": arguments.comments, "models": found}
        arguments.json.write_text(json.dumps(figures, indent=1), encoding="utf-8")
    sys.exit(0 if all(one["met"] for one in found.values()) else 1)


def measured(folder: Path, texts: Sequence[str], count: int) -> dict[str, Any]:
    """The figures of one model over `count` comments, the texts repeated."""
    deployed, command = load_deployed(folder), Command(folder)
    stream = cycle(texts)
    command.answer(list(islice(stream, 1)))
    start = command.seconds()
    command.answer(list(islice(stream, CHUNK)))  # the first chunk finds every cache cold
    resident, begun = [command.resident_mib()], 1 + CHUNK
    taken, alone = [], []
    for _ in track(range(max(1, ceil(count / CHUNK) - 1)), folder.name, console=Console(stderr=True)):
        chunk = list(islice(stream, CHUNK))
        before = command.seconds()
        answers = command.answer(chunk)
        taken.append(command.seconds() - before)
        resident.append(command.resident_mib())
        alone.append(runtime_alone(deployed, chunk))
        begun += len(answers)
        if json.loads(answers[-1])["line"] != begun:
            raise RuntimeError(f"{folder}: answers are missing; the last one is {answers[-1]!r}")
    peak, status = command.resident_mib("VmHWM"), command.end()
    if status:
        raise RuntimeError(f"{folder}: the command ended with {status}")
    return judged(load_deployment(folder).runtime, deployed.batch, start, taken, alone, resident) | {"peak_mib": peak}


def judged(
    runtime: str,
    batch: int,
    start: float,
    taken: Sequence[float],
    alone: Sequence[float | None],
    resident: Sequence[float],
) -> dict[str, Any]:
    """The figures, and whether the targets that apply are met.

    Args:
        runtime: `onnxruntime`, `ngram` or `scikit-learn`.
        batch: comments that are answered together.
        start: seconds up to the first comment's answer.
        taken: seconds of each chunk but the first.
        alone: seconds of ONNX Runtime alone on the same chunk; None for another runtime.
        resident: MiB after each chunk, the first one included.
    """
    pairs = [(one, whole) for one, whole in zip(alone, taken, strict=True) if one is not None]
    share = float(np.median([one / whole for one, whole in pairs])) if pairs else None
    rate = CHUNK * len(taken) / sum(taken)
    tenth, end = resident[len(resident) // 10], resident[-1]
    met = end <= (1 + MOST_GROWTH) * tenth
    if runtime == "ngram":
        met &= rate >= LEAST_RATE
    if share is not None:
        met &= share >= LEAST_SHARE
    return {
        "runtime": runtime,
        "batch": batch,
        "comments": CHUNK * len(resident),
        "start_seconds": start,
        "comments_per_second": rate,
        "runtime_alone_per_second": CHUNK * len(pairs) / sum(one for one, _ in pairs) if pairs else None,
        "share_of_runtime": share,
        "resident_tenth_mib": tenth,
        "resident_end_mib": end,
        "met": met,
    }


def runtime_alone(deployed: Deployed, texts: Sequence[str]) -> float | None:
    """Seconds of `session.run` on these comments in the batches that the command makes of them; None without ONNX."""
    model = deployed.classifier
    if not isinstance(model, OnnxClassifier):
        return None
    tokens = tokenise(model.tokenizer, texts)
    padded = [tokens.pad(rows, model.deployment.pad_id) for rows in sorted_batches(tokens.lengths, deployed.batch)]
    feeds = [{"input_ids": ids, "attention_mask": mask} for ids, mask in padded]
    before = time.process_time()
    for feed in feeds:
        model.session.run(None, feed)
    return time.process_time() - before


def comments(file: Path | None, column: str) -> list[str]:
    """What is asked, without line breaks: it goes through a pipe, a comment a line."""
    if file is None:
        texts = generate_comments(SAMPLE_ROWS, 0)[DataConfig().text_column].tolist()
    else:
        with file.open("rb", buffering=0) as raw:
            read = read_comments(read_lines(raw), SUFFIXES.get(file.suffix.lower(), "lines"), column)
            texts = [one.text for one in read if isinstance(one, Comment) and not one.error]
    return [" ".join(text.split()) for text in texts]


@contextmanager
def folders(given: Sequence[Path]) -> Iterator[Mapping[str, Path]]:
    """The models to measure by name: those that are given, or small ones made for the occasion."""
    if given:
        yield {str(folder): folder for folder in given}
        return
    with tempfile.TemporaryDirectory() as place:
        yield small_models(Path(place))


def small_models(place: Path) -> dict[str, Path]:
    """An n-gram bag and a transformer of four layers, hardly trained and exported: only their time is asked for."""
    store = Store(place / "store")
    data = prepare(DataConfig(sample_rows=1000)).add_to(store)
    width = TeacherConfig(epochs=1, scratch_layers=6, scratch_width=312, scratch_heads=12)
    teacher = store.run(train_teacher, width, data)
    configs = {
        "n-gram": DistilConfig(method="logit", student="ngram", ngram_epochs=1),
        "transformer, 4 layers": DistilConfig(method="logit", layers=4, epochs=1),
    }
    students = {name: store.run(distil, config, data, teacher) for name, config in configs.items()}
    return {name: exported(student, place / name) for name, student in students.items()}


def exported(model: Artifact, folder: Path) -> Path:
    """The model as a folder to predict with; its thresholds are no tuned ones."""
    shutil.copytree(model.path, folder)
    labels = load_deployment(folder).labels
    Decisions(labels, (0.5,) * len(labels), labels[-1]).save(folder)
    write_sums(folder)
    return folder


def show(found: Mapping[str, Mapping[str, Any]]) -> None:
    """The figures as a table."""
    table = Table("model", *(Path(name).name for name in found))
    for title, text in ROWS.items():
        table.add_row(title, *("" if (shown := text(one)) is None else shown for one in found.values()))
    console = Console()
    console.print(machine(1) + "; one core, processor time", markup=False)
    console.print(table)


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="*", help="exported models (default: two small ones, made here)")
    parser.add_argument("--data", type=Path, help="comments, as the command reads them (default: embedded sample)")
    parser.add_argument("--text-column", default=DataConfig().text_column, help="of the data")
    parser.add_argument("--comments", type=int, default=20_000, help="to answer; the data is repeated")
    parser.add_argument("--core", type=int, default=0, help="processor core to run on")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    return parser.parse_args()


if __name__ == "__main__":
    main()
