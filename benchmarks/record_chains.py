"""Run every chain of a study's space once, and keep what each stage brought and took: a table to simulate searches on.

    python benchmarks/record_chains.py STUDY.yaml --set data.path=FILE.csv --set teacher.model=FOLDER --to recorded

Every searched setting must list its `choices` or have a `step`. Chains are run by `--processes`, each with one thread,
as by as many workers of a search; a run that was stopped goes on from the store. Then, with nothing computing beside
it, the speed-up of one model of each shape is measured: models that differ in the values of their weights alone take
equally long. `recorded/trials.parquet` has the rows, `recorded/study.yaml` the space.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import lru_cache, partial
from itertools import groupby
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from rich.progress import track

from evaluation.evaluator import CompressionEvaluator
from evaluation.latency import clock, measure_latency, node_slot
from evaluation.measuring import SplitName
from evaluation.records import write_records
from evaluation.safety import SafetyResult
from evaluation.shape import shape_of
from evaluation.speedup import paired_speedup
from pipeline.artifact import Artifact, Notes
from pipeline.data import load_data
from pipeline.runtime import load_classifier
from pipeline.storage import open_store
from search.config import StudyConfig
from search.every_chain import every_chain
from search.start import checked
from search.study_file import to_yaml
from search.trial import Row, find_model, reference_rows, run_trial
from search.workbench import Workbench

SHAPE = "shape"
"""Key of a row, until its speed is known."""


def main() -> None:
    """Run what is not in the store yet, and write the table."""
    arguments = parsed()
    config, data = checked(arguments.study, arguments.overrides, resume=False)
    data_key = data.add_to(open_store(config.store_place)).key
    bench = RecordingBench.open(config, data_key)
    rows: dict[str, Row] = {row["model_key"]: row for row in reference_rows(bench, lambda stage, row: None)}
    students = [list(chains) for _, chains in groupby(every_chain(config), student_of)]
    run = partial(models_below, config.model_dump_json(), data_key)
    with get_context("spawn").Pool(arguments.processes, torch.set_num_threads, (1,)) as pool:
        for found in track(pool.imap_unordered(run, students), "students", total=len(students)):
            rows |= found
    timed = list(with_speeds(bench, list(rows.values())))
    arguments.to.mkdir(parents=True, exist_ok=True)
    write_records(timed, arguments.to / "trials.parquet", metadata={"study": config.study})
    (arguments.to / "study.yaml").write_text(to_yaml(config), encoding="utf-8")
    print(f"{len(timed)} models in {arguments.to / 'trials.parquet'}")


def student_of(params: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """The settings of a chain's student."""
    return [item for item in params.items() if item[0].startswith("distil.")]


def models_below(config_json: str, data_key: str, chains: Sequence[Mapping[str, Any]]) -> dict[str, Row]:
    """The models of chains that share a student, by key; their speeds are left out."""
    bench = opened(config_json, data_key)
    return {row["model_key"]: row for params in chains for row in run_trial(bench, params, lambda stage, row: None)}


@lru_cache(maxsize=1)
def opened(config_json: str, data_key: str) -> RecordingBench:
    """The workbench of this process."""
    return RecordingBench.open(StudyConfig.model_validate_json(config_json), data_key)


@dataclass(frozen=True)
class Untimed(CompressionEvaluator):
    """Measures all but speed, and each model once."""

    known: dict[tuple[str, ...], Any] = field(default_factory=dict)
    """What was measured, by name, model and split."""

    def speed(self, model: Artifact, session: str = "search", wait: bool = True) -> Notes:
        """The model's shape, to find its speed by."""
        return {SHAPE: shape_of(model.path)}

    def classification(self, model: Artifact, split: SplitName) -> dict[str, Any]:
        """As `CompressionEvaluator`'s."""
        key = ("classification", model.key, split)
        if key not in self.known:
            self.known[key] = super().classification(model, split)
        return dict(self.known[key])

    def safety(self, model: Artifact, split: SplitName) -> SafetyResult:
        """As `CompressionEvaluator`'s."""
        key = ("safety", model.key, split)
        if key not in self.known:
            self.known[key] = super().safety(model, split)
        result: SafetyResult = self.known[key]
        return result


@dataclass(frozen=True)
class RecordingBench(Workbench):
    """A workbench whose evaluator leaves out the speed."""

    evaluators: dict[str, Untimed] = field(default_factory=dict)
    """By teacher."""

    def evaluator(self, teacher: Artifact) -> CompressionEvaluator:
        """The study's rules of measuring, but for speed."""
        if teacher.key not in self.evaluators:
            whole = super().evaluator(teacher)
            parts = {part.name: getattr(whole, part.name) for part in fields(CompressionEvaluator)}
            self.evaluators[teacher.key] = Untimed(**{**parts, "plan_positives": False})
        return self.evaluators[teacher.key]


def with_speeds(bench: Workbench, rows: Sequence[Row]) -> Iterator[Row]:
    """The rows with the speed-ups of their shapes, and the scores that hang on these."""
    evaluator = bench.evaluator(bench.teacher())
    examples = {row[SHAPE]: row for row in reversed(rows)}
    torch.set_num_threads(1)
    shapes = track(examples.items(), "speeds of shapes")
    speeds = {shape: speedup(bench, evaluator.teacher, find_model(bench, row)) for shape, row in shapes}
    for row in rows:
        shape = row.pop(SHAPE)
        row["timed_model"], speed = examples[shape]["model_key"], speeds[shape]
        scored = evaluator.scores(row["f1_macro"], row["critical_f1"], row["size_compression_ratio"], speed)
        yield {**row, "speedup_factor": speed, **scored}


def speedup(bench: Workbench, teacher: Artifact, model: Artifact) -> float:
    """Of single requests, paired with the teacher's."""
    if model.key == teacher.key:
        return 1.0
    protocol, texts = bench.config.measure, load_data(bench.data.path).validation.texts
    models = {name: load_classifier(one.path, 1) for name, one in (("teacher", teacher), ("model", model))}
    asked: dict[str, Any] = {"seconds": protocol.seconds, "requests": protocol.requests, "now": clock(1), "seed": 0}
    with node_slot():
        times = measure_latency(models, texts, baseline="teacher", **asked).times_ms
    return paired_speedup(times["teacher"], times["model"])[0]


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="study file whose settings are fixed or listed")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    parser.add_argument("--to", type=Path, required=True, help="folder of the table")
    parser.add_argument("--processes", type=int, default=2, help="chains run at a time, each with one thread")
    return parser.parse_args()


if __name__ == "__main__":
    main()
