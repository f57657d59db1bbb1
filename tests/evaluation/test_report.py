import csv
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from evaluation.front import front_rows
from evaluation.records import read_records, write_records
from evaluation.report import best_chain, export_metrics_to_csv, export_metrics_to_json, main, write_report
from evaluation.stage_metrics import CompressionStageMetrics

LABEL = "50%_off & more"
METADATA = {
    "study": "=বাংলা <script>",
    "preset": "../kd/<prune>",
    "critical_label": LABEL,
    "label_columns": json.dumps([LABEL]),
    "synthetic": "true",
}
CHAIN = ["baseline", "after_kd", "after_pruning", "after_quantization"]


def row(
    stage: str, key: str, parent: str | None, trial: int | None, score: float | None, **more: Any
) -> dict[str, Any]:
    base = {
        "study": "=বাংলা <script>",
        "trial": trial,
        "stage": stage,
        "model_key": key,
        "parent_key": parent,
        "status": "ok",
        "node": "=cmd()",
        "f1_macro": 0.8,
        "accuracy_exact": 0.7,
        "critical_f1": 0.6,
        "model_size_mb": 10.0 + len(key),
        "latency_mean_ms": 2.5,
        "speedup_factor": 2.0,
        "tradeoff_score": score,
        "safety_verdict": "safe",
        "f1_drop": 0.01,
        "f1_drop_upper": 0.02,
        f"per_label_f1.{LABEL}": 0.6,
        f"confusion_matrices.{LABEL}": "[[5,1],[2,3]]",
    }
    return {**base, **more}


def trial_rows() -> list[dict[str, Any]]:
    failed = {"study": "s", "trial": 3, "stage": "after_kd", "status": "failed", "error": "out of memory"}
    return [
        row("baseline", "t", None, None, 0.99),
        row("classical", "c", None, None, 0.98),
        row("after_kd", "k", "t", 0, 0.5, f1_macro=0.81, **{"distil.method": "logit", "distil.layers": 2}),
        row("after_pruning", "kp", "k", 0, 0.6),
        row(
            "after_quantization", "kpq", "kp", 0, 0.9, roc_auc=None, safety_verdict="inconclusive", positives_needed=99
        ),
        row("after_kd", "u", "t", 1, 0.97, safety_verdict="unsafe"),
        row("after_kd", "s", "t", 2, 0.96, status="stopped_unsafe"),
        failed,
    ]


def study(folder: Path, rows: list[dict[str, Any]], **metadata: str) -> Path:
    write_records(rows, folder / "trials.parquet", metadata=METADATA | metadata)
    front = front_rows(read_records(folder / "trials.parquet"))
    test = {"test_f1_macro": 0.79, "test_safety_verdict": "unsafe", "test_f1_drop": 0.07, "test_f1_drop_upper": np.nan}
    write_records(front.assign(**test).to_dict("records"), folder / "front.parquet", metadata=METADATA)
    return folder


def frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    columns = ["trial", "stage", "model_key", "parent_key", "status", "tradeoff_score", "safety_verdict"]
    return pd.DataFrame(rows, columns=columns)


def read_csv(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"), parse_constant=pytest.fail)


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study with its report; to be read only."""
    folder = study(tmp_path_factory.mktemp("study"), trial_rows())
    write_report(folder)
    return folder


def test_every_file_is_written_from_parquet(tmp_path: Path) -> None:
    written = write_report(study(tmp_path, trial_rows()))
    stages = {f"{kind}_{stage}.{e}" for stage in CHAIN for kind, e in (("metrics", "csv"), ("metrics", "json"))}
    stages |= {f"safety_{stage}.json" for stage in CHAIN}
    fixed = {
        "front.tex",
        "stages.tex",
        "safety.tex",
        "report.html",
        "presets.tex",
        "presets.csv",
        "front.png",
        "front.pdf",
    }
    fixed.add("pipeline_summary_.._kd_prune_.csv")
    assert {path.name for path in written} == fixed | stages
    assert {path.name for path in tmp_path.iterdir()} == fixed | stages | {"trials.parquet", "front.parquet"}
    assert all(path.stat().st_size > 0 for path in written)


def test_summary_has_the_fields_header_and_the_best_chain(reported: Path) -> None:
    lines = read_csv(reported / "pipeline_summary_.._kd_prune_.csv")
    assert lines[0] == ["Stage", "Accuracy", "Macro F1", f"F1 ({LABEL})", "Size (MB)", "Speed (ms)"]
    assert [line[0] for line in lines[1:]] == CHAIN
    assert lines[2][1:] == ["0.7", "0.81", "0.6", "11.0", "2.5"]


@pytest.mark.parametrize(("metadata", "ended"), [({"trials_ended": "1234"}, "1,234"), ({}, "4")])
def test_the_page_counts_the_trials_that_ended_without_a_row_too(
    tmp_path: Path, metadata: dict[str, str], ended: str
) -> None:
    """Files of earlier versions do not tell of those after the last that has a row."""
    write_report(study(tmp_path, trial_rows(), **metadata))
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert f"<dt>Trials</dt><dd>{ended}</dd>" in page and f"After {ended} trials:" in page


def test_stage_files_hold_that_stages_row(reported: Path) -> None:
    metrics = read_json(reported / "metrics_after_quantization.json")
    assert metrics["model_key"] == "kpq"
    assert metrics["roc_auc"] is None
    assert metrics[f"confusion_matrices.{LABEL}"] == [[5, 1], [2, 3]]
    header, line = read_csv(reported / "metrics_after_kd.csv")
    cells = dict(zip(header, line, strict=True))
    assert cells["node"] == "'=cmd()"
    assert cells["study"].startswith("'=")
    assert cells["distil.layers"] == "2"
    assert cells["roc_auc"] == ""


def test_safety_is_never_claimed_against_the_test_split(reported: Path) -> None:
    quantized = read_json(reported / "safety_after_quantization.json")
    assert quantized["verdict"] == "inconclusive"
    assert quantized["safe_for_deployment"] is False
    assert quantized["positives_needed"] == 99
    assert quantized["drops"]["f1"] == {"drop": 0.01, "upper": 0.02}
    assert quantized["drops"]["critical_recall"] == {"drop": None, "upper": None}
    assert quantized["test_verdict"] is None
    distilled = read_json(reported / "safety_after_kd.json")
    assert (distilled["verdict"], distilled["test_verdict"]) == ("safe", "unsafe")
    assert distilled["safe_for_deployment"] is False
    assert distilled["test_drops"]["f1"] == {"drop": 0.07, "upper": None}
    assert read_json(reported / "safety_after_pruning.json")["safe_for_deployment"] is True


def test_teacher_and_floor_have_their_test_figures_off_the_front_too(tmp_path: Path) -> None:
    better = {"f1_macro": 0.9, "model_size_mb": 1.0, "speedup_factor": 3.0}
    teacher, floor, student = trial_rows()[:3]
    study(tmp_path, [teacher, floor, student | better])
    assert read_records(tmp_path / "front.parquet")["model_key"].tolist() == ["k"]
    write_report(tmp_path)
    of_floor = r"classical floor & c & 0\.010 \(0\.020\) & -- & -- & safe & -- & "
    assert re.search(of_floor + r"-- & -- & -- & -- & -- ", (tmp_path / "safety.tex").read_text(encoding="utf-8"))
    test = {"test_f1_drop": 0.25, "test_f1_drop_upper": 0.5, "test_safety_verdict": "unsafe"}
    same = {"test_f1_drop": 0.0, "test_f1_drop_upper": 0.0, "test_safety_verdict": "safe"}
    write_records([teacher | same, floor | test], tmp_path / "references.parquet", metadata=METADATA)
    write_report(tmp_path)
    table = (tmp_path / "safety.tex").read_text(encoding="utf-8")
    assert re.search(of_floor + r"0\.250 \(0\.500\) & -- & -- & unsafe & -- ", table)
    baseline = read_json(tmp_path / "safety_baseline.json")
    assert baseline["test_verdict"] == "safe" and baseline["test_drops"]["f1"] == {"drop": 0.0, "upper": 0.0}
    assert baseline["safe_for_deployment"] is True


def test_files_of_stages_that_left_the_chain_are_removed(tmp_path: Path) -> None:
    write_report(study(tmp_path, trial_rows()))
    rows = [{**line, "tradeoff_score": 0.95} if line.get("model_key") == "k" else line for line in trial_rows()]
    write_report(study(tmp_path, rows))
    assert sorted(path.stem for path in tmp_path.glob("safety_*")) == ["safety_after_kd", "safety_baseline"]


@pytest.mark.parametrize("rows", [[], trial_rows()[5:]])
def test_nothing_to_show_still_writes_valid_files(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    written = write_report(study(tmp_path, rows))
    assert {path.suffix for path in written} == {".tex", ".png", ".pdf", ".csv", ".html"}
    assert len(read_csv(tmp_path / "pipeline_summary_.._kd_prune_.csv")) == 1
    assert "(no rows)" in (tmp_path / "stages.tex").read_text(encoding="utf-8")


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")
def test_tables_compile_and_leave_the_figure_whole(reported: Path, tmp_path: Path) -> None:
    for name in ("front.tex", "stages.tex", "safety.tex", "presets.tex", "front.pdf"):
        shutil.copy(reported / name, tmp_path)
    for name in ("front", "stages", "safety", "presets"):
        command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-jobname=table", f"{name}.tex"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=60)
        assert done.returncode == 0, done.stdout.decode("utf-8", "replace")[-2000:]
    assert (tmp_path / "front.pdf").read_bytes() == (reported / "front.pdf").read_bytes()


def test_the_best_chain_skips_unsafe_stopped_teacher_and_floor() -> None:
    chain = best_chain(frame(trial_rows()))
    assert list(chain["model_key"]) == ["t", "k", "kp", "kpq"]


@pytest.mark.parametrize("floor_score", [0.5, 1.5, None])
def test_without_a_usable_compressed_model_the_chain_is_the_teacher(tmp_path: Path, floor_score: float | None) -> None:
    """However good the classical floor is, which nothing in a chain is made from."""
    teacher, floor, *compressed = trial_rows()
    rows = [floor | {"tradeoff_score": floor_score}, teacher]
    assert list(best_chain(frame(rows))["model_key"]) == ["t"]
    assert list(best_chain(frame([*rows, *compressed[3:]]))["model_key"]) == ["t"]
    assert best_chain(frame(rows[:1])).empty and best_chain(frame([])).empty
    write_report(study(tmp_path, rows))
    assert [line[0] for line in read_csv(tmp_path / "pipeline_summary_.._kd_prune_.csv")] == ["Stage", "baseline"]
    stage_files = {path.name for kind in ("metrics", "safety") for path in tmp_path.glob(f"{kind}_*")}
    assert stage_files == {"metrics_baseline.csv", "metrics_baseline.json", "safety_baseline.json"}


def test_the_parent_is_that_of_the_same_trial_and_the_nearest_earlier_stage() -> None:
    rows = [
        row("baseline", "t", None, None, None),
        row("after_kd", "k", "t", 0, 0.1),
        row("after_kd", "k", "t", 1, 0.1),
        row("after_pruning", "k", "k", 1, 0.2),
        row("after_quantization", "q", "k", 1, 0.3),
        row("after_quantization", "orphan", "gone", 2, 0.25),
    ]
    chain = best_chain(frame(rows))
    assert list(chain["stage"]) == CHAIN
    assert list(chain["trial"])[1:] == [1, 1, 1]
    assert list(best_chain(frame(rows[-1:]))["model_key"]) == ["orphan"]


def folds(*models: str) -> pd.DataFrame:
    scores = {0: [0.5, 0.7, 0.6], 1: [0.4, np.nan, 0.9]}
    lines = [
        {"model": model, "fold": fold, "epoch": epoch, "val_loss": 1.0 / epoch, "val_macro_f1": f1, "seconds": 2.0}
        for model in models
        for fold, values in scores.items()
        for epoch, f1 in enumerate(values, start=1)
    ]
    return pd.DataFrame(lines)


def test_folds_are_summed_up_by_their_best_epochs(tmp_path: Path) -> None:
    folds("a/b", "=x").to_parquet(study(tmp_path, trial_rows()) / "folds.parquet")
    write_report(tmp_path)
    header, *lines = read_csv(tmp_path / "fold_summary_a_b.csv")
    assert header == ["model", "fold", "epoch", "val_loss", "val_macro_f1", "seconds"]
    assert [line[1:3] for line in lines] == [["0", "2"], ["1", "3"]]
    metrics = {line[0]: line[1:] for line in read_csv(tmp_path / "best_metrics_a_b.csv")}
    assert set(metrics) == {"metric", "val_loss", "val_macro_f1", "seconds"}
    assert float(metrics["val_macro_f1"][0]) == pytest.approx(0.8)
    assert float(metrics["val_macro_f1"][1]) == pytest.approx(np.std([0.7, 0.9], ddof=1))
    assert metrics["val_macro_f1"][2:] == ["2", "0.8000 ± 0.1414"]
    assert read_csv(tmp_path / "fold_summary__x.csv")[1][0] == "'=x"


def test_models_whose_names_come_to_the_same_keep_files_of_their_own(tmp_path: Path) -> None:
    folds("a/b", "a b", "A_b").to_parquet(study(tmp_path, trial_rows()) / "folds.parquet")
    names = [path.name for path in write_report(tmp_path) if path.name.startswith("fold_summary_")]
    assert len({name.lower() for name in names}) == 3
    assert {read_csv(tmp_path / name)[1][0] for name in names} == {"a/b", "a b", "A_b"}


def test_one_fold_has_no_deviation(tmp_path: Path) -> None:
    one = folds("m").query("fold == 0")
    one.to_parquet(study(tmp_path, trial_rows()) / "folds.parquet")
    write_report(tmp_path)
    assert read_csv(tmp_path / "best_metrics_m.csv")[2] == ["val_macro_f1", "0.7", "", "1", "0.7000"]


def test_exports_take_one_or_several_metrics(tmp_path: Path) -> None:
    first = CompressionStageMetrics(stage="baseline", f1_macro=float("nan"), confusion_matrices={"a": [[1, 2], [3, 4]]})
    second = CompressionStageMetrics(stage="after_kd", per_label_f1={"b": 0.5})
    export_metrics_to_json(first, tmp_path / "one.json")
    one = read_json(tmp_path / "one.json")
    assert (one["stage"], one["f1_macro"], one["confusion_matrices.a"]) == ("baseline", None, [[1, 2], [3, 4]])
    export_metrics_to_json([first, second.to_flat_dict()], tmp_path / "two.json")
    assert [item["stage"] for item in read_json(tmp_path / "two.json")] == ["baseline", "after_kd"]
    export_metrics_to_csv([first, second], tmp_path / "two.csv")
    header, *lines = read_csv(tmp_path / "two.csv")
    assert [line[header.index("per_label_f1.b")] for line in lines] == ["", "0.5"]
    assert len(header) == len(set(header))


def test_the_command_prints_what_it_wrote(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(study(tmp_path, trial_rows()))]) == 0
    assert str(tmp_path / "front.tex") in capsys.readouterr().out.splitlines()


def test_missing_or_damaged_files_end_with_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "nowhere")]) == 2
    error = capsys.readouterr().err
    assert f"{tmp_path / 'nowhere'}: no trials.parquet and no front.parquet" in error
    study(tmp_path, trial_rows())
    for name in ("folds.parquet", "front.parquet", "trials.parquet"):
        (tmp_path / name).write_bytes(b"PAR1 cut")
        assert main([str(tmp_path)]) == 2
        assert f"{tmp_path / name}: " in capsys.readouterr().err
    assert not list(tmp_path.glob("*.tex"))


def test_a_module_run_needs_no_torch_ray_or_optuna(tmp_path: Path) -> None:
    program = (
        "import sys; from evaluation.report import main; status = main(sys.argv[1:]);"
        "loaded = {'torch', 'ray', 'optuna', 'transformers', 'matplotlib.pyplot'} & set(sys.modules);"
        "sys.exit(f'{status} {loaded}' if status or loaded else 0)"
    )
    command = [sys.executable, "-c", program, str(study(tmp_path, trial_rows()))]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_tables_of_the_embedded_sample_say_that_it_is_synthetic(tmp_path: Path) -> None:
    write_report(study(tmp_path, trial_rows()))
    for name in ("front.tex", "stages.tex"):
        assert "(synthetic sample)" in (tmp_path / name).read_text(encoding="utf-8")
