"""What the export command tells: the choice beside what it beats, in lines of a terminal or as one JSON object."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.chains import describe_chain
from pipeline.model_rows import SHOWN_KEY, number, records

if TYPE_CHECKING:
    from pipeline.choice import Choice
    from pipeline.export_folder import Exported
    from pipeline.study_results import StudyResults

WIDTH = 80


def told(choice: Choice, results: StudyResults) -> list[str]:
    """The choice in lines of at most 80 columns: figures beside what it beats, why, and the runner-up."""
    teacher = results.measured[results.measured["stage"].eq("baseline")]
    shown: list[tuple[str, Mapping[str, Any]]] = [("chosen", choice.row)]
    if choice.runner_up is not None:
        shown.append(("runner-up", choice.runner_up))
    if len(teacher) and choice.row["stage"] != "baseline":
        shown.append(("teacher", records(teacher)[0]))
    head = f"{'':<10} {'model':<8}  {'F1 val':>6}  {'F1 test':>7}  {'MB':>7}  {'ms':>7}  {'x faster':>8}  verdict"
    lines = [head, *(_line(name, row) for name, row in shown)]
    lines += _wrapped(f"chosen: {describe_chain(choice.row)}, {choice.reason}")
    on_test = choice.row.get("test_safety_verdict") or "not judged"
    if on_test != choice.row.get("safety_verdict"):
        lines += _wrapped(f"on validation it is {choice.row.get('safety_verdict') or 'not judged'}, on test {on_test}")
    if choice.runner_up is not None:
        key = choice.runner_up["model_key"][:SHOWN_KEY]
        lines += _wrapped(f"runner-up: {key}, {describe_chain(choice.runner_up)}: {choice.runner_up_reason}")
    return lines


def _line(name: str, row: Mapping[str, Any]) -> str:
    def figure(column: str, form: str) -> str:
        value = number(row, column)
        return "-" if value is None else format(value, form)

    return (
        f"{name:<10} {row['model_key'][:SHOWN_KEY]}  {figure('f1_macro', '.4f'):>6}"
        f"  {figure('test_f1_macro', '.4f'):>7}  {figure('model_size_mb', '.2f'):>7}"
        f"  {figure('latency_mean_ms', '.3f'):>7}  {figure('speedup_factor', '.1f'):>8}"
        f"  {row.get('safety_verdict') or '-'}"
    )


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def summary(to: Path, choice: Choice, done: Exported, unsafe: Sequence[str], following: str) -> dict[str, Any]:
    """What `--json` prints."""
    return {
        "folder": str(to),
        "files": list(done.files),
        "size_bytes": done.size_bytes,
        "reason": choice.reason,
        "chosen": _figures(choice.row),
        "runner_up": None if choice.runner_up is None else _figures(choice.runner_up),
        "warnings": list(unsafe),
        "comments_compared": done.comparison and done.comparison.comments,
        "largest_difference": done.comparison and done.comparison.largest_difference,
        "labels_differ": done.comparison and done.comparison.labels_differ,
        "next": following,
    }


def _figures(row: Mapping[str, Any]) -> dict[str, Any]:
    names: tuple[str, ...] = ("f1_macro", "test_f1_macro", "model_size_mb", "latency_mean_ms", "speedup_factor")
    names += ("safety_verdict", "test_safety_verdict")
    return {"model_key": row["model_key"], "chain": describe_chain(row), **{name: row.get(name) for name in names}}
