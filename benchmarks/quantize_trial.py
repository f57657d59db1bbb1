"""How long a trial takes that only quantizes below a pruned model that exists, and where its time goes.

    python benchmarks/quantize_trial.py STUDY.yaml --set data.path=FILE.csv --set teacher.model=FOLDER \\
        --given '{distil.method: logit, distil.student: layers, distil.layers: 4, prune.method: structured}'

What is not given is the first that the space has. The chain up to the pruned model is run first, untimed. Then each
quantization is a trial in this process, as in a worker that has run trials before: from its settings to its last row.
The store is one of links to the study's own, without what was quantized or measured of that before. "again" is the same
trial once more, when all its models are in the store.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.console import Console
from rich.table import Table

from pipeline.cache import MANIFEST
from pipeline.storage import open_store
from search.config import StudyConfig
from search.space import Space
from search.start import checked, with_absolute_paths
from search.trial import run_trial
from search.workbench import Workbench

QUANTIZATIONS = ("fp16", "int8_dynamic", "int4")
PARTS = {"quantize": "quantizing", "predictions": "answering validation", "latency": "latency and memory"}


class NotOffered(ValueError):
    """The space does not have a given value there."""


class First:
    """Answers a space's questions with what is given, else with the first that there is."""

    def __init__(self, given: dict[str, Any]) -> None:
        self._given = given

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        """The given choice, or the first."""
        given = self._given.get(name.partition("[")[0], choices[0])
        if given not in choices:
            raise NotOffered(f"{name}={given!r}: not one of {', '.join(map(str, choices))}")
        return given

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """The given number, or the lowest."""
        return int(self._given.get(name, low))

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """The given number, or the lowest."""
        return float(self._given.get(name, low))


def main() -> None:
    """Print a row for each quantization that the space has."""
    arguments = parsed()
    torch.set_num_threads(arguments.threads)
    loaded, data = checked(arguments.study, arguments.set, resume=False)
    config = with_absolute_paths(loaded)
    data_key = data.add_to(open_store(config.store_place)).key
    given = yaml.safe_load(arguments.given)
    base = Space(config).suggest(First({**given, "quantize.method": "none"}))
    run_trial(Workbench.open(config, data_key), base, lambda stage, row: None)
    with tempfile.TemporaryDirectory() as folder:
        link_what_is_not_quantized(config.store_root, Path(folder))
        bench = Workbench.open(config.model_copy(update={"storage": folder}), data_key)
        run_trial(bench, base, lambda stage, row: None)
        figures = [timed(bench, {**given, "quantize.method": method}) for method in offered(config, given)]
    show(figures)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1), encoding="utf-8")


def offered(config: StudyConfig, given: dict[str, Any]) -> list[str]:
    """The quantizations that the space has for this chain."""
    found = []
    for method in QUANTIZATIONS:
        with suppress(NotOffered):
            Space(config).suggest(First({**given, "quantize.method": method}))
            found.append(method)
    return found


def link_what_is_not_quantized(shared: Path, folder: Path) -> None:
    """Fill a store with links to the artifacts of another, those of quantized models left out."""
    for path in shared.glob("[a-z]*/*"):
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        measured = (shared / "quantize" / parent for parent in manifest["parents"])
        if path.parent.name != "quantize" and not any(one.exists() for one in measured):
            (folder / path.parent.name).mkdir(parents=True, exist_ok=True)
            (folder / path.parent.name / path.name).symlink_to(path, target_is_directory=True)


def timed(bench: Workbench, given: dict[str, Any]) -> dict[str, Any]:
    """Seconds of one trial, and of its parts."""
    method, params = given["quantize.method"], Space(bench.config).suggest(First(given))
    known = set(bench.store.root.glob("[a-z]*/*"))
    began = time.perf_counter()
    rows = run_trial(bench, params, lambda stage, row: None)
    seconds = time.perf_counter() - began
    new = [path for path in bench.store.root.glob("[a-z]*/*") if path not in known]
    if rows[-1]["stage"] != "after_quantization" or {path.parent.name for path in new} != set(PARTS):
        raise RuntimeError(f"{method}: built {sorted(path.parent.name for path in new)}; only a quantization was asked")
    parts = {
        PARTS[path.parent.name]: float(json.loads((path / MANIFEST).read_text(encoding="utf-8"))["seconds"])
        for path in new
    }
    rest = seconds - sum(parts.values())
    began = time.perf_counter()
    run_trial(bench, params, lambda stage, row: None)
    again = time.perf_counter() - began
    return {"quantization": method, "seconds": seconds, **parts, "safety bounds, and the rest": rest, "again": again}


def show(figures: list[dict[str, Any]]) -> None:
    """One row a quantization."""
    table = Table(*figures[0])
    for one in figures:
        table.add_row(*(value if isinstance(value, str) else f"{value:.2f} s" for value in one.values()))
    Console(width=130).print(table)


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="study file with data, teacher and space")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--given", default="{}", help="settings of the chain, as a YAML mapping")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    return parser.parse_args()


if __name__ == "__main__":
    main()
