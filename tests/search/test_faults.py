"""Faults of trials: which may pass, and on a real Ray what becomes of trials whose workers are really killed."""

from __future__ import annotations

import errno
import io
import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console

from evaluation.records import read_records
from pipeline.errors import InputError
from pipeline.training import TrainingDiverged
from search.config import StudyConfig
from search.faults import PAUSES_SECONDS, death_text, error_text, may_pass, pause_seconds
from search.sections import ResourcesConfig

STUDY: dict[str, Any] = {
    "study": "faults",
    "data": {"sample_rows": 300},
    "teacher": {"model": "scratch"},
    "distil": {"method": "none"},
    "quantize": {"method": "none"},
    "tracking": {"uri": "none"},
}
FAULTS = {
    0.1: "none",
    0.2: "killed once",
    0.3: "killed always",
    0.4: "raises",
    0.5: "disk full once",
    0.6: "hangs",
    0.7: "takes all memory",
    0.8: "refused",
}
"""By `prune.sparsity`, of which each trial has another."""
ALWAYS = {"killed always", "raises", "hangs", "takes all memory", "refused"}
AT_ONCE = {"raises", "refused"}
"""Of these, what another attempt would not help."""
RETRIES, STAGE_MINUTES, MEMORY_GB = 1, 0.15, 1.0


def chained(error: Exception, cause: BaseException) -> Exception:
    error.__cause__ = cause
    return error


PASSING = [
    OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
    ConnectionResetError("the store"),
    TimeoutError("the store"),
    OSError("AWS Error NETWORK_CONNECTION during HeadObject operation"),
    FileNotFoundError("no data 0123; does this node see the folder of `storage`?"),
    MemoryError(),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."),
    RuntimeError("CUDA error: an illegal memory access was encountered"),
    RuntimeError("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : std::bad_alloc"),
    chained(RuntimeError("the artifact cannot be written"), OSError(errno.ENOSPC, "full")),
]
LASTING = [
    ValueError("torn"),
    TrainingDiverged("the loss is not finite"),
    RuntimeError("shapes (3, 4) and (5, 6) do not fit"),
    KeyError("f1"),
    PermissionError(errno.EACCES, "no"),
    chained(ValueError("torn"), KeyError("f1")),
    chained(InputError(["storage='s3://no-such-bucket'"]), OSError("AWS Error NO_SUCH_BUCKET")),
]


@pytest.mark.parametrize("error", PASSING, ids=repr)
def test_what_may_pass(error: Exception) -> None:
    assert may_pass(error)


@pytest.mark.parametrize("error", LASTING, ids=repr)
def test_what_comes_again(error: Exception) -> None:
    assert not may_pass(error)


def test_a_real_error_of_pytorchs_memory_may_pass() -> None:
    import torch

    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**60, dtype=torch.uint8)
    assert may_pass(raised.value)


def test_errors_name_the_setting_that_has_to_do_with_them() -> None:
    unlimited = ResourcesConfig()
    limited = ResourcesConfig(memory_gb_per_trial=2.0, stage_minutes=1.0)
    assert error_text(ValueError("torn"), limited) == "ValueError: torn"
    assert error_text(MemoryError(), limited).startswith("MemoryError; resources.memory_gb_per_trial=2 is all")
    assert "resources.max_concurrent" in error_text(MemoryError("of 2 GiB"), unlimited)
    late = death_text("distil", 60.1, "", limited)
    assert late.startswith("distil took longer than resources.stage_minutes=1; raise it, or")
    supposed = "Some common causes include: (1) the process was killed by the OOM killer due to high memory usage"
    for seconds, reason, resources in ((59.0, "", limited), (1e6, "", unlimited), (1.0, supposed, unlimited)):
        assert "worker died without a word at distil" in death_text("distil", seconds, reason, resources)
    lost = death_text("distil", 1e6, "The actor died because its node has died. Node Id: 1", limited)
    assert lost.startswith("the trial's node was lost at distil")


def test_pauses_grow_and_none_follows_the_last_attempt() -> None:
    pauses = [pause_seconds(attempt, 4) for attempt in range(1, 5)]
    assert pauses == sorted(pauses) and tuple(pauses[:3]) == PAUSES_SECONDS
    assert pause_seconds(5, 4) == pause_seconds(1, 0) == 0.0


def faulty_trial(notes: Path, faults: dict[float, str]) -> Callable[..., list[dict[str, Any]]]:
    """A trial of two stages in the study's store, with a fault in the second; local, so that it is pickled by value.

    Each attempt leaves a file `<sparsity>-<n>` in `notes`, with its process' id.
    """
    takes_bytes = int(MEMORY_GB * 2**30)

    def trial(bench: Any, params: Any, report: Any) -> list[dict[str, Any]]:
        import errno
        import os
        import re
        import signal

        import numpy as np

        import search.faults
        from pipeline.remote import RemoteRefused

        search.faults.PAUSES_SECONDS = (0.2, 0.2, 0.2)
        sparsity = params["prune.sparsity"]
        fault = faults.get(sparsity, "none")
        attempt = 1 + len(list(notes.glob(f"{sparsity}-*")))
        (notes / f"{sparsity}-{attempt}").write_text(str(os.getpid()))
        rows: list[dict[str, Any]] = []

        def measured(stage: str, name: str) -> None:
            key = f"{name}-{sparsity}"
            model = bench.store.add(name, key, lambda folder: {"attempt": attempt})
            row = {"study": "faults", "stage": stage, "model_key": key, "status": "ok", "cache_hit": model.cache_hit}
            drops = dict.fromkeys(("f1_drop", "critical_f1_drop", "critical_recall_drop"), 0.0)
            figures = {"f1_macro": 0.8, "model_size_mb": 1.0, "speedup_factor": 2.0, "safety_verdict": "safe"}
            rows.append(row | drops | figures | {"stage_seconds": 1.0, "prune.sparsity": sparsity})
            report(stage, rows[-1])

        report("distil", None)
        measured("after_kd", "student")
        report("prune", None)
        if attempt == 1 or not fault.endswith("once"):
            if fault.startswith("killed"):
                os.kill(os.getpid(), signal.SIGKILL)
            if fault == "raises":
                raise ValueError("torn weights")
            if fault == "refused":
                raise RemoteRefused(["storage='s3://bucket': the store refuses (ExpiredToken)"])
            if fault.startswith("disk full"):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if fault == "hangs":  # in C, with the lock of Python held
                re.match("(a+)+$", "a" * 60 + "b")
            if fault == "takes all memory":  # at one stroke: page by page takes a busy machine too long
                np.ones(takes_bytes // 8)
        measured("after_pruning", "sparse")
        return rows

    return trial


class Run:
    """A study of one trial a fault, run once and resumed once without faults."""

    def __init__(self, folder: Path) -> None:
        from search.optuna_study import opened
        from search.sampler import study_sampler
        from search.start import claim_folder, with_absolute_paths
        from search.study_file import study_from
        from search.study_keys import REFERENCES

        points = [{"prune.sparsity": sparsity} for sparsity in FAULTS]
        limits = {"retries": RETRIES, "stage_minutes": STAGE_MINUTES, "memory_gb_per_trial": MEMORY_GB}
        made = study_from(
            STUDY
            | {"results_dir": str(folder / "results"), "resources": limits}
            | {"prune": {"method": "magnitude", "sparsity": {"choices": list(FAULTS)}}}
            | {"search": {"trials": len(FAULTS), "sampler": "random", "points": points}}
        )
        self.config: StudyConfig = with_absolute_paths(made)
        claim_folder(self.config, resume=False)
        self.notes = folder / "notes"
        self.notes.mkdir()
        with opened(self.config, study_sampler(self.config)) as study:
            figures = {"f1_macro": 1.0, "model_size_mb": 9.0, "speedup_factor": 1.0, "safety_verdict": "safe"}
            teacher = {"study": "faults", "stage": "baseline", "status": "ok", "model_key": "teacher"} | figures
            study.set_user_attr(REFERENCES, [teacher, teacher | {"stage": "classical", "model_key": "floor"}])

    def search(self, faults: dict[float, str]) -> tuple[list[FrozenTrial], list[int], str]:
        """The trials afterwards, the numbers of those that ended in this run, in their order, and what was printed."""
        from pipeline.cache import Store
        from pipeline.data import prepare
        from search.optuna_study import opened
        from search.sampler import study_sampler
        from search.study import StudyRun

        data = prepare(self.config.data)
        key = data.add_to(Store(self.config.store_root)).key
        console = Console(file=io.StringIO(), width=300)
        ended: list[int] = []
        with opened(self.config, study_sampler(self.config)) as study:
            run = StudyRun(self.config, data, 2, console, trial=faulty_trial(self.notes, faults))
            run.search(study, key, lambda trial: ended.append(trial.number))
            assert isinstance(console.file, io.StringIO)
            return study.get_trials(), ended, console.file.getvalue()

    def attempts(self, sparsity: float) -> list[int]:
        """Processes of a trial's attempts, in their order."""
        files = sorted(self.notes.glob(f"{sparsity}-*"), key=lambda file: int(file.name.rpartition("-")[2]))
        return [int(file.read_text()) for file in files]


@pytest.fixture(scope="module")
def ray_session() -> Iterator[None]:
    from cluster.session import session

    with session("local"):
        yield


@pytest.fixture(scope="module")
def first(ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, list[FrozenTrial], list[int], str]:
    run = Run(tmp_path_factory.mktemp("faults"))
    return run, *run.search(FAULTS)


def of(trials: list[FrozenTrial], fault: str) -> FrozenTrial:
    [found] = [trial for trial in trials if FAULTS[trial.params["prune.sparsity"]] == fault]
    return found


@pytest.mark.e2e
def test_each_trial_ends_once_and_none_stays_running(first: Any) -> None:
    run, trials, ended, printed = first
    assert sorted(ended) == list(range(len(FAULTS)))
    for trial in trials:
        fault = FAULTS[trial.params["prune.sparsity"]]
        assert trial.state == (TrialState.FAIL if fault in ALWAYS else TrialState.COMPLETE), fault
    connection = sqlite3.connect(run.config.folder / "study.db")
    try:
        states = dict(connection.execute("SELECT state, COUNT(*) FROM trials GROUP BY state").fetchall())
    finally:
        connection.close()
    assert states == {"COMPLETE": len(FAULTS) - len(ALWAYS), "FAIL": len(ALWAYS)}
    assert printed.count(": failed: ") == len(ALWAYS)
    assert f"{len(FAULTS)}/{len(FAULTS)}" in printed


@pytest.mark.e2e
def test_a_trial_is_tried_again_where_that_may_help_and_only_there(first: Any) -> None:
    run = first[0]
    for sparsity, fault in FAULTS.items():
        pids = run.attempts(sparsity)
        assert len(pids) == (1 if fault in {"none", *AT_ONCE} else 1 + RETRIES), fault
        assert len(set(pids)) == len(pids), "each in a process of its own"


@pytest.mark.e2e
def test_stages_of_a_failed_attempt_are_found_and_rows_stand_once(first: Any) -> None:
    _, trials, _, _ = first
    for fault in ("killed once", "disk full once"):
        rows = of(trials, fault).user_attrs["rows"]
        assert [row["stage"] for row in rows] == ["after_kd", "after_pruning"]
        assert [row["cache_hit"] for row in rows] == [True, False], fault
        assert "error" not in of(trials, fault).user_attrs and "may_pass" not in of(trials, fault).user_attrs


@pytest.mark.e2e
def test_what_failed_for_good_says_why_and_keeps_what_it_had_measured(first: Any) -> None:
    run, trials, _, printed = first
    told = {fault: of(trials, fault).user_attrs["error"] for fault in ALWAYS}
    assert told["raises"] == "ValueError: torn weights"
    assert told["refused"] == "RemoteRefused: storage='s3://bucket': the store refuses (ExpiredToken)"
    assert "worker died without a word at prune" in told["killed always"]
    assert told["hangs"].startswith("prune took longer than resources.stage_minutes=0.15; raise it, or")
    assert f"resources.memory_gb_per_trial={MEMORY_GB:g}" in told["takes all memory"]
    for fault, problem in told.items():
        assert ("(tried 2 times)" in problem) == (fault not in AT_ONCE)
        assert bool(of(trials, fault).user_attrs.get("may_pass")) == (fault != "raises")
        student, failed = of(trials, fault).user_attrs["rows"]
        assert student["model_key"].startswith("student-") and (failed["status"], failed["error"]) == (
            "failed",
            problem,
        )
        assert problem in printed
    records: pd.DataFrame = read_records(run.config.folder / "trials.parquet")
    assert set(records.loc[records["status"] == "failed", "error"]) == set(told.values())


@pytest.mark.e2e
def test_resumed_what_may_pass_is_run_again_under_its_number_and_the_rest_is_not(first: Any) -> None:
    run, before, _, _ = first
    tried = {sparsity: len(run.attempts(sparsity)) for sparsity in FAULTS}
    trials, ended, _ = run.search({})
    again = {trial.number for trial in before if FAULTS[trial.params["prune.sparsity"]] in ALWAYS - {"raises"}}
    assert set(ended) == again
    assert [trial.state == TrialState.COMPLETE for trial in trials] == [
        FAULTS[trial.params["prune.sparsity"]] != "raises" for trial in before
    ]
    assert [trial.params for trial in trials] == [trial.params for trial in before]
    for sparsity, trial in zip(FAULTS, before, strict=True):
        assert len(run.attempts(sparsity)) == tried[sparsity] + (trial.number in again)
    finished = of(trials, "none")
    assert (finished.datetime_complete, finished.user_attrs) == (
        of(before, "none").datetime_complete,
        of(before, "none").user_attrs,
    )


def dying_task() -> Callable[[Path, int], int]:
    """A function whose worker is killed at its first calls; local, as `faulty_trial`."""

    def task(folder: Path, times: int) -> int:
        import os
        import signal

        attempt = 1 + len(list(folder.iterdir()))
        (folder / str(attempt)).touch()
        if attempt <= times:
            os.kill(os.getpid(), signal.SIGKILL)
        if not times:
            raise ValueError("torn")
        return attempt

    return task


@pytest.mark.e2e
@pytest.mark.parametrize(("times", "retries"), [(2, 2), (1, 0)])
def test_the_drivers_own_tasks_survive_their_workers(
    ray_session: None, times: int, retries: int, tmp_path: Path
) -> None:
    from cluster.session import ClusterError
    from search.faults import run_task

    resources = ResourcesConfig(retries=retries)
    if times <= retries:
        assert run_task("the task", dying_task(), (tmp_path, times), resources, num_cpus=1) == times + 1
        return
    with pytest.raises(ClusterError, match="the task: its worker died 1 times"):
        run_task("the task", dying_task(), (tmp_path, times), resources)
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.e2e
def test_an_error_of_the_drivers_own_task_is_raised_at_once(ray_session: None, tmp_path: Path) -> None:
    """As it was: the text of Ray's own error is a trace."""
    from search.faults import run_task

    with pytest.raises(ValueError, match="^torn$"):
        run_task("the task", dying_task(), (tmp_path, 0), ResourcesConfig())
    assert len(list(tmp_path.iterdir())) == 1
