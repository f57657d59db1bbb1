"""Who teaches: the teacher alone, the classical floor, and their ensembles, on validation and test.

    python benchmarks/ensemble.py STUDY.yaml --set data.path=FILE.csv --set teacher.model=FOLDER

Trains the study's teacher with its folds and its generations once a seed, and an n-gram student on what the last
ensemble says. A seed is the study's: it splits the comments, too. Thresholds are tuned on validation, label by label,
alike for all.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from pipeline.config import DistilConfig
from pipeline.data import Data, load_data
from pipeline.ensemble import Member
from pipeline.runtime import load_classifier, sigmoid
from pipeline.stages import distil
from pipeline.storage import open_store
from pipeline.thresholds import best_label_thresholds, f1_macro
from search.start import checked
from search.workbench import Workbench

SPLITS = ("validation", "test")
Scores = dict[str, list[tuple[float, float]]]


def main() -> None:
    """Print a row for each model, with its mean over the seeds."""
    arguments = parsed()
    torch.set_num_threads(arguments.threads)
    scores: Scores = {}
    for seed in arguments.seeds:
        for name, pair in of_seed(arguments.study, [*arguments.overrides, f"seed={seed}"]):
            scores.setdefault(name, []).append(pair)
            print(f"seed {seed}: {name}: {pair[0]:.4f} on validation, {pair[1]:.4f} on test", flush=True)
    show(scores)
    if arguments.json:
        arguments.json.write_text(json.dumps(scores, indent=1), encoding="utf-8")


def of_seed(study: Path, overrides: list[str]) -> Iterator[tuple[str, tuple[float, float]]]:
    """Each model's name, and its macro F1 on validation and test, of the study with these settings."""
    config, prepared = checked(study, overrides, resume=False)
    store = open_store(config.store_place)
    bench = Workbench.open(config, prepared.add_to(store).key)
    comments = load_data(bench.data.path)
    yield "classical floor", figures(comments, answers(comments, bench.classical().path))
    for generation, teacher in enumerate(bench.teachers()):
        which = f", generation {generation}" if generation else ""
        yield f"teacher{which}", figures(comments, answers(comments, teacher.path))
        yield f"ensemble{which}", figures(comments, Member.load(teacher.path).in_sample)
    for name, settings in STUDENTS.items():
        student = store.run(distil, DistilConfig(**settings, seed=config.seed), bench.data, bench.teacher())
        yield name, figures(comments, answers(comments, student.path))


TAUGHT: dict[str, Any] = {"method": "logit", "alpha": 0.9}
STUDENTS: dict[str, dict[str, Any]] = {
    "n-gram student": {**TAUGHT, "student": "ngram"},
}


def answers(comments: Data, folder: Path) -> dict[str, NDArray[np.float32]]:
    """Logits of a deployed model on validation and test."""
    classifier = load_classifier(folder, threads=2)
    return {name: classifier.predict_logits(comments.splits[name].texts) for name in SPLITS}


def figures(comments: Data, logits: dict[str, NDArray[np.float32]]) -> tuple[float, float]:
    """Macro F1 on validation and test, with the thresholds of validation."""
    thresholds = best_label_thresholds(comments.validation.labels, sigmoid(logits["validation"]))
    validation, test = (
        f1_macro(comments.splits[name].labels, (sigmoid(logits[name]) >= thresholds).astype(np.int8)) for name in SPLITS
    )
    return validation, test


def show(scores: Scores) -> None:
    """Each seed, and mean ± standard deviation; the gain is over the floor of the same seed, on test."""
    floor = np.array(scores["classical floor"])[:, 1]
    table = Table("model", "validation", "test", "over the floor on test", "test, seed by seed")
    for name, pairs in scores.items():
        validation, test = np.array(pairs).T
        gain = test - floor
        spread = f" ± {gain.std(ddof=1):.4f}" if len(gain) > 1 else ""
        each = ", ".join(f"{value:.4f}" for value in test)
        table.add_row(name, f"{validation.mean():.4f}", f"{test.mean():.4f}", f"{gain.mean():+.4f}{spread}", each)
    Console(width=130).print(table)


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="study file with data and teacher")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    return parser.parse_args()


if __name__ == "__main__":
    main()
