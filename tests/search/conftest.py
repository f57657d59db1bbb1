"""Optuna without its log; and the smoke study, run once in a Ray session for every test that looks at it."""

from __future__ import annotations

import io
import math
import pickle
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from rich.console import Console

from search.config import StudyConfig

SMOKE = Path(__file__).parents[2] / "search" / "studies" / "smoke.yaml"
RAISES = {"distil.method": "none", "prune.method": "wanda"}
NOT_A_NUMBER = {"distil.method": "logit", "distil.temperature": 1}


@pytest.fixture
def quiet_optuna() -> Iterator[None]:
    """Optuna tells warnings alone."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    yield
    optuna.logging.set_verbosity(before)


@dataclass(frozen=True)
class Run:
    """A study that has run, and what it printed."""

    config: StudyConfig
    outcome: Any
    printed: str

    @property
    def folder(self) -> Path:
        """Its results."""
        return self.config.folder


@dataclass(frozen=True)
class SmokeRuns:
    """The same study three times: from nothing, with the store of the first, and with a trial function that fails."""

    overrides: tuple[str, ...]
    first: Run
    second: Run
    faulty: Run


def faulty_trial() -> Callable[..., list[dict[str, Any]]]:
    """A trial function that raises for one chain and has no F1 for another; local, so that it is pickled by value."""
    raises, not_a_number, nan = RAISES, NOT_A_NUMBER, math.nan

    def trial(bench: Any, params: Mapping[str, Any], report: Callable[..., None]) -> list[dict[str, Any]]:
        from search.trial import run_trial

        rows = run_trial(bench, params, report)
        if raises.items() <= params.items():
            raise ValueError(f"torn weights of {params['quantize.method']}")
        if not_a_number.items() <= params.items():
            rows[-1]["f1_macro"] = nan
        return rows

    return trial


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that need the smoke study's runs come first: of two test processes one makes them, and neither waits."""
    items.sort(key=lambda item: "smoke_runs" not in getattr(item, "fixturenames", ()))


@pytest.fixture(scope="session")
def smoke_runs(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> SmokeRuns:
    """The runs, made by the first of the test processes that asks for them."""
    if worker_id == "master":
        return run_thrice(tmp_path_factory.mktemp("smoke"))
    folder = tmp_path_factory.getbasetemp().parent / "smoke"
    told = folder / "runs.pickle"
    with FileLock(folder.with_suffix(".lock")):
        if not told.is_file():
            folder.mkdir(exist_ok=True)  # there if the other process failed: this one shall say why too
            told.write_bytes(pickle.dumps(run_thrice(folder)))
        runs: SmokeRuns = pickle.loads(told.read_bytes())
    return runs


def run_thrice(folder: Path) -> SmokeRuns:
    """Seed and margin are such that three trials have every stage, and one chain of each fault."""
    from cluster.session import session
    from search.start import checked, claim_folder, with_absolute_paths
    from search.study import StudyRun

    overrides = ("seed=2", "search.stop_margin=1", "search.trials=3", "measure.seconds=0.05")

    def run(name: str, cpus: int, concurrent: int, **changes: Any) -> Run:
        places = [f"results_dir={folder / name}", f"storage={folder / 'store'}"]
        places += [f"tracking.uri=sqlite:///{folder / 'mlflow.db'}", f"resources.max_concurrent={concurrent}"]
        config, data = checked(SMOKE, [*overrides, *places], resume=False)
        claim_folder(config, resume=False)
        console = Console(file=io.StringIO(), width=200)
        outcome = StudyRun(with_absolute_paths(config), data, cpus, console, **changes).run()
        assert isinstance(console.file, io.StringIO)
        return Run(config, outcome, console.file.getvalue())

    with session("local") as up:
        cpus = int(up.cpus)
        first, second = run("first", cpus, 2), run("second", cpus, 1)
        return SmokeRuns(overrides, first, second, run("faulty", cpus, 1, trial=faulty_trial()))
