"""Run every chain of a study's space once, and keep what each stage brought and took: a table to simulate searches on.

    python benchmarks/record_chains.py STUDY.yaml --set data.path=FILE.csv --set teacher.model=FOLDER --to recorded

Every searched setting must list its `choices`. Chains are run one after another in this process, and a run that was
stopped goes on from the store. `recorded/trials.parquet` has the rows, `recorded/study.yaml` the space.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.progress import track

from evaluation.records import write_records
from pipeline.storage import open_store
from search.config import StudyConfig
from search.space import Space
from search.start import checked
from search.study_file import to_yaml
from search.trial import Row, reference_rows, run_trial
from search.workbench import Workbench


class Enumeration:
    """Answers a space's questions along one path; `next_path` gives the path after it, depth first."""

    def __init__(self, path: Sequence[int]) -> None:
        self._path, self._taken = list(path), list[tuple[int, int]]()

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """The choice that the path says, or the first."""
        at = len(self._taken)
        index = self._path[at] if at < len(self._path) else 0
        self._taken.append((index, len(choices)))
        return choices[index]

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """Refused: a range has too many values."""
        raise SystemExit(f"{name}: a range cannot be run whole; list its choices in the study")

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """Refused: a range has too many values."""
        raise SystemExit(f"{name}: a range cannot be run whole; list its choices in the study")

    def next_path(self) -> list[int] | None:
        """The next path; None after the last."""
        taken = list(self._taken)
        while taken and taken[-1][0] + 1 == taken[-1][1]:
            taken.pop()
        return [index for index, _ in taken[:-1]] + [taken[-1][0] + 1] if taken else None


def every_chain(config: StudyConfig) -> Iterator[dict[str, Any]]:
    """The settings of each chain of the space, those that share a prefix one after another."""
    space = Space(config)
    path: list[int] | None = []
    while path is not None:
        enumeration = Enumeration(path)
        yield space.suggest(enumeration)
        path = enumeration.next_path()


def main() -> None:
    """Run what is not in the store yet, and write the table."""
    arguments = parsed()
    config, data = checked(arguments.study, arguments.overrides, resume=False)
    torch.set_num_threads(arguments.threads)
    store = open_store(config.store_place)
    key = data.add_to(store).key
    bench = Workbench.open(config, key)
    rows: dict[str, Row] = {row["model_key"]: row for row in reference_rows(bench, lambda stage, row: None)}
    for number, params in enumerate(track(list(every_chain(config)), "chains")):
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
