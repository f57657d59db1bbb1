"""A study as a process, in a place of its own: a store and a results folder that nothing else uses."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import yaml

from evaluation.records import read_records

from .evidence import Evidence, gather
from .object_store import BUCKET, ObjectStore
from .processes import Group, start
from .ray_cluster import RayCluster
from .storage import folder_artifacts

ROOT = Path(__file__).resolve().parents[2]
PREFIX = "store"
WORKERS = 2
CRASHED = 70
"""For a run that ended with the status of a whole search and without its report: an uncaught error has status 1 too."""
LEAST_PATIENCE_SECONDS = 120.0
UNDISTURBED_SECONDS = 600.0
"""Most that an undisturbed run may take."""
QUIET = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "COLUMNS": "120"}


class Unfinished(Exception):
    """The study ended, or hung, before the fault could be put on it."""


@dataclass
class Run:
    """One study; `start` it, disturb it, `wait` for it, perhaps `start` it again with `resume`."""

    folder: Path
    """Its place: `results`, `store` and the output `run.log` are here."""
    study: Path
    """The study file."""
    overrides: tuple[str, ...]
    """KEY=VALUE; storage and results_dir apart."""
    address: str = "local"
    environment: dict[str, str] = field(default_factory=dict)
    storage: str = ""
    raylets: RayCluster | None = None
    server: ObjectStore | None = None
    group: Group | None = None
    seconds: float = 0.0
    """That its processes ran, together."""
    _since: float = 0.0
    _started_at: float = 0.0

    def __post_init__(self) -> None:
        self.results = self.folder / "results"
        self.store = self.folder / "store"
        self.storage = self.storage or str(self.store)
        self.log = self.folder / "run.log"

    def start(self, resume: bool = False) -> None:
        """Start the command."""
        command = [sys.executable, str(ROOT / "search" / "pareto.py"), str(self.study), "--address", self.address]
        places = (f"results_dir={self.results}", f"storage={self.storage}", "tracking.uri=none")
        command += [word for one in (*places, *self.overrides) for word in ("--set", one)]
        self._since, self._started_at = time.monotonic(), time.time()
        self.group = start(command + ["--resume"] * resume, self.log, {**QUIET, **self.environment})

    @property
    def running(self) -> bool:
        """Whether the command has not ended yet."""
        return self.group is not None and self.group.process.poll() is None

    def wait(self, seconds: float) -> int | None:
        """The command's exit status, or `CRASHED`, or None if it had to be killed after so many seconds.

        Its processes are gone then.
        """
        try:
            status: int | None = self.started.process.wait(max(0.0, seconds))
        except subprocess.TimeoutExpired:
            status = None
        self.seconds += time.monotonic() - self._since
        self.started.kill()
        report = self.study_folder / "report.html"
        if status in (0, 1) and not (report.is_file() and report.stat().st_mtime >= self._started_at):
            return CRASHED
        return status

    @property
    def started(self) -> Group:
        """Its processes."""
        if self.group is None:
            raise RuntimeError("the run was not started")
        return self.group

    @property
    def cluster(self) -> RayCluster:
        """The cluster that it runs on."""
        if self.raylets is None:
            raise RuntimeError("the run is on no cluster")
        return self.raylets

    @property
    def object_store(self) -> ObjectStore:
        """The S3 server of its store."""
        if self.server is None:
            raise RuntimeError("the run's store is a folder")
        return self.server

    def artifacts(self) -> dict[str, str]:
        """What is finished in the store: by `stage/key`, what tells this building of it from another."""
        return self.server.artifacts(PREFIX) if self.server else folder_artifacts(self.store)

    def evidence(self) -> Evidence:
        """What is finished."""
        return gather(self.study_folder, self.artifacts())

    def rows(self) -> pd.DataFrame:
        """The rows of `trials.parquet`."""
        return read_records(self.study_folder / "trials.parquet")

    def told(self) -> str:
        """The last lines of the output."""
        lines = self.log.read_text("utf-8", errors="replace").splitlines() if self.log.is_file() else []
        return " / ".join(line.strip() for line in lines[-3:])

    def until(self, moment: Callable[[], object], seconds: float, pause: float = 0.05) -> None:
        """Wait for a moment of the search.

        Raises:
            Unfinished: the search ended before, or the moment did not come within so many seconds.
        """
        end = time.monotonic() + seconds
        while not moment():
            if not self.running:
                raise Unfinished(f"the search ended before the fault: {self.told()}")
            if time.monotonic() > end:
                raise Unfinished(f"the moment of the fault did not come in {seconds:.0f} s: {self.told()}")
            time.sleep(pause)

    @property
    def study_folder(self) -> Path:
        """The study's own folder in `results`."""
        name = yaml.safe_load(self.study.read_text("utf-8"))["study"]
        return self.results / str(name)


@dataclass(frozen=True)
class Reference:
    """What the undisturbed run of a setting came to."""

    status: int
    seconds: float
    evidence: Evidence
    rows: pd.DataFrame
    stage_seconds: Mapping[str, float]
    """By `stage/key`."""

    @property
    def patience(self) -> float:
        """Seconds after which a run that shall do the same counts as hung."""
        return LEAST_PATIENCE_SECONDS + 2.0 * self.seconds


def reference_of(run: Run) -> Reference:
    """Run the study undisturbed.

    Raises:
        Unfinished: it did not come to its end with a status of a whole search.
    """
    run.start()
    status = run.wait(UNDISTURBED_SECONDS)
    if status not in (0, 1):
        raise Unfinished(f"the undisturbed run ended with status {status}: {run.told()}")
    rows = run.rows()
    stage_seconds = {} if run.server else {name: float(mark.split()[1]) for name, mark in run.artifacts().items()}
    return Reference(status, run.seconds, run.evidence(), rows, stage_seconds)


@contextmanager
def placed(
    setting: str, folder: Path, study: Path, overrides: tuple[str, ...], workers: int = WORKERS
) -> Iterator[Run]:
    """A run that can be started, in its setting: everything of it ends with the block.

    Args:
        setting: `local`, one Ray node with a store in a folder; `object store`, the same with a store on an S3 server;
            `cluster`, raylets that share a folder.
        folder: its place, made here.
        study: the study file.
        overrides: KEY=VALUE.
        workers: of a cluster, beside its head.
    """
    folder.mkdir(parents=True)
    temporary = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    # A folder for temporary files of its own: the machine's latency slot, a lock there, may be held by others.
    own = {"RAY_TMPDIR": str(temporary), "TMPDIR": str(temporary)}
    run = Run(folder, study, overrides, environment=own)
    try:
        if setting == "object store":
            run.server = ObjectStore.start(folder)
            run.storage = f"s3://{BUCKET}/{PREFIX}"
            run.environment |= {**run.server.environment, "PARETO_CACHE": str(folder / "cache")}
        elif setting == "cluster":
            run.raylets = RayCluster(folder, dict(QUIET))
            run.cluster.start_all(workers)
            run.address = run.cluster.address
            run.environment |= run.cluster.access
        yield run
    finally:
        if run.group:
            run.group.kill()
        if run.server:
            run.server.stop()
        if run.raylets:
            run.raylets.stop()
        shutil.rmtree(temporary, ignore_errors=True)
