"""MLflow in a process of its own: what is logged there, and what holds when it is killed, stopped or left alone."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from cluster.study_runs import Place, Point, RunRecord
from cluster.tracking import tracking_place
from cluster.tracking_process import TrackerApart

ROOT = Path(__file__).parents[2]
PARENT = RunRecord("my study", 1_000, 1_000, params={"হুমকি": 2})


def trial(number: int, points: int = 3) -> RunRecord:
    return RunRecord(f"trial {number}", 4_000, 9_000, metrics=[Point("f1", 0.5, step, 5_000) for step in range(points)])


def place_in(folder: Path) -> Place:
    place = tracking_place(None, "pareto", folder)
    assert place is not None
    return place


def ask(folder: Path, query: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(folder / "mlflow.db")) as connection:
        return connection.execute(query).fetchall()


def gone(pid: int) -> bool:
    """Whether there is no such process, or only what its parent has not yet asked for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def wait_until(holds: Any, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_all_is_logged_by_another_process(tmp_path: Path) -> None:
    told: list[str] = []
    tracker = TrackerApart(place_in(tmp_path), "id", PARENT, told.append)
    assert tracker.pid not in (None, os.getpid())
    for number in range(3):
        tracker.log(trial(number))
    tracker.amend("trial 1", [Point("again", 0.25, 1, 6_000)])
    file = tmp_path / "front.tex"
    file.write_text("x", encoding="utf-8")
    tracker.finish("FINISHED", [Point("models", 2.0, 2, 9_500)], [file])
    assert tracker.close() and told == []
    names = ask(tmp_path, "SELECT name, status FROM runs ORDER BY name")
    assert names == [(name, "FINISHED") for name in ("my study", "trial 0", "trial 1", "trial 2")]
    assert ask(tmp_path, "SELECT value FROM metrics WHERE key = 'again'") == [(0.25,)]
    assert list((tmp_path / "mlartifacts").rglob("front.tex"))
    assert gone(tracker.pid or 0)


def test_a_warning_comes_over(tmp_path: Path) -> None:
    told: list[str] = []
    tracker = TrackerApart(Place("http://127.0.0.1:9", "e", None), "id", PARENT, told.append)
    tracker.log(trial(0))
    assert not tracker.close()
    assert "MLflow at http://127.0.0.1:9" in told[0] and "run again with --resume to log the rest" in told[-1]


def test_a_process_that_is_killed_or_stands_still_holds_up_nobody(tmp_path: Path) -> None:
    for number, sent in enumerate((signal.SIGKILL, signal.SIGSTOP)):
        told: list[str] = []
        tracker = TrackerApart(place_in(tmp_path / str(number)), "id", PARENT, told.append)
        os.kill(tracker.pid or 0, sent)
        started = time.monotonic()
        for index in range(300):
            tracker.log(trial(index, points=100))
        assert time.monotonic() - started < 30, "more than a pipe holds is sent beside the search"
        assert not tracker.close(1.0)
        assert time.monotonic() - started < 60
        assert told[-1].endswith("run again with --resume to log the rest")
        assert ("has ended: killed, or out of memory" in told[0]) == (sent == signal.SIGKILL)
        assert gone(tracker.pid or 0)


DRIVER = """
import sys, time
from pathlib import Path
from cluster.study_runs import RunRecord
from cluster.tracking import tracking_place
from cluster.tracking_process import TrackerApart
if __name__ == "__main__":
    place = tracking_place(None, "pareto", Path(sys.argv[1]))
    tracker = TrackerApart(place, "id", RunRecord("s", 1, 1), print)
    tracker.log(RunRecord("trial 0", 1, 2))
    print(tracker.pid, "mlflow" in sys.modules, flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
def test_it_ends_with_the_driver_and_not_by_ctrl_c(sent: signal.Signals, tmp_path: Path) -> None:
    script = tmp_path / "driver.py"
    script.write_text(DRIVER, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    pid, imported = process.stdout.readline().split()
    assert imported == "False", "the driver itself is spared MLflow's 200 MB"
    if sent == signal.SIGINT:
        wait_until((tmp_path / "mlflow.db").is_file)
        os.kill(int(pid), signal.SIGINT)
        time.sleep(0.5)
        assert not gone(int(pid)), "Ctrl-C in the terminal reaches it too"
    process.kill()
    process.communicate()
    wait_until(lambda: gone(int(pid)))
