import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from evaluation.tables import front_table, generate_latex_table, safety_table, stages_table

LABEL = "50%_off & more"
NASTY = ["=1+1 <script>", 'say "hi" $x^2~ \\ {} | #', "বাংলা [2cm]", "[2cm] & *", "*-- '' ?` `` ,,", LABEL, ""]

needs_pdflatex = pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")


def compiled(folder: Path, name: str) -> str:
    """The text of the PDF of `name`.tex, or its size when there is no pdftotext; fails on any TeX error."""
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", name]
    done = subprocess.run(command, cwd=folder, capture_output=True, timeout=60)
    log = done.stdout.decode("utf-8", "replace")
    assert done.returncode == 0, log[-2000:]
    if shutil.which("pdftotext") is None:
        return str((folder / f"{name}.pdf").stat().st_size)
    text = subprocess.run(["pdftotext", "-layout", f"{name}.pdf", "-"], cwd=folder, capture_output=True, check=True)
    return text.stdout.decode()


def frame() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "text": NASTY,
            LABEL: [0.5, -0.25, None, 1.0, 2.0, 3.0, 4.0],
            "n": [1, -2, 3, 4, 5, 6, 7],
            "flag": [True, False, None, True, True, True, True],
        }
    )


def row(**changes: Any) -> dict[str, Any]:
    base = {
        "stage": "after_quantization",
        "model_key": "abcdef0123456789",
        "f1_macro": 0.8123,
        "test_f1_macro": 0.8045,
        "accuracy_exact": 0.71,
        "critical_f1": 0.61,
        "model_size_mb": 12.5,
        "download_size_mb": 9.25,
        "latency_mean_ms": 3.5,
        "speedup_factor": 2.1,
        "speedup_low": 1.94,
        "speedup_high": 2.43,
        "safety_verdict": "safe",
        "test_safety_verdict": "inconclusive",
        "f1_drop": -0.012,
        "f1_drop_upper": 0.031,
        "critical_f1_drop": 0.002,
        "critical_f1_drop_upper": None,
        "critical_recall_drop": None,
        "critical_recall_drop_upper": None,
        "distil.method": "logit",
        "distil.layers": 2,
        "prune.method": "wanda",
        "prune.sparsity": 0.5,
        "quantize.method": "int8_dynamic",
        "on_front": True,
        "on_safe_front": True,
    }
    return {**base, **changes}


def body(table: str) -> list[list[str]]:
    """The cells between \\midrule and \\bottomrule."""
    inside = table.split("\\midrule\n")[1].split("\\bottomrule")[0]
    return [line.removesuffix(" \\\\").split(" & ") for line in inside.splitlines()]


def test_cells_are_escaped_formatted_and_aligned() -> None:
    table = generate_latex_table(frame(), {"text": "Text", LABEL: LABEL, "n": "n", "flag": "flag"}, decimals=2)
    assert r"\begin{tabular}{@{}lrrl@{}}" in table
    assert r"Text & 50\%\_off \& more & n & flag \\" in table
    cells = body(table)
    assert cells[0] == [r"=1+1 \textless{}script\textgreater{}", "0.50", "1", "yes"]
    assert cells[1][1:] == ["$-$0.25", "$-$2", "no"]
    assert cells[2] == [r"{[}U+09AC U+09BE U+0982 U+09B2 U+09BE{]} {[}2cm{]}", "--", "3", "--"]


def test_columns_are_chosen_ordered_and_checked() -> None:
    table = generate_latex_table(frame(), ["n", "text"])
    assert "\nn & text \\\\\n" in table
    with pytest.raises(ValueError, match=r"\['nowhere'\]: not in the table \(has: text"):
        generate_latex_table(frame(), ["n", "nowhere"])
    with pytest.raises(ValueError, match="not in the table"):
        generate_latex_table(pd.DataFrame())


@needs_pdflatex
def test_a_table_compiles_alone_whole_however_long_and_wide(tmp_path: Path) -> None:
    long = pd.concat([frame()] * 30, ignore_index=True).assign(wide="w" * 300, last=range(210))
    table = generate_latex_table(long, caption=f"{LABEL} বাংলা", notes=["95 % of <script>"])
    (tmp_path / "table.tex").write_text(table, encoding="utf-8")
    text = compiled(tmp_path, "table")
    if not text.isdecimal():
        assert text.count('say "hi" $x^2~ \\ {} | #') == 30
        assert "209" in text
        assert "50%_off & more [U+09AC" in text
        assert "95 % of <script>" in text


@needs_pdflatex
def test_a_table_can_be_input_into_a_paper_more_than_once(tmp_path: Path) -> None:
    (tmp_path / "part.tex").write_text(generate_latex_table(frame(), caption="own", notes=["note"]), encoding="utf-8")
    paper = (
        r"\documentclass{article}\usepackage{booktabs,graphicx}\begin{document}Before"
        r"\begin{table}\centering\input{part}\caption{Theirs}\end{table}"
        r"\resizebox{0.9\linewidth}{!}{\input{part}} After\end{document}"
    )
    (tmp_path / "paper.tex").write_text(paper, encoding="utf-8")
    text = compiled(tmp_path, "paper")
    if not text.isdecimal():
        assert "Before" in text
        assert "After" in text
        assert "Table 1: Theirs" in text
        assert "own" not in text
        assert text.count("note") == 2


@needs_pdflatex
def test_front_and_stages_compile_with_nasty_names(tmp_path: Path) -> None:
    rows = [row(), row(model_key="=k_2", **{"distil.method": "<script>$_{"}), row(stage="classical", model_key="c")]
    (tmp_path / "front.tex").write_text(front_table(pd.DataFrame(rows), caption=LABEL), encoding="utf-8")
    (tmp_path / "stages.tex").write_text(stages_table(pd.DataFrame(rows), LABEL, caption="বাংলা"), encoding="utf-8")
    for name in ("front", "stages"):
        text = compiled(tmp_path, name)
        assert text.isdecimal() or "2.10× [1.94, 2.43]" in re.sub(" +", " ", text)


def test_front_shows_models_of_either_front_once_best_first() -> None:
    rows = [
        row(model_key="low", f1_macro=0.7, on_safe_front=False),
        row(model_key="high", f1_macro=0.9),
        row(model_key="high", f1_macro=0.9),
        row(model_key="neither", f1_macro=0.8, on_front=False, on_safe_front=False),
        row(model_key="safe-only", f1_macro=0.75, on_front=False),
    ]
    cells = body(front_table(pd.DataFrame(rows)))
    assert [cell[2] for cell in cells] == ["high", "safe-onl", "low"]
    assert [cell[0] for cell in cells] == [r"$\star$", r"$\star$", ""]
    chain = r"logit 2 layers $\to$ wanda 50\% $\to$ int8"
    assert cells[0][1:] == [
        chain,
        "high",
        "0.900",
        "0.804",
        "12.500",
        "9.250",
        r"2.10$\times$ {[}1.94, 2.43{]}",
        "safe",
        "inconclusive",
        "$-$0.012 (0.031)",
        "0.002",
        "--",
    ]


def test_empty_tables_are_valid() -> None:
    assert "(no rows)" in front_table(pd.DataFrame({"model_key": [], "f1_macro": []}))
    assert "(no rows)" in stages_table(pd.DataFrame(), LABEL)


def test_stages_in_the_order_given() -> None:
    chain = pd.DataFrame([row(stage="baseline", speedup_low=None), row()])
    table = stages_table(chain, LABEL)
    assert r"Stage & Accuracy & Macro F1 & F1 (50\%\_off \& more) & Size (MB) & Speed (ms) & Speed-up \\" in table
    cells = body(table)
    assert cells[0] == ["Teacher", "0.710", "0.812", "0.610", "12.500", "3.500", r"2.10$\times$"]
    assert cells[1][0] == "After quantization"


def both_splits(**changes: Any) -> dict[str, Any]:
    of_test = {"test_f1_drop": 0.02, "test_f1_drop_upper": 0.06, "test_critical_f1_drop": -0.01}
    return row(**{"critical_recall_drop": 0.01, "critical_recall_drop_upper": 0.02, **of_test, **changes})


def test_safety_of_either_front_and_its_references() -> None:
    front = [
        both_splits(
            model_key="open", safety_verdict="inconclusive", positives_needed=1234, critical_recall_drop_upper=0.04
        ),
        both_splits(model_key="safe", positives_needed=None),
        both_splits(model_key="safe", positives_needed=None),
        both_splits(model_key="neither", on_front=False, on_safe_front=False),
    ]
    floor = [both_splits(model_key="floor", stage="classical", safety_verdict="unsafe")] * 2 + [
        both_splits(model_key="safe")
    ]
    table = safety_table(pd.DataFrame(front), LABEL, pd.DataFrame(floor))
    assert r"Recall (50\%\_off \& more)" in table
    cells = body(table)
    assert [cell[1] for cell in cells] == ["safe", "open", "floor"]
    chain = r"logit 2 layers $\to$ wanda 50\% $\to$ int8"
    validation = [chain, "open", "$-$0.012 (0.031)", "0.002", "0.010 (0.040)", "inconclusive", "1234"]
    assert cells[1] == [*validation, "0.020 (0.060)", "$-$0.010", "--", "inconclusive", "--"]
    assert cells[0][5:7] == ["safe", "--"]
    assert [cells[2][0], cells[2][5]] == ["classical floor", "unsafe"]
    assert "(no rows)" in safety_table(pd.DataFrame(), LABEL)


@needs_pdflatex
def test_safety_compiles_without_a_warning(tmp_path: Path) -> None:
    rows = [both_splits(positives_needed=99), both_splits(model_key="=k_2", **{"distil.method": "<script>$_{^~"})]
    table = safety_table(pd.DataFrame(rows), "বাংলা & 50%_{#}", caption=LABEL)
    (tmp_path / "safety.tex").write_text(table, encoding="utf-8")
    text = compiled(tmp_path, "safety")
    assert text.isdecimal() or "-0.012 (0.031)" in text.replace("\u2212", "-")
    assert not re.findall(r".*(?:[Ww]arning|Overfull|Underfull).*", (tmp_path / "safety.log").read_text("latin-1"))
