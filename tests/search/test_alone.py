"""Two runs of one study name: in one results folder, and from two machines with one bucket."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest

from pipeline.errors import InputError
from search.alone import alone
from search.config import StudyConfig
from search.optuna_study import opened
from search.results_mirror import ResultsMirror, ended_trials
from search.start import claim_folder
from search.study_file import load_study, study_from

ROOT = Path(__file__).resolve().parents[2]
SMOKE = ROOT / "search" / "studies" / "smoke.yaml"
BEAT, DEAD = 0.3, 2.0
HOLDER = f"""
import sys, time
from search.alone import alone
from search.study_file import study_from
study = {{"study": "one", "results_dir": sys.argv[1]}} | ({{"storage": sys.argv[2]}} if sys.argv[2:] else {{}})
with alone(study_from(study), print, {BEAT}, {DEAD}):
    print("holds", flush=True)
    time.sleep(600)
"""


def study(results: Path, **changes: str) -> StudyConfig:
    return study_from({"study": "one", "results_dir": str(results)} | changes)


def holder(*arguments: str) -> subprocess.Popen[str]:
    """A process that holds the name, once it does."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "holds\n"
    return process


def end(process: subprocess.Popen[str], how: int) -> None:
    process.send_signal(how)
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    url = f"http://127.0.0.1:{server.get_host_and_port()[1]}"
    for name, value in {"ACCESS_KEY_ID": "k", "SECRET_ACCESS_KEY": "s", "REGION": "us-east-1"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", url)
    access = {"aws_access_key_id": "k", "aws_secret_access_key": "s", "region_name": "us-east-1"}
    boto3.client("s3", endpoint_url=url, **access).create_bucket(Bucket="alone")
    yield f"s3://alone/{uuid.uuid4().hex}"  # the buckets of one server are there in the next
    server.stop()


def test_a_second_run_in_the_same_folder_is_refused_and_one_after_a_kill_is_not(tmp_path: Path) -> None:
    first = holder(str(tmp_path))
    try:
        with pytest.raises(InputError) as raised, alone(study(tmp_path), print):
            pass
        assert f"study='one': another run of a study of this name writes to {tmp_path} now" in str(raised.value)
        assert "--set study=NAME" in str(raised.value)
        with alone(study(tmp_path, study="other"), print):
            pass
    finally:
        end(first, signal.SIGKILL)
    for _ in range(2):
        with alone(study(tmp_path), print):
            assert {*os.listdir(tmp_path)} == {".one.lock", ".other.lock"}


def test_a_second_machine_with_the_same_bucket_is_refused(tmp_path: Path, bucket: str) -> None:
    first, told = holder(str(tmp_path / "here"), bucket), list[str]()
    there = study(tmp_path / "there", storage=bucket)
    try:
        with pytest.raises(InputError) as raised, alone(there, told.append, BEAT, DEAD):
            pass
        assert f"writes to {bucket}/results/one now" in str(raised.value)
        assert len(told) == 1 and "belongs to another run" in told[0]
    finally:
        end(first, signal.SIGTERM)


def test_a_second_machine_waits_until_one_that_was_killed_counts_as_dead(tmp_path: Path, bucket: str) -> None:
    end(holder(str(tmp_path / "here"), bucket), signal.SIGKILL)
    told = list[str]()
    with alone(study(tmp_path / "there", storage=bucket), told.append, BEAT, DEAD):
        assert len(told) <= 1  # none where the kill itself took longer than that
    with alone(study(tmp_path / "there", storage=bucket), told.append, BEAT, DEAD):
        pass  # let go at the end: nothing is waited for
    assert len(told) <= 1


def written(results: Path, bucket: str, seed: int) -> StudyConfig:
    """One more trial of the smoke study with this seed in the folder and in the bucket."""
    settings = ["study=one", f"results_dir={results}", f"storage={bucket}", f"seed={seed}"]
    config = load_study(SMOKE, settings)
    claim_folder(config, resume=True)
    with opened(config, optuna.samplers.RandomSampler(seed=0)) as trials, ResultsMirror(config, pytest.fail):
        trials.tell(trials.ask(), [0.5] * len(trials.directions))
    return config


def resumed(results: Path, bucket: str) -> subprocess.Popen[str]:
    """The command that goes on with the smoke study, which has the seed 0."""
    settings = ["study=one", f"results_dir={results}", f"storage={bucket}", "tracking.uri=none"]
    command = [sys.executable, str(ROOT / "search" / "pareto.py"), str(SMOKE), "--resume"]
    command += [word for setting in settings for word in ("--set", setting)]
    return subprocess.Popen(command, cwd=results.parent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.e2e
def test_what_another_machine_writes_as_it_ends_is_gone_on_with(tmp_path: Path, bucket: str) -> None:
    """The command says of which seed the study is that it has fetched, and refuses to go on with that."""
    first = written(tmp_path / "there", bucket, seed=5)
    with resumed(tmp_path / "here", bucket) as second:
        assert second.stdout is not None
        with alone(first, print):
            told = next((line for line in second.stdout if "belongs to another run" in line), "not waited")
            written(tmp_path / "there", bucket, seed=7)
        told += second.stdout.read()
    assert second.returncode == 2 and "seed: 7 in the study's folder, 0 now" in told, told
    assert ended_trials(tmp_path / "here" / "one" / "study.db") == 2


@pytest.mark.e2e
def test_the_folder_of_a_run_that_has_the_name_stays_where_it_is(tmp_path: Path, bucket: str) -> None:
    """Though the bucket has more trials than the folder."""
    written(tmp_path / "there", bucket, seed=0)
    config = study(tmp_path / "here", storage=bucket)
    with alone(config, print), resumed(tmp_path / "here", bucket) as second:
        (config.folder / "logs").mkdir(parents=True)
        assert second.stdout is not None
        told = second.stdout.read()
    assert second.returncode == 2 and "another run of a study of this name" in told, told
    assert sorted(file.name for file in (tmp_path / "here").rglob("*")) == [".one.lock", "logs", "one"]
