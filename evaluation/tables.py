r"""LaTeX tables of a study.

Each table is a file that works both ways: `pdflatex -jobname=table front.tex` makes a page of exactly the table's size,
and `\input{front}` in a paper (with `\usepackage{booktabs}`) gives the bare tabular, to be put into a float. Without a
job name the page would be `front.pdf`, and replace the figure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from evaluation.escape import latex
from evaluation.records import plain_value
from pipeline.chains import TIMES, describe_chain

STAR = "\u2605"
_STAGE_TITLES = {
    "baseline": "Teacher",
    "after_kd": "After distillation",
    "after_pruning": "After pruning",
    "after_quantization": "After quantization",
    "classical": "Classical floor",
}
_KEY_LENGTH = 8

# \@nodocument is \relax from \begin{document} on: the file is then being \input, and only the tabular counts.
_BEGIN = r"""% Compiles alone: pdflatex -jobname=table THIS_FILE
% (the job name keeps a figure front.pdf beside front.tex whole);
% or \input it in a document that has \usepackage{booktabs}.
\expandafter\ifx\csname @nodocument\endcsname\relax
  \def\paretobegin{}%
  \def\paretoend{}%
\else
  \documentclass{article}
  \usepackage[T1]{fontenc}
  \IfFileExists{lmodern.sty}{\usepackage{lmodern}}{}
  \usepackage{booktabs}
  \pagestyle{empty}
  % A page as large as the table, so that no row or column is cut.
  \def\paretobegin{\begin{document}\setbox0\hbox\bgroup}
  \def\paretoend{\egroup
    \setbox0\vbox{\hbox{CAPTION}\vskip 1ex \box0}%
    \pdfpagewidth\dimexpr\wd0+2cm\relax \pdfpageheight\dimexpr\ht0+\dp0+2cm\relax
    \hoffset\dimexpr1cm-1in\relax \voffset\hoffset \shipout\box0 \end{document}}
\fi
\paretobegin%
"""


def generate_latex_table(
    frame: pd.DataFrame,
    columns: Mapping[str, str] | Sequence[str] | None = None,
    *,
    caption: str = "",
    notes: Sequence[str] = (),
    decimals: int = 3,
) -> str:
    r"""`frame` as a booktabs table that compiles alone and can be \input into a paper.

    All text is escaped: see `escape.latex`. Numbers are right-aligned, nulls are dashes.

    Args:
        frame: one table row per row.
        columns: column -> heading, or the columns that head themselves; all by default.
        caption: printed above the table when the file is compiled alone; a paper brings its own.
        notes: lines below the table, each as one line.
        decimals: digits after the point of numbers that are not whole by type.

    Raises:
        ValueError: a column is not in `frame`, or there is no column.
    """
    names = list(frame.columns) if columns is None else list(columns)
    headings = columns if isinstance(columns, Mapping) else dict(zip(names, names, strict=True))
    missing = [name for name in names if name not in frame.columns]
    if missing or not names:
        raise ValueError(f"columns {missing or '(none)'}: not in the table (has: {', '.join(map(str, frame.columns))})")
    alignment = "".join("r" if _is_numeric(frame[name]) else "l" for name in names)
    body = [_row([_cell(frame[name].iloc[i], decimals) for name in names]) for i in range(len(frame))]
    if not body:
        body = [_across("(no rows)", len(names))]
    lines = [
        rf"\begin{{tabular}}{{@{{}}{alignment}@{{}}}}",
        r"\toprule",
        _row([latex(headings[name]) for name in names]),
        r"\midrule",
        *body,
        r"\bottomrule",
        *(_across(note, len(names)) for note in notes),
        r"\end{tabular}%",
        r"\paretoend%",
    ]
    return _BEGIN.replace("CAPTION", latex(caption)) + "\n".join(lines) + "\n"


def front_table(front: pd.DataFrame, *, caption: str = "") -> str:
    """The rows of `front.parquet` that are on either front, best macro F1 first, each model once."""
    on_either = _flag(front, "on_front") | _flag(front, "on_safe_front")
    shown = front[on_either].drop_duplicates("model_key").sort_values("f1_macro", ascending=False, kind="stable")
    records = _records(shown)
    columns: dict[str, list[Any]] = {
        "": [STAR if row.get("on_safe_front") is True else "" for row in records],
        "Model": [describe_chain(row) for row in records],
        "Key": [str(row["model_key"])[:_KEY_LENGTH] for row in records],
        "Macro F1": _numbers(records, "f1_macro"),
        "Macro F1 (test)": _numbers(records, "test_f1_macro"),
        "Size (MB)": _numbers(records, "model_size_mb"),
        "Download (MB)": _numbers(records, "download_size_mb"),
        "Speed-up": [_interval(row) for row in records],
        "Verdict": [plain_value(row["safety_verdict"]) for row in records],
        "Verdict (test)": [plain_value(row.get("test_safety_verdict")) for row in records],
        "F1 drop": [_bounded(row, "f1_drop") for row in records],
        "Critical F1 drop": [_bounded(row, "critical_f1_drop") for row in records],
        "Critical recall drop": [_bounded(row, "critical_recall_drop") for row in records],
    }
    notes = (
        f"{STAR} on the front of the safe models. Speed-up over the teacher, paired, with its 95 % interval.",
        "Drops against the teacher on validation, in parentheses their upper confidence bounds.",
    )
    return generate_latex_table(pd.DataFrame(columns), caption=caption, notes=notes)


def stages_table(chain: pd.DataFrame, critical_label: str, *, caption: str = "") -> str:
    """The stages of one chain, in the order of its rows."""
    records = _records(chain)
    columns: dict[str, list[Any]] = {
        "Stage": [_STAGE_TITLES.get(row["stage"], row["stage"]) for row in records],
        "Accuracy": _numbers(records, "accuracy_exact"),
        "Macro F1": _numbers(records, "f1_macro"),
        f"F1 ({critical_label})": _numbers(records, "critical_f1"),
        "Size (MB)": _numbers(records, "model_size_mb"),
        "Speed (ms)": _numbers(records, "latency_mean_ms"),
        "Speed-up": [_interval(row) for row in records],
    }
    notes = [f"Model: {describe_chain(records[-1])}."] if records else []
    notes.append("Speed: mean of a single request. Speed-up over the teacher, paired, with its 95 % interval.")
    return generate_latex_table(pd.DataFrame(columns), caption=caption, notes=notes)


def safety_table(
    front: pd.DataFrame, critical_label: str, references: pd.DataFrame | None = None, *, caption: str = ""
) -> str:
    """What each model of the front loses against the teacher on validation and on test, and what follows from it.

    Args:
        front: rows of `front.parquet`; those on either front are shown, smallest bound of the critical recall's drop
            on validation first.
        critical_label: the label of the critical columns.
        references: further rows to show below them, such as the classical floor; models already shown are left out.
        caption: printed above the table when the file is compiled alone.
    """
    on_either = front[_flag(front, "on_front") | _flag(front, "on_safe_front")].drop_duplicates("model_key")
    if "critical_recall_drop_upper" in on_either.columns:
        on_either = on_either.sort_values("critical_recall_drop_upper", kind="stable")
    records = _records(on_either)
    if references is not None and not references.empty:
        shown = {row["model_key"] for row in records}
        records += [row for row in _records(references.drop_duplicates("model_key")) if row["model_key"] not in shown]
    titles = {
        "f1_drop": "Macro F1",
        "critical_f1_drop": f"F1 ({critical_label})",
        "critical_recall_drop": f"Recall ({critical_label})",
    }
    columns: dict[str, Any] = {
        "Model": [describe_chain(row) for row in records],
        "Key": [str(row["model_key"])[:_KEY_LENGTH] for row in records],
    }
    for prefix, split in (("", ""), ("test_", " (test)")):
        columns |= {title + split: [_bounded(row, prefix + drop) for row in records] for drop, title in titles.items()}
        columns["Verdict" + split] = [plain_value(row.get(f"{prefix}safety_verdict")) for row in records]
        needed = [plain_value(row.get(f"{prefix}positives_needed")) for row in records]
        columns["Needed" + split] = pd.array(needed, dtype="Int64")
    notes = (
        "Drops against the teacher, in parentheses their upper confidence bounds: first on validation, then on test.",
        f"Needed: comments labelled {critical_label} at which models that differ at these rates would be found safe.",
    )
    return generate_latex_table(pd.DataFrame(columns), caption=caption, notes=notes)


def presets_table(presets: pd.DataFrame, critical_label: str, *, caption: str = "") -> str:
    """The best model of each preset side by side, from `chains.best_of_presets`."""
    records = _records(presets)
    columns: dict[str, list[Any]] = {
        "Preset": [row["preset"] for row in records],
        "Model": [row["chain"] for row in records],
        "Accuracy": _numbers(records, "accuracy_exact"),
        "Macro F1": _numbers(records, "f1_macro"),
        f"F1 ({critical_label})": _numbers(records, "critical_f1"),
        "Size (MB)": _numbers(records, "model_size_mb"),
        "Speed (ms)": _numbers(records, "latency_mean_ms"),
        "Speed-up": [_interval(row) for row in records],
        "Verdict": [plain_value(row["safety_verdict"]) for row in records],
    }
    note = "The best trade-off of each preset. Speed-up over the teacher, paired, with its 95 % interval."
    return generate_latex_table(pd.DataFrame(columns), caption=caption, notes=[note])


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]


def _row(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _across(text: str, columns: int) -> str:
    return rf"\multicolumn{{{columns}}}{{@{{}}l@{{}}}}{{\footnotesize {latex(text)}}} \\"


def _cell(value: Any, decimals: int) -> str:
    value = plain_value(value)
    if value is None:
        return "--"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return latex(f"{value:.{decimals}f}".replace("-", "\u2212"))
    return latex(value).replace("-", "$-$") if isinstance(value, int) else latex(value)


def _is_numeric(column: pd.Series[Any]) -> bool:
    return pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)


def _flag(frame: pd.DataFrame, name: str) -> pd.Series[bool]:
    """The boolean column `name`, False where null; all False when there is none, as in an empty front."""
    if name not in frame.columns:
        return pd.Series(False, index=frame.index)
    return frame[name].eq(True).fillna(False).astype(bool)


def _numbers(records: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    values = (plain_value(row.get(name)) for row in records)
    return [float("nan") if value is None else float(value) for value in values]


def _interval(row: Mapping[str, Any]) -> str | None:
    factor, low, high = (plain_value(row.get(f"speedup_{end}")) for end in ("factor", "low", "high"))
    if factor is None:
        return None
    return f"{factor:.2f}{TIMES}" + ("" if low is None or high is None else f" [{low:.2f}, {high:.2f}]")


def _bounded(row: Mapping[str, Any], name: str) -> str | None:
    """`0.012 (0.030)`: a drop and its upper bound."""
    drop, upper = plain_value(row.get(name)), plain_value(row.get(f"{name}_upper"))
    if drop is None:
        return None
    return f"{drop:.3f}".replace("-", "\u2212") + ("" if upper is None else f" ({upper:.3f})".replace("-", "\u2212"))
