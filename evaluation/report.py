"""Every table and figure of a study again, from Parquet alone: `python -m evaluation.report results/STUDY`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from evaluation.chains import best_of_presets
from evaluation.escape import file_name, unused_name, write_csv, write_json
from evaluation.flip_files import write_flips, write_flips_with_texts
from evaluation.metric_files import export_metrics_to_csv, export_metrics_to_json
from evaluation.page import write_page
from evaluation.plots import plot_front
from evaluation.records import STAGES, plain_value
from evaluation.study_files import Study, read_study
from evaluation.tables import front_table, presets_table, safety_table, stages_table

_DROPS = ("f1", "critical_f1", "critical_recall")
_RANK = {stage: rank for rank, stage in enumerate(STAGES)}


def write_report(folder: Path) -> list[Path]:
    """Write every table and figure of the study in `folder` next to its Parquet files; returns what was written.

    Files of stages that the best chain has not, left by an earlier report, are removed.

    Raises:
        FileNotFoundError: `folder` lacks `trials.parquet` or `front.parquet`.
        ValueError: one of the files is damaged, of another version, or lacks a column.
    """
    study = read_study(folder)
    chain = best_chain(study.trials)
    front_tex, stages_tex, png, pdf = (folder / name for name in ("front.tex", "stages.tex", "front.png", "front.pdf"))
    named = f"{study.name} (synthetic sample)" if study.synthetic else study.name
    front_tex.write_text(front_table(study.front, caption=f"{named}: Pareto front"), encoding="utf-8")
    caption = f"{named}: best trade-off, stage by stage"
    stages_tex.write_text(stages_table(chain, study.critical_label, caption=caption), encoding="utf-8")
    plot_front(study.trials, study.front, png, pdf, title=study.name, synthetic=study.synthetic)
    summary = _write_summary(folder, chain, study)
    written = [front_tex, stages_tex, png, pdf, summary]
    written += [_write_safety(folder, study, named), *_write_presets(folder, study, named)]
    written += write_flips(folder, study.front)
    written += _write_stages(folder, chain, study) + _write_folds(folder, study.folds)
    return [*written, write_page(study, folder / "report.html")]  # last: it links the files that are there


def best_chain(trials: pd.DataFrame) -> pd.DataFrame:
    """The model of the best trade-off and its ancestors, teacher first.

    The best is the row with the highest `tradeoff_score` among those with status `ok` whose verdict is not `unsafe`;
    the teacher counts only when there is no other, and the classical floor, which is no stage of a chain, never does.
    No such row gives an empty frame.
    """
    usable = trials["status"].eq("ok") & trials["safety_verdict"].ne("unsafe") & trials["stage"].ne("classical")
    compressed = trials[usable & trials["stage"].ne("baseline") & trials["tradeoff_score"].notna()]
    candidates = trials[usable] if compressed.empty else compressed
    if candidates.empty:
        return candidates
    row = candidates.sort_values("tradeoff_score", ascending=False, kind="stable", na_position="last").iloc[0]
    chain = [row]
    while (parent := _parent(trials, chain[-1])) is not None:
        chain.append(parent)
    return trials.loc[[link.name for link in reversed(chain)]]


def _parent(trials: pd.DataFrame, row: pd.Series[Any]) -> pd.Series[Any] | None:
    """The measured row of the nearest earlier stage that `row` was made from, of its own trial if that has one."""
    earlier = trials["stage"].map(_RANK) < _RANK[row["stage"]]
    parents = trials[trials["model_key"].eq(row["parent_key"]) & earlier]
    if parents.empty:
        return None
    same_trial = parents["trial"].eq(row["trial"]).fillna(False).astype(bool)
    chosen = parents[same_trial] if same_trial.any() else parents
    return chosen.iloc[int(chosen["stage"].map(_RANK).to_numpy().argmax())]


def _write_summary(folder: Path, chain: pd.DataFrame, study: Study) -> Path:
    """The field's table of stages; a header alone when there is no chain."""
    path = folder / f"pipeline_summary_{file_name(study.preset)}.csv"
    columns = {
        "Stage": "stage",
        "Accuracy": "accuracy_exact",
        "Macro F1": "f1_macro",
        f"F1 ({study.critical_label})": "critical_f1",
        "Size (MB)": "model_size_mb",
        "Speed (ms)": "latency_mean_ms",
    }
    write_csv(path, list(columns), ({title: row[name] for title, name in columns.items()} for row in _rows(chain)))
    return path


def _write_safety(folder: Path, study: Study, named: str) -> Path:
    """`safety.tex`: each front model's drops and verdicts, and the classical floor's, on test too once it was used."""
    path = folder / "safety.tex"
    rows = study.trials if study.references is None else study.references
    floor = rows[rows["stage"].eq("classical") & rows["status"].eq("ok")]
    caption = f"{named}: safety against the teacher"
    path.write_text(safety_table(study.front, study.critical_label, floor, caption=caption), encoding="utf-8")
    return path


def _write_presets(folder: Path, study: Study, named: str) -> list[Path]:
    """`presets.tex` and `presets.csv`: the best model of each preset that the study has tried."""
    table, tex = folder / "presets.csv", folder / "presets.tex"
    presets = best_of_presets(study.trials)
    tex.write_text(presets_table(presets, study.critical_label, caption=f"{named}: presets compared"), encoding="utf-8")
    columns = ["preset", "chain", *(name for name in presets.columns if name not in ("preset", "chain"))]
    write_csv(table, columns, _rows(presets))
    return [table, tex]


def _write_stages(folder: Path, chain: pd.DataFrame, study: Study) -> list[Path]:
    """`metrics_<stage>.csv`, `.json` and `safety_<stage>.json` of the chain's stages, and of no other stage."""
    rows = {row["stage"]: row for row in _rows(chain)}
    with_test = [study.front] if study.references is None else [study.references, study.front]
    tested = {row["model_key"]: row for frame in with_test for row in _rows(frame)}
    written: list[Path] = []
    for stage in STAGES:
        names = (f"metrics_{stage}.csv", f"metrics_{stage}.json", f"safety_{stage}.json")
        table, metrics, safety = (folder / name for name in names)
        if stage not in rows:
            for path in (table, metrics, safety):
                path.unlink(missing_ok=True)
            continue
        export_metrics_to_csv(rows[stage], table)
        export_metrics_to_json(rows[stage], metrics)
        write_json(safety, _safety(rows[stage], tested.get(rows[stage]["model_key"], {}), study.critical_label))
        written += [table, metrics, safety]
    return written


def _safety(row: Mapping[str, Any], tested: Mapping[str, Any], critical_label: str) -> dict[str, Any]:
    """The verdict on validation, and on test where that is known; safe only if test does not contradict."""
    verdict, test_verdict = plain_value(row["safety_verdict"]), plain_value(tested.get("test_safety_verdict"))
    return {
        "stage": row["stage"],
        "model_key": row["model_key"],
        "critical_label": critical_label,
        "verdict": verdict,
        "safe_for_deployment": verdict == "safe" and test_verdict != "unsafe",
        "drops": _drops(row, ""),
        "positives_needed": row["positives_needed"],
        "test_verdict": test_verdict,
        "test_drops": _drops(tested, "test_"),
    }


def _drops(row: Mapping[str, Any], prefix: str) -> dict[str, dict[str, Any]]:
    return {
        name: {"drop": row.get(f"{prefix}{name}_drop"), "upper": row.get(f"{prefix}{name}_drop_upper")}
        for name in _DROPS
    }


def _write_folds(folder: Path, folds: pd.DataFrame | None) -> list[Path]:
    """Per model, the best epoch of each fold, and mean and standard deviation of its metrics over the folds."""
    written: list[Path] = []
    taken: set[str] = set()
    if folds is None or folds.empty:
        return written
    ranked = folds.sort_values(["val_macro_f1", "epoch"], ascending=[False, True], kind="stable", na_position="last")
    best = ranked.drop_duplicates(["model", "fold"]).sort_values(["model", "fold"])
    for model, rows in best.groupby("model", sort=True):
        name = unused_name(file_name(str(model)), taken)
        summary, metrics = folder / f"fold_summary_{name}.csv", folder / f"best_metrics_{name}.csv"
        write_csv(summary, list(rows.columns), _rows(rows))
        write_csv(metrics, ["metric", "mean", "std", "folds", "mean \u00b1 std"], _mean_and_deviation(rows))
        written += [summary, metrics]
    return written


def _mean_and_deviation(rows: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """One row a metric; the sample standard deviation, null for a single fold."""
    for metric in rows.columns.difference(["model", "fold", "epoch"], sort=False):
        values = pd.to_numeric(rows[metric]).dropna()
        mean, deviation = plain_value(values.mean()), plain_value(values.std(ddof=1))
        text = "" if mean is None else f"{mean:.4f}" + ("" if deviation is None else f" \u00b1 {deviation:.4f}")
        yield {"metric": metric, "mean": mean, "std": deviation, "folds": len(values), "mean \u00b1 std": text}


def _rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): plain_value(value) for name, value in row.items()} for row in frame.to_dict("records")]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 0 done, 2 when the folder is not a study's."""
    parser = argparse.ArgumentParser(prog="python -m evaluation.report", description=__doc__)
    parser.add_argument("folder", type=Path, help="a study's results, as in results/STUDY")
    parser.add_argument("--with-texts", action="store_true", help="also flips_with_texts.csv, with the comments")
    given = parser.parse_args(arguments)
    try:
        written = write_report(given.folder)
        if given.with_texts:
            written.append(write_flips_with_texts(given.folder))
    except (FileNotFoundError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for path in written:
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
