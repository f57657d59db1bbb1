"""MLflow itself: a SQLite store, a real server asked over its REST API, and servers that are dead or silent."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from cluster.study_runs import Place, Point, RunRecord
from cluster.tracking import ENVIRONMENT, Tracker, tracking_place

EPOCHS = [0.9, 0.5, 0.25]
BANGLA = "after_kd/per_label_f1.হুমকি"
SETTINGS = {"pipeline": "baseline_kd", "priorities.হুমকি": 2, "long": "x" * 9000}
PARENT = RunRecord("my study", 1_000, 1_000, params=SETTINGS)


def trial(number: int, status: Any = "FINISHED") -> RunRecord:
    curve = [Point("after_kd/val_loss", value, step, 5_000 + step) for step, value in enumerate(EPOCHS, start=1)]
    figures = [Point("f1_macro", 0.5 + number / 100, 0, 9_000), Point(BANGLA, 0.75, 0, 9_000)]
    params: dict[str, object] = {"distil.method": "logit", "pipeline_description": "logit 2 layers → int8"}
    params |= {f"p{index}": index for index in range(120)}
    return RunRecord(f"trial {number}", 4_000, 9_000, status, params, [*curve, *figures], {"status": "ok"})


def log(place: Place | None, study_id: str, *records: RunRecord, files: tuple[Path, ...] = ()) -> list[str]:
    """A study with these trials, to its end; what was warned of."""
    assert place is not None
    told: list[str] = []
    tracker = Tracker(place, study_id, PARENT, told.append)
    for record in records:
        tracker.log(record)
    tracker.finish("FINISHED", [Point("models", 2.0, 2, 9_500)], files)
    assert tracker.close() != bool(told), "either everything is logged, or it is told"
    return told


@pytest.fixture(scope="module")
def fresh_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder, oddly named, with the default store of one logged study; its tables take seconds to make."""
    folder = tmp_path_factory.mktemp("results") / "my results, ১ #2"
    folder.mkdir()
    figure, table = folder / "front.png", folder / "front.tex"
    figure.write_bytes(b"\x89PNG")
    table.write_text("\\begin{tabular}", encoding="utf-8")
    place = tracking_place(None, "pareto", folder)
    assert log(place, "first", trial(0), trial(1, "FAILED"), files=(figure, table)) == []
    return folder


@pytest.fixture
def results(fresh_database: Path, tmp_path: Path) -> Path:
    """A copy of that folder's database."""
    shutil.copy(fresh_database / "mlflow.db", tmp_path)
    return tmp_path


def ask(folder: Path, query: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(folder / "mlflow.db")) as connection:
        return connection.execute(query).fetchall()


def counts(folder: Path) -> list[int]:
    return [ask(folder, f"SELECT count(*) FROM {table}")[0][0] for table in ("runs", "params", "metrics")]


def test_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert tracking_place("none", "e", tmp_path) is None
    assert tracking_place("https://m.example", "e", tmp_path) == Place("https://m.example", "e", None)
    default = Place(f"sqlite:///{tmp_path}/r/mlflow.db", "e", f"file://{tmp_path}/r/mlartifacts")
    assert tracking_place(None, "e", Path("r")) == default
    assert tracking_place("sqlite:///r/mlflow.db", "e", tmp_path / "elsewhere") == default
    assert tracking_place(f"sqlite:///{tmp_path}/r/mlflow.db", "e", Path("elsewhere")) == default


def test_the_default_store(fresh_database: Path) -> None:
    runs = ask(fresh_database, "SELECT name, status, start_time, end_time FROM runs ORDER BY name")
    assert runs[1:] == [("trial 0", "FINISHED", 4_000, 9_000), ("trial 1", "FAILED", 4_000, 9_000)]
    assert runs[0][:3] == ("my study", "FINISHED", 1_000)
    assert (fresh_database / "mlartifacts").is_dir() and not (Path.cwd() / "mlruns").exists()


def test_what_was_logged_is_not_logged_again(results: Path) -> None:
    before = counts(results)
    place = tracking_place(None, "pareto", results)
    assert log(place, "first", trial(0), trial(1, "FAILED")) == []
    assert counts(results) == before
    assert log(place, "first", trial(0), trial(1, "FAILED"), trial(2)) == []
    assert counts(results) == [number + more for number, more in zip(before, (1, 122, 5), strict=True)]
    assert log(place, "second", trial(0)) == []
    assert counts(results)[0] == before[0] + 1 + 2, "another study of the same name has runs of its own"


def test_a_run_that_was_cut_off_is_completed(results: Path) -> None:
    before = counts(results)
    with closing(sqlite3.connect(results / "mlflow.db")) as connection:
        run = "(SELECT run_uuid FROM runs WHERE name = 'trial 0')"
        connection.execute(f"DELETE FROM metrics WHERE step = 3 AND run_uuid = {run}")
        connection.execute(f"DELETE FROM params WHERE key > 'p5' AND run_uuid = {run}")
        connection.execute("UPDATE runs SET status = 'RUNNING', end_time = NULL WHERE name = 'trial 0'")
        connection.commit()
    assert counts(results) != before
    assert log(tracking_place(None, "pareto", results), "first", trial(0)) == []
    assert counts(results) == before
    assert ask(results, "SELECT status FROM runs WHERE name = 'trial 0'") == [("FINISHED",)]


def test_a_run_is_amended(results: Path) -> None:
    told: list[str] = []
    place = tracking_place(None, "pareto", results)
    assert place is not None
    for _ in range(2):
        tracker = Tracker(place, "first", PARENT, told.append)
        tracker.amend("trial 0", [Point("f1_macro", 0.625, 1, 9_000)])
        assert tracker.close()
    assert ask(results, "SELECT value FROM latest_metrics WHERE key = 'f1_macro' ORDER BY value") == [(0.51,), (0.625,)]
    tracker = Tracker(place, "first", PARENT, told.append)
    tracker.amend("trial 77", [Point("f1_macro", 0.625, 1, 9_000)])
    tracker.log(trial(3))
    assert not tracker.close()
    assert ask(results, "SELECT count(*) FROM runs WHERE name = 'trial 3'") == [(1,)]
    assert "trial 77" in told[0]


def test_a_store_that_comes_back_gets_everything(results: Path, tmp_path: Path) -> None:
    """Its folder is a file until the last trial has ended."""
    (tmp_path / "later").write_text("in the way", encoding="utf-8")
    place = tracking_place(f"sqlite:///{tmp_path}/later/mlflow.db", "pareto", tmp_path)
    assert place is not None
    told: list[str] = []
    tracker = Tracker(place, "id", PARENT, told.append)
    tracker.log(trial(0))
    deadline = time.monotonic() + 60
    while not told and time.monotonic() < deadline:
        time.sleep(0.05)
    tracker.log(trial(1))
    (tmp_path / "later").unlink()
    (tmp_path / "later").mkdir()
    shutil.copy(results / "mlflow.db", tmp_path / "later")
    assert tracker.close()
    [line] = told
    assert "the search goes on" in line and place.uri in line
    assert counts(tmp_path / "later")[0] == counts(results)[0] + 3


def test_a_server_that_is_not_there_costs_nothing(fresh_database: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    told: list[str] = []
    started = time.perf_counter()
    tracker = Tracker(Place(f"http://127.0.0.1:{port}", "pareto", None), "id", PARENT, told.append)
    for number in range(200):
        tracker.log(trial(number))
    assert time.perf_counter() - started < 5
    assert not tracker.close()
    assert time.perf_counter() - started < 40
    assert len(told) == 2 and "the search goes on" in told[0] and "--resume" in told[1]


def test_a_server_that_never_answers_is_not_waited_for(fresh_database: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        told: list[str] = []
        place = Place(f"http://127.0.0.1:{silent.getsockname()[1]}", "pareto", None)
        started = time.perf_counter()
        tracker = Tracker(place, "id", PARENT, told.append)
        tracker.log(trial(0))
        assert time.perf_counter() - started < 5
        assert not tracker.close(1.0)
        assert time.perf_counter() - started < 20
        assert len(told) == 1 and "--resume" in told[0]


def test_it_is_silent_and_sends_nothing_home(results: Path) -> None:
    """In a process of its own, without the variables by which MLflow knows tests and CI."""
    program = """if True:
        import sys
        from pathlib import Path
        from cluster.study_runs import RunRecord
        from cluster.tracking import Tracker, tracking_place
        tracker = Tracker(tracking_place(None, "new", Path(sys.argv[1])), "id", RunRecord("s", 0, 0), print)
        assert "mlflow" not in sys.modules or tracker
        tracker.log(RunRecord("trial 0", 0, 0))
        tracker.finish("FINISHED")
        assert tracker.close()
        from mlflow.telemetry import get_telemetry_client
        assert get_telemetry_client() is None
    """
    markers = ("CI", "PYTEST", "MLFLOW", "GITHUB", "GITLAB")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(markers)}
    command = [sys.executable, "-c", program, str(results)]
    done = subprocess.run(command, env=environment, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.fixture(scope="module")
def server(fresh_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`mlflow server` on the default store, on the loopback interface."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = tmp_path_factory.mktemp("server")
    options = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1", "--artifacts-destination", str(own)]
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{fresh_database}/mlflow.db"]
    environment = {**os.environ, **ENVIRONMENT}
    with (own / "log.txt").open("wb") as output:
        process = subprocess.Popen(
            [*command, *options], cwd=own, stdout=output, stderr=output, env=environment, start_new_session=True
        )
    url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 200
    try:
        while True:
            assert process.poll() is None and time.monotonic() < deadline, (own / "log.txt").read_text("utf-8")
            try:
                with urllib.request.urlopen(f"{url}/health", timeout=20):
                    break
            except OSError:
                time.sleep(0.3)
        yield url
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # with its workers; asked to end, it takes 20 s
        process.wait(30)


def rest(url: str, call: str, body: dict[str, Any] | None = None, **query: str) -> Any:
    address = f"{url}/api/2.0/mlflow/{call}?{urllib.parse.urlencode(query)}"
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(address, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def runs_of(url: str, experiment: str, study_id: str) -> dict[str, Any]:
    found = rest(url, "experiments/get-by-name", experiment_name=experiment)["experiment"]["experiment_id"]
    query = f"tags.`pareto.study_id` = '{study_id}'"
    runs = rest(url, "runs/search", {"experiment_ids": [found], "filter": query})["runs"]
    assert len({run["info"]["run_name"] for run in runs}) == len(runs)
    return {run["info"]["run_name"]: run for run in runs}


@pytest.mark.timeout(400)
@pytest.mark.parametrize("through", ["database", "server"])
def test_the_server_shows_parent_children_curves_and_artifacts(
    through: str, server: str, fresh_database: Path, tmp_path: Path
) -> None:
    study_id, experiment = "first", "pareto"
    if through == "server":
        study_id, experiment = "third", "বাংলা & <b>"
        files = fresh_database / "front.png", fresh_database / "front.tex"
        assert (
            log(tracking_place(server, experiment, tmp_path), "third", trial(0), trial(1, "FAILED"), files=files) == []
        )
    runs = runs_of(server, experiment, study_id)
    assert set(runs) == {"my study", "trial 0", "trial 1"}
    parent = runs["my study"]["info"]["run_id"]
    for number, status in enumerate(("FINISHED", "FAILED")):
        child = runs[f"trial {number}"]
        tags = {tag["key"]: tag["value"] for tag in child["data"]["tags"]}
        assert (tags["mlflow.parentRunId"], tags["status"], child["info"]["status"]) == (parent, "ok", status)
        params = {param["key"]: param["value"] for param in child["data"]["params"]}
        assert len(params) == 122 and params["p119"] == "119"
        assert params["pipeline_description"] == "logit 2 layers → int8"
        of_child = child["info"]["run_id"]
        history = rest(server, "metrics/get-history", run_id=of_child, metric_key="after_kd/val_loss")["metrics"]
        assert [(point["step"], point["value"]) for point in history] == list(enumerate(EPOCHS, start=1))
        latest = {metric["key"]: metric["value"] for metric in child["data"]["metrics"]}
        [of_label] = [key for key in latest if key.startswith("after_kd/per_label_f1.")]
        assert latest["f1_macro"] == 0.5 + number / 100 and latest[of_label] == 0.75
    of_parent = {param["key"]: param["value"] for param in runs["my study"]["data"]["params"]}
    assert of_parent["pipeline"] == "baseline_kd" and len(of_parent) == 3 and 5_000 < len(of_parent["long"]) <= 6_000
    assert [metric["key"] for metric in runs["my study"]["data"]["metrics"]] == ["models"]
    listed = [rest(server, "artifacts/list", run_id=parent, path=path) for path in ("figures", "tables")]
    paths = [file["path"] for one in listed for file in one["files"]]
    assert paths == ["figures/front.png", "tables/front.tex"]
    query = urllib.parse.urlencode({"run_id": parent, "path": "tables/front.tex"})
    with urllib.request.urlopen(f"{server}/get-artifact?{query}", timeout=60) as answer:
        assert answer.read() == b"\\begin{tabular}"
