"""The winner's curse: what is chosen for its validation figure is, on average, not as good as that figure.

The front takes the best of many noisy figures, so that part of what it shows is luck of the validation comments. The
test comments chose nothing: the gap between the two is what that luck, and thresholds tuned on validation, were worth.
Cawley and Talbot, "On Over-fitting in Model Selection and Subsequent Selection Bias in Performance Evaluation", JMLR
2010.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evaluation.records import plain_value

if TYPE_CHECKING:
    import pandas as pd


def winners_curse(front: pd.DataFrame, references: pd.DataFrame | None = None) -> dict[str, Any]:
    """How much lower macro F1 is on test than on the validation comments that chose the models.

    Args:
        front: rows of `front.parquet`; each model with both `f1_macro` and `test_f1_macro` counts, once.
        references: rows of `references.parquet`. The teacher is measured as the front is but was not chosen by the
            search, so that its gap shows how much of the front's is the difference between the two sets of comments.

    Returns:
        `gaps` (validation minus test by `model_key`; positive where test is lower), `models` (how many), `mean_gap`,
        `smallest_gap`, `largest_gap`, `teacher_gap` (None where unknown), and `sentence`, which says it in words.

    Raises:
        ValueError: `front` lacks a column.
    """
    missing = [name for name in ("model_key", "f1_macro") if name not in front.columns]
    if missing:
        raise ValueError(f"front: no column {', '.join(missing)}; give the rows of front.parquet")
    gaps = _gaps(front)
    teacher = list(_gaps(references[references["stage"].eq("baseline")]).values()) if references is not None else []
    summary: dict[str, Any] = {
        "gaps": gaps,
        "models": len(gaps),
        "mean_gap": sum(gaps.values()) / len(gaps) if gaps else None,
        "smallest_gap": min(gaps.values(), default=None),
        "largest_gap": max(gaps.values(), default=None),
        "teacher_gap": teacher[0] if teacher else None,
    }
    return {**summary, "sentence": _sentence(summary)}


def _gaps(rows: pd.DataFrame) -> dict[str, float]:
    if "test_f1_macro" not in rows.columns:
        return {}
    triples = zip(rows["model_key"], rows["f1_macro"], rows["test_f1_macro"], strict=True)
    pairs = {str(key): (plain_value(first), plain_value(second)) for key, first, second in triples}
    return {
        key: float(first) - float(second)
        for key, (first, second) in pairs.items()
        if first is not None and second is not None
    }


def _sentence(summary: dict[str, Any]) -> str:
    if not summary["models"]:
        return "The models of the front were not measured on the test comments yet: expect less than is shown here."
    mean, models = summary["mean_gap"], summary["models"]
    whose = "the one model" if models == 1 else f"the {models} models"
    what = f"Macro F1 of {whose} on the front is on average {abs(mean):.4f} {'lower' if mean > 0 else 'higher'} on test"
    text = f"{what} than on the validation comments that chose them"
    if models > 1:
        text += f" (from {-summary['largest_gap']:+.4f} to {-summary['smallest_gap']:+.4f})"
    text += ": expect the test figures. " if mean > 0 else ": no sign of luck in the choice, and no proof of none. "
    if summary["teacher_gap"] is not None:
        lower = "lower" if summary["teacher_gap"] > 0 else "higher"
        text += f"The teacher, which the search did not choose, is {abs(summary['teacher_gap']):.4f} {lower}. "
    return text + "All were tested on the same comments, so that their gaps rise and fall together."
