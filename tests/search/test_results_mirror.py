"""The copy of a study's results in an object store, looked at with another client of the store than ours."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import optuna
import pytest

from pipeline.errors import InputError
from search.config import StudyConfig
from search.optuna_study import open_study
from search.results_mirror import (
    ResultsMirror,
    ResultsNotKept,
    ended_trials,
    fetch_results,
    place,
    set_aside,
)
from search.study_file import study_from

BUCKET = "results-bucket"


class S3:
    """A bucket that keeps every version, on a server that can be stopped and started again."""

    def __init__(self) -> None:
        self.port = 0
        self.start()
        import boto3

        self.client: Any = boto3.client(
            "s3", endpoint_url=self.url, aws_access_key_id="k", aws_secret_access_key="s", region_name="us-east-1"
        )
        self.client.create_bucket(Bucket=BUCKET)
        self.client.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        from moto.server import ThreadedMotoServer

        self.server = ThreadedMotoServer(ip_address="127.0.0.1", port=self.port, verbose=False)
        self.server.start()
        self.port = self.server.get_host_and_port()[1]

    def stop(self) -> None:
        self.server.stop()

    def names(self, prefix: str) -> list[str]:
        listed = self.client.list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", [])
        return [one["Key"] for one in listed if not one["Key"].endswith("/")]

    def content(self, name: str) -> bytes:
        return bytes(self.client.get_object(Bucket=BUCKET, Key=name)["Body"].read())

    def times_written(self, name: str) -> int:
        versions = self.client.list_object_versions(Bucket=BUCKET, Prefix=name).get("Versions", [])
        return sum(one["Key"] == name for one in versions)


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    running = S3()
    yield running
    running.stop()


@pytest.fixture
def config(s3: S3, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> StudyConfig:
    """A study with its own prefix, and a folder with its settings."""
    for name, value in {"ACCESS_KEY_ID": "k", "SECRET_ACCESS_KEY": "s", "REGION": "us-east-1"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.url)
    prefix = request.node.name.removeprefix("test_").replace("_", "-")
    made = study_from(
        {"study": "smoke", "storage": f"s3://{BUCKET}/{prefix}", "results_dir": str(tmp_path / "results")}
    )
    made.folder.mkdir(parents=True)
    (made.folder / "study.yaml").write_text("study: smoke\n", encoding="utf-8")
    return made


def key(config: StudyConfig, name: str) -> str:
    assert config.storage
    return f"{config.storage.removeprefix(f's3://{BUCKET}/')}/results/smoke/{name}"


def run_trials(study: optuna.Study, count: int) -> None:
    for _ in range(count):
        study.tell(study.ask(), [0.5] * len(study.directions))


def trials_in(s3: S3, name: str, folder: Path) -> int:
    """Finished trials of the stored database, which must be whole, by SQL."""
    file = folder / "stored.db"
    file.write_bytes(s3.content(name))
    connection = sqlite3.connect(file)
    try:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        [[count]] = connection.execute("SELECT count(*) FROM trials WHERE state = 'COMPLETE'")
        return int(count)
    finally:
        connection.close()


def wait_until(holds: Any, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def opened_study(config: StudyConfig) -> optuna.Study:
    return open_study(config, optuna.samplers.RandomSampler(seed=0))


def close(study: optuna.Study) -> None:
    storage: Any = study._storage
    storage.close()


def test_while_trials_end_the_copy_follows(s3: S3, config: StudyConfig, tmp_path: Path) -> None:
    """The database is open and written to all the time; each copy of it is whole."""
    (config.folder / "tune").mkdir()
    (config.folder / "tune" / "state.json").write_text("{}", encoding="utf-8")
    (config.folder / ".trials.parquet.0.tmp").write_text("half", encoding="utf-8")
    study = opened_study(config)
    with ResultsMirror(config, pytest.fail) as mirror:
        assert {key(config, "study.yaml"), key(config, "study.db")} == set(s3.names(key(config, "")))
        for count in (1, 3, 4):
            run_trials(study, count - len(study.trials))
            mirror.trial_ended()
            wait_until(lambda: trials_in(s3, key(config, "study.db"), tmp_path) == count)  # noqa: B023
        (config.folder / "models").mkdir()
        (config.folder / "models" / "front.tex").write_text("tables", encoding="utf-8")
        run_trials(study, 1)
    assert trials_in(s3, key(config, "study.db"), tmp_path) == 5
    close(study)
    names = {key(config, name) for name in ("study.yaml", "study.db", "models/front.tex")}
    assert set(s3.names(key(config, ""))) == names
    assert s3.content(key(config, "models/front.tex")) == b"tables"


def test_what_has_not_changed_is_not_sent_again(s3: S3, config: StudyConfig) -> None:
    study = opened_study(config)
    (config.folder / "trials.parquet").write_bytes(b"one")
    with ResultsMirror(config, pytest.fail) as mirror:
        for content in (b"two", b"two"):
            if (config.folder / "trials.parquet").read_bytes() != content:
                (config.folder / "trials.parquet").write_bytes(content)
            mirror.trial_ended()
            wait_until(lambda: s3.content(key(config, "trials.parquet")) == b"two")
    close(study)
    written = [s3.times_written(key(config, name)) for name in ("study.yaml", "study.db", "trials.parquet")]
    assert written == [1, 1, 2]


def test_a_copy_is_whole_while_another_thread_writes(s3: S3, config: StudyConfig, tmp_path: Path) -> None:
    study, stop = opened_study(config), threading.Event()
    close(study)

    def write() -> None:
        mine = opened_study(config)
        while not stop.is_set():
            run_trials(mine, 1)
        close(mine)

    writing = threading.Thread(target=write)
    writing.start()
    try:
        with ResultsMirror(config, pytest.fail) as mirror:
            counts = []
            for _ in range(5):
                mirror.trial_ended()
                time.sleep(0.2)
                counts.append(trials_in(s3, key(config, "study.db"), tmp_path))
    finally:
        stop.set()
        writing.join()
    assert counts == sorted(counts) and counts[-1] > counts[0]


def test_resume_fetches_what_this_machine_lacks(s3: S3, config: StudyConfig, tmp_path: Path) -> None:
    study = opened_study(config)
    run_trials(study, 3)
    (config.folder / "logs").mkdir()
    (config.folder / "logs" / "trial_0.txt").write_text("distil\n", encoding="utf-8")
    with ResultsMirror(config, pytest.fail):
        pass
    close(study)

    elsewhere = config.model_copy(update={"results_dir": str(tmp_path / "elsewhere")})
    assert fetch_results(elsewhere)
    for name in ("study.yaml", "logs/trial_0.txt"):
        assert (elsewhere.folder / name).read_bytes() == (config.folder / name).read_bytes()
    again = opened_study(elsewhere)
    assert [trial.number for trial in again.trials] == [0, 1, 2]
    assert not fetch_results(elsewhere), "as many trials as there: it stays as it is"

    run_trials(again, 1)
    assert not fetch_results(elsewhere), "this machine is ahead"
    with ResultsMirror(elsewhere, pytest.fail):
        pass
    close(again)
    assert fetch_results(config), "the first machine is behind now"
    assert ended_trials(config.folder / "study.db") == 4
    [aside] = Path(config.results_dir).glob("smoke.*")
    assert ended_trials(aside / "study.db") == 3
    assert sorted(path.name for path in Path(config.results_dir).iterdir()) == sorted(["smoke", aside.name])


def test_nothing_to_fetch(config: StudyConfig, tmp_path: Path) -> None:
    elsewhere = config.model_copy(update={"results_dir": str(tmp_path / "elsewhere")})
    assert not fetch_results(elsewhere)
    assert not elsewhere.folder.exists()


def test_a_name_that_leaves_the_folder_is_not_fetched(s3: S3, config: StudyConfig, tmp_path: Path) -> None:
    study = opened_study(config)
    run_trials(study, 1)
    with ResultsMirror(config, pytest.fail):
        pass
    close(study)
    s3.client.put_object(Bucket=BUCKET, Key=key(config, "../../escaped.txt"), Body=b"out")
    elsewhere = config.model_copy(update={"results_dir": str(tmp_path / "a" / "b")})
    assert fetch_results(elsewhere)
    assert not list(tmp_path.rglob("escaped.txt"))


def test_a_study_that_begins_anew_moves_the_earlier_one_aside(s3: S3, config: StudyConfig) -> None:
    with ResultsMirror(config, pytest.fail):
        pass
    neighbour = key(config, "study.yaml").replace("/smoke/", "/smoke2/")
    s3.client.put_object(Bucket=BUCKET, Key=neighbour, Body=b"study: smoke2\n")
    assert set_aside(config, "smoke.20260101") == f"{config.storage}/results/smoke.20260101"
    moved = key(config, "study.yaml").replace("/smoke/", "/smoke.20260101/")
    assert s3.names(key(config, "")) == []
    assert s3.content(moved) == b"study: smoke\n"
    assert s3.content(neighbour) == b"study: smoke2\n"
    assert set_aside(config) is None, "there is none any more"


def test_a_store_that_is_away_for_a_while_loses_nothing(s3: S3, config: StudyConfig, tmp_path: Path) -> None:
    study = opened_study(config)
    with ResultsMirror(config, pytest.fail) as mirror:
        s3.stop()
        run_trials(study, 2)
        started = time.monotonic()
        mirror.trial_ended()
        assert time.monotonic() - started < 2, "the search does not wait"
        time.sleep(1.0)
        run_trials(study, 1)
        s3.start()
    close(study)
    assert trials_in(s3, key(config, "study.db"), tmp_path) == 3


def test_a_store_that_refuses_is_told_and_the_search_goes_on(s3: S3, config: StudyConfig) -> None:
    """The bucket is deleted under the study, and made again before its end, or not."""
    passing = config.model_copy(update={"storage": "s3://passing-bucket"})
    for made_again in (True, False):
        s3.client.create_bucket(Bucket="passing-bucket")
        warned: list[str] = []
        study = opened_study(passing)
        with ExitStack() as stack:
            if not made_again:
                stack.enter_context(pytest.raises(ResultsNotKept, match="s3://passing-bucket/results/smoke lacks"))
            mirror = stack.enter_context(ResultsMirror(passing, warned.append))
            for one in s3.client.list_objects_v2(Bucket="passing-bucket")["Contents"]:
                s3.client.delete_object(Bucket="passing-bucket", Key=one["Key"])
            s3.client.delete_bucket(Bucket="passing-bucket")
            run_trials(study, 1)
            mirror.trial_ended()
            wait_until(lambda: warned)  # noqa: B023
            if made_again:
                s3.client.create_bucket(Bucket="passing-bucket")
        close(study)
        assert len(warned) == 1
        assert warned[0].startswith(f"{place(passing)} is behind (")
    assert ended_trials(passing.folder / "study.db") == 2


@pytest.mark.parametrize("whole_again", [True, False])
def test_a_database_that_cannot_be_copied_is_told_and_the_search_goes_on(
    whole_again: bool, s3: S3, config: StudyConfig, tmp_path: Path
) -> None:
    """For a while, or to the end, which then keeps the error that the study ended with."""
    study = opened_study(config)
    run_trials(study, 1)
    close(study)
    database, aside = config.folder / "study.db", tmp_path / "study.db"
    warned: list[str] = []
    with ExitStack() as stack:
        if not whole_again:
            stack.enter_context(pytest.raises(KeyError, match="of the study"))
        mirror = stack.enter_context(ResultsMirror(config, warned.append))
        database.rename(aside)
        database.write_bytes(b"no database" * 1000)
        mirror.trial_ended()
        wait_until(lambda: warned)
        assert len(warned) == 1 and warned[0].startswith(f"{place(config)} is behind (")
        if not whole_again:
            raise KeyError("of the study")
        aside.replace(database)
        (config.folder / "front.parquet").write_bytes(b"new")
        mirror.trial_ended()
        wait_until(lambda: key(config, "front.parquet") in s3.names(key(config, "")))
    assert [line.startswith(f"{place(config)} lacks the last results") for line in warned[1:]] == (
        [] if whole_again else [True]
    )
    assert trials_in(s3, key(config, "study.db"), tmp_path) == 1


def test_a_study_whose_database_cannot_be_copied_at_the_end_is_not_kept(config: StudyConfig) -> None:
    close(opened_study(config))
    with pytest.raises(ResultsNotKept, match="lacks the last results") as raised, ResultsMirror(config, lambda _: None):
        (config.folder / "study.db").write_bytes(b"no database" * 1000)
    assert isinstance(raised.value.__cause__, sqlite3.Error)


def test_a_run_that_was_taken_for_dead_does_not_write_over_its_successor(
    s3: S3, config: StudyConfig, tmp_path: Path
) -> None:
    """The first machine slept; on the second the study is gone on with, and then the first one wakes up."""
    elsewhere = config.model_copy(update={"results_dir": str(tmp_path / "elsewhere")})
    warned: list[str] = []
    study = opened_study(config)
    run_trials(study, 1)
    with ExitStack() as stack:
        stack.enter_context(pytest.raises(ResultsNotKept, match="lacks the last results.*another run of the study"))
        slept = stack.enter_context(ResultsMirror(config, warned.append))
        assert fetch_results(elsewhere)
        again = opened_study(elsewhere)
        with ResultsMirror(elsewhere, pytest.fail) as second:
            run_trials(again, 2)
            run_trials(study, 5)
            slept.trial_ended()
            wait_until(lambda: warned)
            assert str(config.folder) in warned[0] and "took this one for dead" in warned[0]
            second.trial_ended()
            wait_until(lambda: trials_in(s3, key(config, "study.db"), tmp_path) == 3)
        (config.folder / "front.parquet").write_bytes(b"of the first")
    close(study)
    close(again)
    assert trials_in(s3, key(config, "study.db"), tmp_path) == 3
    assert key(config, "front.parquet") not in s3.names(key(config, "")) and len(warned) == 1


def test_a_storage_that_is_a_folder_has_no_copy(tmp_path: Path) -> None:
    for storage in (None, str(tmp_path / "store")):
        config = study_from({"study": "smoke", "storage": storage, "results_dir": str(tmp_path / "results")})
        assert not config.storage_is_remote
        with ResultsMirror(config, pytest.fail) as mirror:
            mirror.trial_ended()
    assert not any(tmp_path.iterdir())


def test_a_bucket_that_is_not_there_is_told(config: StudyConfig) -> None:
    missing = config.model_copy(update={"storage": "s3://no-such-bucket/x"})
    with pytest.raises(InputError, match="no-such-bucket"):
        fetch_results(missing)
