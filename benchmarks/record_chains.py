"""Run every chain of a study's space once, and keep what each stage brought and took: a table to simulate searches on.

    python benchmarks/record_chains.py STUDY.yaml --set data.path=FILE.csv --set teacher.model=FOLDER --to recorded

Every searched setting must list its `choices` or have a `step`. Chains are run one after another in this process, and
a run that was stopped goes on from the store. `recorded/trials.parquet` has the rows, `recorded/study.yaml` the space.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from rich.progress import track

from evaluation.records import write_records
from pipeline.storage import open_store
from search.every_chain import every_chain
from search.start import checked
from search.study_file import to_yaml
from search.trial import Row, reference_rows, run_trial
from search.workbench import Workbench


def main() -> None:
    """Run what is not in the store yet, and write the table."""
    arguments = parsed()
    config, data = checked(arguments.study, arguments.overrides, resume=False)
    chains = list(every_chain(config))
    torch.set_num_threads(arguments.threads)
    store = open_store(config.store_place)
    key = data.add_to(store).key
    bench = Workbench.open(config, key)
    rows: dict[str, Row] = {row["model_key"]: row for row in reference_rows(bench, lambda stage, row: None)}
    for number, params in enumerate(track(chains, "chains")):
        for row in run_trial(bench, params, lambda stage, row: None):
            rows.setdefault(row["model_key"], {**row, "trial": number})
    arguments.to.mkdir(parents=True, exist_ok=True)
    write_records(list(rows.values()), arguments.to / "trials.parquet", metadata={"study": config.study})
    (arguments.to / "study.yaml").write_text(to_yaml(config), encoding="utf-8")
    print(f"{len(rows)} models in {arguments.to / 'trials.parquet'}")


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="study file whose settings are fixed or listed")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    parser.add_argument("--to", type=Path, required=True, help="folder of the table")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    main()
