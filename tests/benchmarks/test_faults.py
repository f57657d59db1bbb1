"""What the benchmark of faults is made of, each against real processes, locks, sockets, disks and databases."""

from __future__ import annotations

import errno
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import closing, suppress
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
import pytest
from filelock import FileLock, Timeout

from benchmarks.fault_injection import storage
from benchmarks.fault_injection.evidence import Evidence, built_again, gather, lost, row_differences, run_again
from benchmarks.fault_injection.flips import whole
from benchmarks.fault_injection.kinds import SABOTAGE
from benchmarks.fault_injection.object_store import Relay
from benchmarks.fault_injection.outcomes import Outcome, summarised
from benchmarks.fault_injection.processes import free_port, listens, lock_holder, start, wait_until
from evaluation.records import RUN_DEPENDENT

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "faults.py"
ROOT = PROGRAM.parents[1]


def rows() -> pd.DataFrame:
    made = [
        {"trial": None, "stage": "baseline", "model_key": "a", "f1_macro": 0.8, "node": "one", "error": None},
        {"trial": 0, "stage": "after_kd", "model_key": "b", "f1_macro": np.nan, "node": "one", "error": None},
        {"trial": 1, "stage": "after_kd", "model_key": "c", "f1_macro": 0.6, "node": "two", "error": None},
    ]
    return pd.DataFrame(made).astype({"trial": "Int64"})


def test_rows_are_equal_in_any_order_and_whatever_the_run_decides() -> None:
    other = rows().iloc[::-1].assign(**dict.fromkeys(RUN_DEPENDENT, 7.0))
    assert row_differences(rows(), other) == []


def test_every_other_difference_is_told() -> None:
    changed, fewer, more = rows(), rows().iloc[:2], rows()
    changed.loc[2, "f1_macro"] = np.nextafter(0.6, 1)
    more["sparsity"] = [None, None, 0.5]
    assert [line.split(":")[0] for line in row_differences(rows(), changed)] == ["trial 1 after_kd c"]
    assert row_differences(rows(), fewer) == ["no row trial 1 after_kd c"]
    assert row_differences(fewer, rows()) == ["a row more: trial 1 after_kd c"]
    assert row_differences(rows(), more) == ["trial 1 after_kd c: sparsity is 0.5, was None"]


def test_evidence_is_what_optuna_has_written(tmp_path: Path) -> None:
    study = optuna.create_study(storage=f"sqlite:///{tmp_path / 'study.db'}", study_name="s")
    study.set_user_attr("reference_rows", [{"model_key": "teacher"}])
    for number in range(3):
        trial = study.ask()
        trial.set_user_attr("rows", [{"model_key": f"model {number}"}, {"status": "failed"}])
        if number < 2:
            study.tell(trial, 1.0)
    pd.DataFrame({"model_key": ["teacher", None]}).to_parquet(tmp_path / "trials.parquet")
    found = gather(tmp_path, {"distil/x": "then"})
    study._storage.remove_session()
    assert found.with_state("COMPLETE") == {0, 1} and found.with_state("RUNNING") == {2}
    assert found.database_models == {"teacher", "model 0", "model 1", "model 2"}
    assert found.recorded_models == {"teacher"}
    assert gather(tmp_path / "nowhere", {}) == Evidence({}, frozenset(), frozenset(), {})


def test_what_a_fault_has_changed() -> None:
    before = Evidence(
        {0: ("COMPLETE", "9:00"), 1: ("COMPLETE", "9:01"), 2: ("RUNNING", None)},
        frozenset("ab"),
        frozenset("a"),
        {"distil/x": "1", "prune/y": "1", "prune/z": "1"},
    )
    same = Evidence({**before.trials, 2: ("COMPLETE", "9:05")}, frozenset(), frozenset("abc"), before.artifacts)
    assert (lost(before, same), run_again(before, same, 3), built_again(before, same)) == ([], [], [])
    worse = Evidence(
        {0: ("COMPLETE", "9:07"), 1: ("COMPLETE", "9:01"), 3: ("COMPLETE", "9:08")},
        frozenset("ab"),
        frozenset("a"),
        {"distil/x": "1", "prune/y": "2"},
    )
    assert lost(before, worse) == ["model b", "prune/z"]
    assert run_again(before, worse, trials=3) == [0, 3]
    assert built_again(before, worse) == ["prune/y"]


def test_the_table_counts_and_nothing_holds_by_default() -> None:
    good = Outcome("hang", 0, injected=True, extra_seconds=4.0)
    bad = Outcome("hang", 1, injected=True, problems=["status 3"], lost=["model a"], extra_seconds=10.0)
    [row] = summarised([good, bad, Outcome("hang", 2, told="no time left")], repeats=3)
    assert (row["injected"], row["survived"], row["results_lost"], row["rows_equal"]) == (2, 1, 1, 2)
    assert row["extra_seconds"] == 7.0 and not row["holds"]
    assert summarised([good], repeats=1)[0]["holds"] and not summarised([good], repeats=3)[0]["holds"]
    for worse in ({"lost": ["x"]}, {"run_again": [1]}, {"built_again": ["x"]}, {"differences": ["x"]}):
        assert not Outcome("hang", 0, injected=True, **worse).holds


@pytest.mark.parametrize("seed", range(5))
def test_one_byte_flips(tmp_path: Path, seed: int) -> None:
    generator = np.random.default_rng(seed)
    before = generator.bytes(100)
    (tmp_path / "file").write_bytes(before)
    position, mask = int(generator.integers(1000)), int(generator.integers(1, 256))
    storage.flip_byte(tmp_path / "file", position, mask)
    changed = np.frombuffer(before, np.uint8) ^ np.frombuffer((tmp_path / "file").read_bytes(), np.uint8)
    assert changed.nonzero()[0].tolist() == [position % 100] and changed[position % 100] == mask


def test_a_flipped_artifact_is_not_whole(tmp_path: Path) -> None:
    from pipeline.cache import Store

    made = Store(tmp_path).add("stage", "k" * 64, lambda folder: {"n": (folder / "a.npy").write_bytes(b"12345")})
    assert whole(made.path) and storage.folder_artifacts(tmp_path).keys() == {f"stage/{'k' * 64}"}
    storage.flip_byte(made.path / "a.npy", 3, 1)
    assert not whole(made.path) and not whole(tmp_path / "nowhere")


def test_a_full_disk_stays_full_until_it_is_freed(tmp_path: Path) -> None:
    try:
        with storage.small_disk(tmp_path / "disk", megabytes=4):
            old = tmp_path / "disk" / "old"
            old.write_bytes(bytes(1 << 20))
            with storage.full(tmp_path / "disk"):
                assert wait_until(lambda: _no_room(tmp_path / "disk"), 10.0)
                old.unlink()
                time.sleep(0.2)
                assert _no_room(tmp_path / "disk")
            (tmp_path / "disk" / "new").write_bytes(bytes(2 << 20))
        assert list((tmp_path / "disk").iterdir()) == []
    except storage.NotPossible as error:
        pytest.skip(str(error))


def _no_room(disk: Path) -> bool:
    try:
        (disk / "more").write_bytes(bytes(1 << 16))
    except OSError as error:
        assert error.errno == errno.ENOSPC
        (disk / "more").unlink(missing_ok=True)
        return True
    (disk / "more").unlink()
    return False


def test_the_holder_of_a_lock_is_found_not_who_waits(tmp_path: Path) -> None:
    lock = tmp_path / "key.lock"
    program = "import sys, time, filelock; lock = filelock.FileLock(sys.argv[1]); lock.acquire(); time.sleep(60)"
    assert lock_holder(lock) is None
    holder = start([sys.executable, "-c", program, str(lock)], tmp_path / "log", {})
    assert wait_until(lambda: lock_holder(lock), 10.0)
    waiter = start([sys.executable, "-c", program, str(lock)], tmp_path / "log", {})
    try:
        time.sleep(0.5)
        assert lock_holder(lock) == holder.process.pid
        with pytest.raises(Timeout):
            FileLock(lock).acquire(blocking=False)
        holder.kill()
        assert wait_until(lambda: lock_holder(lock) == waiter.process.pid, 10.0)
    finally:
        holder.kill()
        waiter.kill()
    assert lock_holder(lock) is None


ORPHANS = """
import os, subprocess, sys
from pathlib import Path
from benchmarks.fault_injection.processes import adopt_orphans, end_all, start, wait_until
adopt_orphans()
shell = "sleep 1000 & (sleep 1001 & sleep 1002) & setsid sleep 1003 & wait"
group = start(["sh", "-c", shell], Path(sys.argv[1]), {})
other = start(["sleep", "1004"], Path(sys.argv[1]), {})
assert wait_until(lambda: len(group.members()) == 5, 60), group.members()
left = lambda: sum(os.getsid(pid) != group.process.pid for pid in group.members())
assert wait_until(lambda: left() == 1, 60), "a process is there before it has its own session"
os.kill(group.process.pid, 9)  # its children are orphans now, one of them of a session of its own
group.process.wait()
members = group.members()
assert len(members) == 3, members  # the one that left for a session of its own is ours, but no longer the group's
group.kill()
assert not group.members() and len(other.members()) == 1
end_all(but=[other])
assert len(other.members()) == 1
children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
assert children == [str(other.process.pid)], children
end_all()
assert not other.members()
other.process.wait()
"""


def test_a_group_ends_whole_and_alone(tmp_path: Path) -> None:
    """In a process of its own, which adopts the orphans."""
    command = [sys.executable, "-W", "error", "-c", ORPHANS, str(tmp_path / "log")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_the_relay_passes_on_breaks_off_and_refuses() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=_echo, args=(server,), daemon=True).start()
        relay = Relay(server.getsockname()[1])
        try:
            with closing(socket.create_connection(("127.0.0.1", relay.port), 5)) as asked:
                sent = os.urandom(300_000)
                threading.Thread(target=asked.sendall, args=(sent,)).start()
                received = b""
                while len(received) < len(sent):
                    received += asked.recv(1 << 16)
                assert received == sent
                relay.close()
                with suppress(ConnectionResetError):
                    assert asked.recv(1) == b""
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", relay.port), 5)
            relay.open()
            assert listens(relay.port)
        finally:
            relay.end()


def _echo(server: socket.socket) -> None:
    while True:
        try:
            connection, _ = server.accept()
        except OSError:
            return
        threading.Thread(target=_answer, args=(connection,), daemon=True).start()


def _answer(connection: socket.socket) -> None:
    with connection, suppress(OSError):
        while block := connection.recv(1 << 16):
            connection.sendall(block)


def _sabotaged(folder: Path, order: str, limit_gb: float | None = None) -> subprocess.Popen[str]:
    (folder / "order").write_text(order)
    target = folder / ".building" / "KEY"
    target.mkdir(parents=True, exist_ok=True)

    def limited() -> None:
        if limit_gb:
            resource.setrlimit(resource.RLIMIT_AS, (int(limit_gb * 2**30),) * 2)

    program = "import sys; open(sys.argv[1], 'w').close(); print('written')"
    environment = {**os.environ, "PYTHONPATH": str(SABOTAGE), "PARETO_SABOTAGE": str(folder / "order")}
    command = [sys.executable, "-c", program, str(target / "file")]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, preexec_fn=limited
    )


def test_a_hang_is_ordered_once(tmp_path: Path) -> None:
    with _sabotaged(tmp_path, "hang OTHER") as untouched:
        assert untouched.communicate(timeout=60)[0] == "written\n"
    with _sabotaged(tmp_path, "hang KEY") as hung:
        assert wait_until(lambda: not (tmp_path / "order").exists(), 60.0)
        with pytest.raises(subprocess.TimeoutExpired):
            hung.wait(1.0)
        hung.kill()
        assert hung.communicate()[0] == "" and hung.returncode == -signal.SIGKILL


def test_an_allocation_goes_to_the_limit_or_says_that_there_was_none(tmp_path: Path) -> None:
    with _sabotaged(tmp_path, "allocate KEY 0.2") as unlimited:
        assert unlimited.communicate(timeout=60)[0] == "written\n"
    assert (tmp_path / "order.unlimited").is_dir()
    (tmp_path / "order.unlimited").rmdir()
    with _sabotaged(tmp_path, "allocate KEY 4", limit_gb=0.5) as limited:
        assert "MemoryError" in limited.communicate(timeout=60)[0]
    assert not (tmp_path / "order.unlimited").exists()


def test_ports_are_free() -> None:
    assert not listens(free_port())
