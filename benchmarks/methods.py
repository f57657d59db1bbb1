"""Every method of every stage, one at a time, on one teacher: what it costs in accuracy, and what it gives.

    python benchmarks/methods.py STUDY.yaml --set data.path=FILE.csv --set teacher.model=FOLDER

The distillation methods teach the same student. The pruning and quantization methods start from the student that the
logits have taught. Each is run with several seeds of its own stage; `none` of a group is the same model without the
method, and a method that loses to it at equal size is marked.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from evaluation.evaluator import CompressionEvaluator
from pipeline.artifact import Artifact
from pipeline.config import DistilConfig, PruneConfig, QuantizeConfig
from pipeline.stages import distil, prune, quantize
from pipeline.storage import open_store
from search.start import checked
from search.workbench import Workbench

NGRAM = {"method": "logit", "student": "ngram", "alpha": 0.9}
NARROW = {"method": "logit", "width": 192}
STUDENTS: dict[str, dict[str, Any]] = {
    "none (labels alone)": {"method": "logit", "alpha": 0.0},
    "logit": {"method": "logit"},
    "logit, out of fold": {"method": "logit", "teacher_logits": "out_of_fold"},
    "logit, focal loss": {"method": "logit", "loss": "focal"},
    "logit, class weights": {"method": "logit", "class_weights": True},
    "hidden": {"method": "hidden"},
    "attention": {"method": "attention"},
    "multi_level": {"method": "multi_level"},
}
OTHER_STUDENTS: dict[str, dict[str, Any]] = {
    "n-grams: none (labels alone)": {**NGRAM, "alpha": 0.0},
    "n-grams: logit": NGRAM,
    "n-grams: logit, out of fold": {**NGRAM, "teacher_logits": "out_of_fold"},
    "half as wide: none (labels alone)": {**NARROW, "alpha": 0.0},
    "half as wide: logit": NARROW,
}
PRUNING: dict[str, dict[str, Any]] = {
    "none": {"method": "none"},
    "magnitude 50 %": {"method": "magnitude"},
    "magnitude 50 %, global": {"method": "magnitude", "granularity": "global"},
    "wanda 50 %": {"method": "wanda"},
    "gradual 50 %": {"method": "gradual"},
    "structured 30 %, taylor": {"method": "structured"},
    "structured 30 %, activation": {"method": "structured", "importance": "activation"},
    "vocabulary": {"method": "vocabulary", "minimum_count": 2},
    "vocabulary+structured": {"method": "vocabulary+structured", "minimum_count": 2},
}
QUANTIZATION: dict[str, dict[str, Any]] = {
    "none": {"method": "none"},
    "fp16": {"method": "fp16"},
    "int8_dynamic": {"method": "int8_dynamic"},
    "int8_static": {"method": "int8_static"},
    "int8_qat": {"method": "int8_qat"},
    "int4": {"method": "int4"},
}


@dataclass(frozen=True)
class Laboratory:
    """A teacher, its data, and the settings that all methods share."""

    bench: Workbench
    teacher: Artifact
    layers: int
    epochs: int

    def student(self, settings: dict[str, Any], seed: int) -> Artifact:
        """The student of these settings."""
        shared = {"layers": self.layers, "epochs": self.epochs, "alpha": 0.9, "seed": seed}
        return self.run(distil, DistilConfig(**shared | settings), self.teacher)

    def pruned(self, settings: dict[str, Any], seed: int) -> Artifact:
        """The first student by logits, pruned."""
        config = PruneConfig(**{"alpha": 0.9, "seed": seed} | settings)
        return self.run(prune, config, self.student(STUDENTS["logit"], 0), self.teacher)

    def quantized(self, settings: dict[str, Any], seed: int) -> Artifact:
        """The first student by logits, quantized."""
        config = QuantizeConfig(**({"alpha": 0.9, "seed": seed} | settings))
        return self.run(quantize, config, self.student(STUDENTS["logit"], 0), self.teacher)

    def run(self, stage: Any, config: Any, *models: Artifact) -> Artifact:
        """The artifact of a stage."""
        return self.bench.store.run(stage, config, self.bench.data, *models)


def main() -> None:
    """Print a table for each stage."""
    arguments = parsed()
    config, data = checked(arguments.study, arguments.overrides, resume=False)
    torch.set_num_threads(arguments.threads)
    store = open_store(config.store_place)
    key = data.add_to(store).key
    bench = Workbench.open(config, key)
    laboratory = Laboratory(bench, bench.teacher(), arguments.layers, arguments.epochs)
    evaluator = bench.evaluator(laboratory.teacher)
    rows = list(measured(laboratory, evaluator, arguments.seeds))
    teacher = laboratory.teacher
    f1, size = evaluator.classification(teacher, "validation")["f1_macro"], evaluator.size(teacher)["model_size_mb"]
    about = (
        f"Teacher: macro F1 {f1:.4f}, {size:.1f} MB. Students made of it have {arguments.layers} layers and learn "
        f"for {arguments.epochs} epochs; means over {len(arguments.seeds)} seeds on validation, {arguments.threads} "
        f"thread{'s' * (arguments.threads > 1)}, speed-ups against the teacher."
    )
    show(rows, about, arguments.markdown)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")


def measured(laboratory: Laboratory, evaluator: CompressionEvaluator, seeds: list[int]) -> Iterator[dict[str, Any]]:
    """A row for each method."""
    students = {**STUDENTS, **OTHER_STUDENTS}
    if not (laboratory.teacher.path / "logits_train_out_of_fold.npy").is_file():
        students = {name: settings for name, settings in students.items() if "out of fold" not in name}
    groups = (
        ("distil", students, laboratory.student),
        ("prune", PRUNING, laboratory.pruned),
        ("quantize", QUANTIZATION, laboratory.quantized),
    )
    tasks = [(stage, name, settings, make) for stage, methods, make in groups for name, settings in methods.items()]
    nones: dict[str, dict[str, Any]] = {}
    for stage, name, settings, make in track(tasks, "methods"):
        models = [make(settings, seed) for seed in seeds]
        scores = [float(evaluator.classification(model, "validation")["f1_macro"]) for model in models]
        speed = evaluator.speed(models[0])
        row = {
            "stage": stage,
            "method": name,
            "f1_macro_mean": float(np.mean(scores)),
            "f1_macro_std": float(np.std(scores, ddof=1)) if len(scores) > 1 else 0.0,
            "model_size_mb": evaluator.size(models[0])["model_size_mb"],
            **{end: speed[f"speedup_{end}"] for end in ("factor", "low", "high")},
            "train_seconds": float(np.mean([model.seconds for model in models]))
            if settings["method"] != "none"
            else 0.0,
        }
        group = f"{stage} {name.partition(':')[0] if ':' in name else ''}"
        if "none" in name:
            nones[group] = row
        equal = abs(row["model_size_mb"] / nones[group]["model_size_mb"] - 1) < 0.02
        gained = row["f1_macro_mean"] - nones[group]["f1_macro_mean"]
        yield row | {"gained": gained, "equal_size": equal}


HEADINGS = ("method", "macro F1 (mean ± std)", "against none", "MB", "speed-up [95 %]", "seconds")


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    """A method's row in words, as `HEADINGS` name them."""
    loses = ", loses to none" if row["equal_size"] and row["gained"] < 0 else ""
    return (
        row["method"],
        f"{row['f1_macro_mean']:.4f} ± {row['f1_macro_std']:.4f}",
        "" if row["gained"] == 0 else f"{row['gained']:+.4f}{loses}",
        f"{row['model_size_mb']:.2f}",
        f"{row['factor']:.1f} [{row['low']:.1f}, {row['high']:.1f}]",
        f"{row['train_seconds']:.1f}",
    )


def show(rows: list[dict[str, Any]], about: str, markdown: Path | None) -> None:
    """A table a stage; in a Markdown file too, where one is named."""
    console, written = Console(width=150), ["# Every method, one at a time", "", about, ""]
    console.print(about)
    for stage in dict.fromkeys(row["stage"] for row in rows):
        told = [cells(row) for row in rows if row["stage"] == stage]
        table = Table(*HEADINGS, title=stage)
        for line in told:
            table.add_row(*line)
        console.print(table)
        ruled = [(f"`{stage}`", *HEADINGS[1:]), ("---",) * len(HEADINGS), *told]
        written += [*(f"| {' | '.join(line)} |" for line in ruled), ""]
    if markdown:
        markdown.write_text("\n".join(written).rstrip() + "\n", encoding="utf-8")


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="study file with data and teacher")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    parser.add_argument("--layers", type=int, default=2, help="layers of the student")
    parser.add_argument("--epochs", type=int, default=3, help="epochs of the student")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=2, help="threads of training")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument("--markdown", type=Path, help="write the tables here too")
    return parser.parse_args()


if __name__ == "__main__":
    main()
