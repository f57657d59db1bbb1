"""What simulated searches read of a recorded table, and no more: small enough to be kept beside the runs on it.

    python benchmarks/slim_table.py FOLDER --to benchmarks/recorded/mixed

`FOLDER` is one of `record_chains.py`. Numbers keep six decimals, keys their first digits, and the study its data's file
name without its folder.
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
    arguments = parser.parse_args()
    slim(arguments.table, arguments.to)


def slim(table: Path, to: Path) -> None:
    """Copy `trials.parquet` and `study.yaml`."""
    config = load_study(table / "study.yaml", [])
    rows = slim_rows(read_records(table / "trials.parquet"))
    to.mkdir(parents=True, exist_ok=True)
    write_records(rows.to_dict("records"), to / "trials.parquet", metadata={"study": config.study})
    path = config.data.path and Path(config.data.path).name
    config = config.model_copy(update={"data": config.data.model_copy(update={"path": path})})
    (to / "study.yaml").write_text(to_yaml(config), encoding="utf-8")


def slim_rows(rows: pd.DataFrame) -> pd.DataFrame:
    """The columns that simulations read, and the settings; each key is still another model's than the others."""
    settings = [name for name in rows if str(name).partition(".")[0] in STAGES]
    kept = rows[[*READ, *KEYS, *settings]].copy()
    numbers = kept[list(READ)].select_dtypes("number").columns
    kept[numbers] = kept[numbers].round(DECIMALS)
    for name in KEYS:
        kept[name] = kept[name].map(lambda key: key[:DIGITS], na_action="ignore")
    if kept["model_key"].nunique() != len(kept):
        raise ValueError(f"{DIGITS} digits do not tell all models apart; raise DIGITS")
    return kept


if __name__ == "__main__":
    main()
