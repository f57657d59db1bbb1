"""What the terminal shows when a study has ended: the front as a table, the files, and what to do next."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pandas as pd
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from evaluation.records import plain_value
from pipeline.chains import describe_chain
from pipeline.model_rows import DROPS, SHOWN_KEY, closest
from pipeline.study_results import every_model
from search.config import StudyConfig
from search.deployable import folder_of
from search.ending import Outcome

CLOSEST = 3
FILES = {
    "report.html": "the page to review: open it in a browser, no network needed",
    "front.pdf": "the Pareto plot (front.png too)",
    "front.tex": "tables for a paper: front, stages.tex, safety.tex",
    "trials.parquet": "every measured model, a row each",
    "front.parquet": "those on the front, with figures on the test split",
}
FIGURES = ("f1_macro", "test_f1_macro", "model_size_mb", "speedup_factor", "latency_mean_ms")
NUMBERS = {"F1 val", "F1 test", "MB", "× faster"}


def show(outcome: Outcome, config: StudyConfig, console: Console) -> None:
    """Print the front, the closest misses when nothing is safe, where the results lie, and what to type next."""

    def say(line: str) -> None:
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    console.print(front_table(outcome.front, outcome.recommended))
    if outcome.finished and outcome.recommended.empty:
        say("no compressed model is safe; the closest ones:")
        limits = {name: getattr(config.safety, f"max_{name}") for name in DROPS}
        for row, missed in closest(every_model(outcome.front, outcome.trials), limits)[:CLOSEST]:
            say(f"  {row['model_key'][:SHOWN_KEY]} {describe_chain(row)}: {missed}")
    folder = shortest(config.folder)
    written = {file.name for file in outcome.files}
    told = [(name, what) for name, what in FILES.items() if name in written]
    say(f"results, {len(written)} files in {folder}:")
    for name, what in told:
        say(f"  {name:<16} {what}")
    ready = [key for key in outcome.recommended["model_key"] if folder_of(config, key).is_dir()]
    if ready:
        say(f"  {'models/':<16} folders to deploy: each of the {len(ready)} with a star, under its key")
    if not outcome.recommended.empty:
        target = shlex.quote(str(folder.with_name(f"{config.study}-model")))
        say("next: a model to deploy (knee, smallest, fastest, most_accurate, or a key):")
        say(f"  python -m pipeline.export {shlex.quote(str(folder))} knee --to {target}")


def as_json(outcome: Outcome, config: StudyConfig) -> str:
    """The end of a study for scripts: its folder, whether it is finished, and the front; unknown figures are null."""
    names = ("model_key", "stage", *FIGURES, "safety_verdict", "test_safety_verdict")
    recommended = set(outcome.recommended["model_key"])
    front = [
        {name: plain_value(row.get(name)) for name in names}
        | {"chain": describe_chain(row), "recommended": row["model_key"] in recommended}
        for row in plain_rows(outcome.front)
    ]
    told = {
        "study": config.study,
        "folder": str(config.folder),
        "finished": outcome.finished,
        "models": int(outcome.trials["model_key"].nunique()),
        "front": front,
    }
    return json.dumps(told, ensure_ascii=False, allow_nan=False)


def front_table(front: pd.DataFrame, recommended: pd.DataFrame) -> Table:
    """The front, smallest model first; a star marks what can be recommended."""
    caption = "★ safe on validation, not unsafe on test"
    plain: dict[str, Any] = {"box": box.SIMPLE_HEAD, "pad_edge": False, "collapse_padding": True}
    table = Table(title="Pareto front", caption=caption, title_justify="left", **plain)
    for name in ("", "model", "chain", "F1 val", "F1 test", "MB", "× faster", "verdict"):
        table.add_column(name, justify="right" if name in NUMBERS else "left", overflow="fold", no_wrap=name != "chain")
    for row in plain_rows(front):
        table.add_row(
            "★" if row["model_key"] in set(recommended["model_key"]) else "",
            row["model_key"][:SHOWN_KEY],
            escape(describe_chain(row)),
            f"{row['f1_macro']:.3f}",
            f"{row['test_f1_macro']:.3f}" if "test_f1_macro" in row else "",
            f"{row['model_size_mb']:.2f}",
            f"{row['speedup_factor']:#.3g}".rstrip("."),
            str(row["safety_verdict"]),
        )
    return table


def plain_rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows as dictionaries by column name."""
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]


def shortest(file: Path) -> Path:
    """The path from here where the file lies below, else the whole one."""
    here = Path.cwd()
    return file.resolve().relative_to(here) if file.resolve().is_relative_to(here) else file
