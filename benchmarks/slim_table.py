"""What simulated searches read of a recorded table, and no more: small enough to be kept beside the runs on it.

    python benchmarks/slim_table.py FOLDER --to benchmarks/recorded/mixed [--seconds-of FOLDER]

Folders are those of `record_chains.py`. Numbers keep six decimals, keys their first digits, and the study its data's
file name without its folder. A table of some 30,000 models can only be recorded with few comments, which are trained on
in less time than it takes to time a model. With `--seconds-of` training takes as long as in another table, of more
comments: there each model has run that differs in a setting that the time hangs on.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

from evaluation.records import read_records, write_records
from search.config import STAGES
from search.study_file import load_study, to_yaml
from search.trial import DROPS

READ = ("stage", "status", "stage_seconds", "f1_macro", "model_size_mb", "speedup_factor", "tradeoff_score", *DROPS)
READ += ("safe_compression_score", "safety_verdict")
KEYS = ("model_key", "timed_model")
DECIMALS, DIGITS = 6, 12


def main() -> None:
    """Write the slim table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path, help="folder of record_chains.py")
    parser.add_argument("--to", type=Path, required=True, help="folder of the slim one")
    parser.add_argument("--seconds-of", type=Path, help="folder of the table that says how long training takes")
    arguments = parser.parse_args()
    slim(arguments.table, arguments.to, arguments.seconds_of)


def slim(table: Path, to: Path, seconds_of: Path | None = None) -> None:
    """Copy `trials.parquet` and `study.yaml`."""
    config = load_study(table / "study.yaml", [])
    rows = read_records(table / "trials.parquet")
    if seconds_of is not None:
        rows["stage_seconds"] = seconds_from(read_records(seconds_of / "trials.parquet"), rows)
    to.mkdir(parents=True, exist_ok=True)
    write_records(slim_rows(rows).to_dict("records"), to / "trials.parquet", metadata={"study": config.study})
    path = config.data.path and Path(config.data.path).name
    config = config.model_copy(update={"data": config.data.model_copy(update={"path": path})})
    (to / "study.yaml").write_text(to_yaml(config), encoding="utf-8")


def seconds_from(other: pd.DataFrame, rows: pd.DataFrame) -> pd.Series:
    """Seconds of the rows' stages: those of the rows in the other table that have all its searched settings alike.

    A stage that the other table has no row of keeps its seconds: quantizing, which does not hang on the comments.

    Raises:
        ValueError: a model has no such row.
    """
    searched = [name for name in settings_of(other) if other[name].nunique() > 1]
    known = other.groupby(["stage", *searched], dropna=False)["stage_seconds"].mean().rename("found").reset_index()
    found = rows[["stage", *searched]].merge(known, how="left", on=["stage", *searched])["found"].set_axis(rows.index)
    elsewhere = ~rows["stage"].isin(other["stage"])
    missing = rows[found.isna() & ~elsewhere]
    if len(missing):
        raise ValueError(f"{len(missing)} models are not in the other table, the first with {dict(missing.iloc[0])}")
    return found.where(~elsewhere, rows["stage_seconds"])


def settings_of(rows: pd.DataFrame) -> list[str]:
    """Columns that hold settings of stages."""
    return [str(name) for name in rows if str(name).partition(".")[0] in STAGES]


def slim_rows(rows: pd.DataFrame) -> pd.DataFrame:
    """The columns that simulations read, and the settings; each key is still another model's than the others."""
    kept = rows[[*READ, *KEYS, *settings_of(rows)]].copy()
    numbers = kept[list(READ)].select_dtypes("number").columns
    kept[numbers] = kept[numbers].round(DECIMALS)
    for name in KEYS:
        kept[name] = kept[name].map(lambda key: key[:DIGITS], na_action="ignore")
    if kept["model_key"].nunique() != len(kept):
        raise ValueError(f"{DIGITS} digits do not tell all models apart; raise DIGITS")
    return kept


if __name__ == "__main__":
    main()
