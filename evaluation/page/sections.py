"""The page's parts that need no JavaScript: tables and notes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd

from evaluation.gained import F1_MARGIN, UNIT
from evaluation.page.columns import equals, numbers, truth
from evaluation.page.costs import reuse, stage_costs
from evaluation.page.harm import flips_section, noise_section
from evaluation.page.history import History
from evaluation.page.markup import NOTHING, duration, isolated, number, signed, size, speed_up, table, verdict
from evaluation.page.models import BEST_MODELS, DROPS, PageModels
from evaluation.page.provenance import data_section, environment_section
from evaluation.page.summary import drawn_note, facts, recommended_table, winners_curse
from evaluation.records import plain_value
from evaluation.study_files import Study
from pipeline.chains import TIMES

STAGE_TITLES = {
    "baseline": "teacher",
    "after_kd": "distillation",
    "after_pruning": "pruning",
    "after_quantization": "quantization",
    "classical": "classical floor",
}
_DROP_TITLES = dict(zip(DROPS, ("Macro F1", "Critical F1", "Critical recall"), strict=True))
_FILES = (".parquet", ".tex", ".csv", ".json", ".pdf", ".png", ".yaml")
_MOST_ERRORS = 20


def page_sections(study: Study, models: PageModels, history: History | None, path: Path) -> dict[str, str]:
    """The template's blocks by name, as HTML; `path` is where the page goes."""
    front = models.chosen("on_front", "on_safe_front").tolist()
    return {
        "heading": isolated(study.name),
        "summary": facts(study, models),
        "recommended": recommended_table(models),
        "drawn": drawn_note(models),
        "front": _front_table(models, front),
        "curse": winners_curse(models, front),
        "safety": _safety_table(study, models, front),
        "flips": flips_section(study, models),
        "noise": noise_section(study, models),
        "stages": _stages_table(study.trials),
        "reuse": _reuse_table(study.trials),
        "history": _history_note(history, study.trials_ended),
        "models": _models_table(models),
        "failures": _failures(study.trials),
        "data_summary": data_section(study.data),
        "environment": environment_section(study.environment),
        "files": _files(path),
    }


def _front_table(models: PageModels, front: Sequence[int]) -> str:
    rows = models.rows
    test = numbers(rows, "test_f1_macro")
    gap = numbers(rows, "f1_macro") - test
    cells = []
    for position, row in zip(front, _records(rows, front), strict=True):
        cells.append(
            (
                models.chains[position],
                "\u2605" if row.get("on_safe_front") is True else "",
                number(row["f1_macro"]),
                number(test[position]),
                signed(gap[position]),
                size(row["model_size_mb"]),
                speed_up(row),
                verdict(row["safety_verdict"]),
                verdict(row.get("test_safety_verdict")) if np.isfinite(test[position]) else None,
                str(row["model_key"])[:8],
            )
        )
    headings = ("Model", "\u2605", "F1 val", "F1 test", "Gap", "MB", "Speed-up", "Verdict val", "Verdict test", "Key")
    return table(
        headings,
        cells,
        caption="Pareto front, best macro F1 first (\u2605: on the front of the safe models)",
        numeric={"\u2605", "F1 val", "F1 test", "Gap", "MB", "Speed-up"},
        models=front,
        classes="sortable",
    )


def _safety_table(study: Study, models: PageModels, front: Sequence[int]) -> str:
    headings = ["Model", "Split", "Verdict"]
    headings += [f"{title} drop (upper)" for title in _DROP_TITLES.values()]
    headings.append("Positives needed")
    cells: list[tuple[object, ...]] = []
    positions: list[int | None] = []
    for position, row in zip(front, _records(models.rows, front), strict=True):
        for prefix, split in (("", "validation"), ("test_", "test")):
            if prefix and plain_value(row.get("test_safety_verdict")) is None:
                continue
            drops = [_bounded(row, f"{prefix}{name}") for name in _DROP_TITLES]
            needed = number(row.get(f"{prefix}positives_needed"), 0)
            cells.append((models.chains[position], split, verdict(row.get(f"{prefix}safety_verdict")), *drops, needed))
            positions.append(position)
    return table(
        headings,
        cells,
        caption=f"Drops against the teacher, models of the front; critical label: {study.critical_label}",
        numeric=headings[3:],
        models=positions,
    )


def _stages_table(trials: pd.DataFrame) -> str:
    headings = ("Stage", "Method", "Models", "Time", "Macro F1", "Size", "Speed")
    cells = [
        (
            STAGE_TITLES[cost.stage],
            cost.method or None,
            f"{cost.models:,}",
            duration(cost.seconds) if np.isfinite(cost.seconds) else None,
            signed(cost.f1_change, 4),
            f"{TIMES}{number(cost.size_ratio)}" if np.isfinite(cost.size_ratio) else None,
            f"{TIMES}{number(cost.speed_ratio, 2)}" if np.isfinite(cost.speed_ratio) else None,
        )
        for cost in stage_costs(trials)
    ]
    caption = "Median time to build a model, and median change against the model that it was made from"
    return table(headings, cells, caption=caption, numeric=headings[2:])


def _reuse_table(trials: pd.DataFrame) -> str:
    stages = reuse(trials)
    cells = [
        (
            STAGE_TITLES[stage.stage],
            f"{stage.built:,}",
            duration(stage.built_seconds),
            f"{stage.reused:,}",
            duration(stage.saved_seconds),
        )
        for stage in stages
    ]
    built, saved = sum(stage.built_seconds for stage in stages), sum(stage.saved_seconds for stage in stages)
    sentence = (
        f"<p>Reuse saved <strong>{duration(saved)}</strong>; <strong>{duration(built)}</strong> were computed. "
        "Saved is what the models taken from the store took when they were built, in this study or an earlier one. "
        "Each model counts once, under the first trial that has it: what later trials took again comes on top.</p>"
    )
    headings = ("Stage", "Built", "Computed", "Reused", "Saved")
    return sentence + table(headings, cells, caption="Time by stage", numeric=headings[1:])


def _history_note(history: History | None, trials_ended: int) -> str:
    if history is None:
        return '<p class="note">No teacher was measured, so there is no reference point and no hypervolume.</p>'
    least, reached = number(history.reference_f1), number(history.by_trial[-1], 4)
    return (
        f'<p class="note">The volume that the models which are not unsafe dominate, in {UNIT}, as the search '
        f"counts it: from macro F1 {least}, {F1_MARGIN} below the teacher, and from the teacher\u2019s own size and "
        f"latency. After {trials_ended:,} trials: {reached}.</p>"
    )


def _models_table(models: PageModels) -> str:
    rows = models.rows
    first = truth(rows, "on_front") | truth(rows, "on_safe_front")
    score = np.nan_to_num(numbers(rows, "tradeoff_score"), nan=-np.inf)
    shown = np.lexsort((-score, ~first))[:BEST_MODELS].tolist()
    cells = [
        (
            models.chains[position],
            STAGE_TITLES.get(row["stage"], row["stage"]),
            number(row["trial"], 0),
            number(row["f1_macro"]),
            number(row["critical_f1"]),
            number(row["critical_recall"]),
            size(row["model_size_mb"]),
            speed_up(row),
            number(row["tradeoff_score"]),
            verdict(row["safety_verdict"]),
            str(row["model_key"])[:8],
        )
        for position, row in zip(shown, _records(rows, shown), strict=True)
    ]
    scores = ("Macro F1", "Critical F1", "Critical recall", "MB", "Speed-up", "Trade-off")
    headings = ("Model", "Stage", "Trial", *scores, "Verdict", "Key")
    caption = "Models on validation: the fronts first, then by trade-off score"
    note = ""
    if len(shown) < models.measured:
        note = (
            f'<p class="note" id="table-cut">{len(shown):,} of {models.measured:,} models; '
            "the rest is in trials.parquet.</p>"
        )
    return note + table(headings, cells, caption=caption, numeric={"Trial", *scores}, models=shown, classes="sortable")


def _failures(trials: pd.DataFrame) -> str:
    errors = trials.loc[equals(trials, "status", "failed"), "error"].astype(object).fillna("no message").value_counts()
    if errors.empty:
        return ""
    cells = [(str(error)[:500], f"{count:,}") for error, count in errors.head(_MOST_ERRORS).items()]
    kinds = f"the {_MOST_ERRORS} most frequent of {len(errors):,}" if len(errors) > _MOST_ERRORS else "by frequency"
    listed = table(("Error", "Rows"), cells, caption=f"Errors, {kinds}", numeric={"Rows"})
    return f'<section id="failures"><h2>What failed</h2>{listed}</section>'


def _files(path: Path) -> str:
    """Links to what lies beside the page, by name."""
    names = sorted(file.name for file in path.parent.iterdir() if file.suffix in _FILES and file.is_file())
    if not names:
        return "<p>None yet.</p>"
    links = (f'<li><a href="./{quote(name)}">{isolated(name)}</a></li>' for name in names)
    return f'<ul class="files">{"".join(links)}</ul>'


def _bounded(row: dict[str, Any], name: str) -> str:
    """`0.012 (0.030)`: a drop and its upper bound."""
    drop, upper = number(row.get(name)), number(row.get(f"{name}_upper"))
    return drop if upper == NOTHING else f"{drop} ({upper})"


def _records(rows: pd.DataFrame, positions: Iterable[int]) -> list[dict[str, Any]]:
    chosen = rows.iloc[list(positions)].to_dict("records")
    return [{str(name): plain_value(value) for name, value in row.items()} for row in chosen]
