"""The head of the page: what was searched, which models can be recommended, and how far to trust validation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from evaluation.front import knee
from evaluation.page.columns import equals, numbers, truth
from evaluation.page.markup import escape_html, isolated, number, signed, size, speed_up, table, verdict
from evaluation.page.models import BEST_MODELS, PageModels
from evaluation.records import plain_value
from evaluation.study_files import Study

_CHOICES = ("Balanced (knee)", "Smallest", "Fastest")


def facts(study: Study, models: PageModels) -> str:
    """Names and counts of the study, and whether its comments are the generated sample."""
    trials = study.trials
    values = {
        "Preset": isolated(study.preset),
        "Critical label": isolated(study.critical_label),
        "Trials": f"{study.trials_ended:,}",
        "Models measured": f"{models.measured:,}",
        "Failed": f"{int(equals(trials, 'status', 'failed').sum()):,}",
        "Stopped as unsafe": f"{int(equals(trials, 'status', 'stopped_unsafe').sum()):,}",
        "On the front": f"{int(truth(models.rows, 'on_front').sum()):,}",
        "On the safe front": f"{int(truth(models.rows, 'on_safe_front').sum()):,}",
    }
    listed = "".join(f"<div><dt>{escape_html(name)}</dt><dd>{value}</dd></div>" for name, value in values.items())
    notice = ""
    if study.synthetic:
        notice = (
            '<p class="notice"><strong>Synthetic sample.</strong> The comments are generated: the figures show that '
            "the search works, not how well a model guards real people.</p>"
        )
    return f'{notice}<dl class="facts">{listed}</dl>'


def recommended(models: PageModels) -> dict[str, int]:
    """Positions of the balanced, the smallest and the fastest model to take; empty when there is none.

    Only compressed models on the safe front that are not unsafe on test count, and none before test was used.
    """
    rows = models.rows
    eligible = truth(rows, "on_safe_front") & ~equals(rows, "stage", "baseline")
    eligible &= np.isfinite(numbers(rows, "test_f1_macro"))
    if eligible.any():
        eligible &= ~equals(rows, "test_safety_verdict", "unsafe")
    if not eligible.any():
        return {}
    at = np.flatnonzero(eligible)
    sizes, ratio = numbers(rows, "model_size_mb")[at], 1 / numbers(rows, "speedup_factor")[at]
    balanced = knee(np.column_stack([-numbers(rows, "f1_macro")[at], sizes, ratio]))
    places = (balanced, int(sizes.argmin()), int(ratio.argmin()))
    return {name: int(at[place]) for name, place in zip(_CHOICES, places, strict=True)}


def recommended_table(models: PageModels) -> str:
    """The recommended models, or why there is none."""
    chosen = recommended(models)
    rows = models.rows
    if not chosen:
        tested = bool(np.isfinite(numbers(rows, "test_f1_macro")).any())
        why = (
            "no compressed model is safe on validation and not unsafe on test"
            if tested
            else ("the test split has not been used yet: that happens once, when the search has ended")
        )
        return f"<p>None: {why}.</p>"
    cells = []
    for name, position in chosen.items():
        row = {str(column): plain_value(value) for column, value in rows.iloc[position].items()}
        cells.append(
            (
                name,
                models.chains[position],
                number(row["f1_macro"]),
                number(row["test_f1_macro"]),
                size(row["model_size_mb"]),
                speed_up(row),
                verdict(row.get("test_safety_verdict")),
                str(row["model_key"])[:8],
            )
        )
    headings = ("Choice", "Model", "F1 val", "F1 test", "MB", "Speed-up", "Verdict test", "Key")
    caption = "Safe on validation and not unsafe on test; the knee is the front\u2019s point nearest to the ideal"
    numeric = {"F1 val", "F1 test", "MB", "Speed-up"}
    return table(headings, cells, caption=caption, numeric=numeric, models=list(chosen.values()))


def drawn_note(models: PageModels) -> str:
    """What the plots leave out, in words; empty when they show every model."""
    notes = []
    if models.left_out:
        notes.append(
            f"{len(models.rows):,} of {models.measured:,} models are drawn: every model on a front, the "
            f"{BEST_MODELS} best trade-offs, and an even share of the others; {models.left_out:,} models that are on "
            "no front are left out (all are in trials.parquet)."
        )
    if models.undrawable:
        notes.append(f"{models.undrawable:,} models have no size or no macro F1, and are not drawn.")
    return f'<p class="note" id="left-out">{escape_html(" ".join(notes))}</p>' if notes else ""


def winners_curse(models: PageModels, front: Sequence[int]) -> str:
    """The mean gap of the models that the search has chosen; the teacher's beside it, which nothing has chosen."""
    rows = models.rows
    gap = numbers(rows, "f1_macro") - numbers(rows, "test_f1_macro")
    references = rows["stage"].isin(["baseline", "classical"]).to_numpy(dtype=np.bool_)
    chosen = [position for position in front if np.isfinite(gap[position]) and not references[position]]
    why = (
        "Winner\u2019s curse: the front was chosen on validation, so its models look a little better there than they "
        "are; the test split was used once, for its figures in this page only."
    )
    if not chosen:
        return f'<p class="note">{why} No compressed model of the front has figures on test yet.</p>'
    beside = ""
    if models.teacher is not None and np.isfinite(gap[models.teacher]):
        beside = f"; the teacher, which was not chosen by it, has {signed(gap[models.teacher], 4)}"
    many = f"{len(chosen)} compressed model{'' if len(chosen) == 1 else 's'}"
    return (
        f'<p class="note">{why} Mean gap of macro F1, validation less test, over {many}: '
        f"<strong>{signed(gap[chosen].mean(), 4)}</strong>{beside}. Judge a model by its test figures.</p>"
    )
