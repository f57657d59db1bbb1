"""A study submitted as a job to a cluster of three raylets, with S3 as its storage; and who is not let in there."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cluster import two_nodes
from cluster.session import JOB, default_address, passing_folder
from evaluation.records import read_records
from search.start import in_passing_folder
from search.study_file import study_from
from tests.cluster.raylets import Raylets, raylets

pytestmark = pytest.mark.timeout(600)

ROOT = Path(__file__).parents[2]
SMOKE = ROOT / "search" / "studies" / "smoke.yaml"
BUCKET = "pareto-bucket"
NOT_SOURCES = shutil.ignore_patterns(".git", ".venv", ".hypothesis", "results", "build", "__pycache__", ".*_cache")
TRIALS = 8
"""So many that the worker that starts last has one too: the first may end some before."""
SETTINGS = (f"search.trials={TRIALS}", "search.stop_margin=1", "measure.seconds=0.05", "data.sample_rows=600")
UPLOADED = "uploaded-"
"""What the copy of the checkout writes before a node's name: rows tell whose code the workers ran."""


@dataclass(frozen=True)
class Submitted:
    """A job that has ended, and what is where."""

    cluster: Raylets
    s3: Any
    status: int
    printed: str
    trials: Path
    """`trials.parquet`, fetched from the bucket."""

    def names(self, prefix: str) -> set[str]:
        """What is in the bucket below `prefix`, without it."""
        listed = self.s3.client.list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", [])
        return {one["Key"].removeprefix(prefix) for one in listed if not one["Key"].endswith("/")}


class S3:
    """A server with a bucket, and how to reach it."""

    def __init__(self) -> None:
        import boto3
        from moto.server import ThreadedMotoServer

        self.server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self.server.start()
        url = f"http://127.0.0.1:{self.server.get_host_and_port()[1]}"
        keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "a-secret-of-s3"}
        self.environment = {**keys, "AWS_REGION": "us-east-1", "AWS_ENDPOINT_URL": url}
        lower = {name.lower(): value for name, value in keys.items()}
        self.client: Any = boto3.client("s3", endpoint_url=url, region_name="us-east-1", **lower)
        self.client.create_bucket(Bucket=BUCKET)


@pytest.fixture(scope="module")
def submitted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Submitted]:
    """The smoke study, submitted from a copy of the checkout beside which lies what must not be uploaded."""
    folder = tmp_path_factory.mktemp("submitted")
    s3 = S3()
    try:
        with raylets(**s3.environment) as cluster:
            for number in range(2):
                cluster.add_worker(folder, PARETO_CACHE=str(folder / f"cache-{number}"))
            checkout = copy_of_the_checkout(folder / "checkout")
            two_nodes.wait_until_up(cluster.nodes)
            token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": cluster.token}
            settings = [f"storage=s3://{BUCKET}/studies", *SETTINGS]
            done = submit(
                cluster,
                cluster.client_environment(folder, **token),
                checkout,
                *("python", "search/pareto.py", "search/studies/smoke.yaml"),
                *(word for setting in settings for word in ("--set", setting)),
            )
            printed = done.stdout + done.stderr
            assert f"s3://{BUCKET}/studies/results/smoke" in printed, printed
            trials = folder / "trials.parquet"
            s3.client.download_file(BUCKET, "studies/results/smoke/trials.parquet", str(trials))
            yield Submitted(cluster, s3, done.returncode, printed, trials)
    finally:
        s3.server.stop()


def copy_of_the_checkout(folder: Path) -> Path:
    """The sources as they are now, and decoys."""
    shutil.copytree(ROOT, folder, ignore=NOT_SOURCES)
    nodes = folder / "cluster" / "nodes.py"
    text = nodes.read_text(encoding="utf-8")
    assert text.count('return f"{host}/') == 1
    nodes.write_text(text.replace('return f"{host}/', f'return f"{UPLOADED}{{host}}/'), encoding="utf-8")
    for decoy in (".git/decoy", ".venv/lib/decoy", "results/decoy", ".mypy_cache/decoy", "search/__pycache__/decoy"):
        (folder / decoy).parent.mkdir(parents=True, exist_ok=True)
        (folder / decoy).write_text("to stay at home", encoding="utf-8")
    return folder


def submit(
    cluster: Raylets, environment: dict[str, str], folder: Path, *command: str
) -> subprocess.CompletedProcess[str]:
    """`ray job submit`, to its end."""
    ray = str(Path(sys.executable).with_name("ray"))
    arguments = [ray, "job", "submit", "--address", cluster.dashboard, "--working-dir", ".", "--", *command]
    return subprocess.run(arguments, cwd=folder, env=environment, capture_output=True, text=True, timeout=500)


def asked(url: str, token: str | None) -> tuple[int, str]:
    """Status and text that the dashboard answers."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def nodes_of(cluster: Raylets) -> dict[str, bool]:
    """Ids of the nodes that are alive, and whether each is the head, as the dashboard has them."""
    status, text = asked(f"{cluster.dashboard}/api/v0/nodes", cluster.token)
    assert status == 200, text
    found = json.loads(text)["data"]["result"]["result"]
    return {one["node_id"]: one["is_head_node"] for one in found if one["state"] == "ALIVE"}


@pytest.mark.e2e
def test_a_submitted_study_runs_on_both_workers(submitted: Submitted) -> None:
    assert submitted.status in (0, 1), submitted.printed
    assert (submitted.status == 1) == ("no compressed model is safe" in submitted.printed), submitted.printed
    trials = read_records(submitted.trials)
    assert set(trials["status"]) == {"ok"} and set(trials["trial"].dropna()) <= set(range(TRIALS))
    assert f"{TRIALS} trials ended" in submitted.printed, submitted.printed
    [head] = [one for one, is_head in nodes_of(submitted.cluster).items() if is_head]
    workers = {one[:8] for one in nodes_of(submitted.cluster)} - {head[:8]}
    assert len(workers) == 2
    ran = trials.loc[trials["trial"].notna(), "node"]
    assert {name.rpartition("/")[2] for name in ran} == workers
    assert {name.rpartition("/")[2] for name in trials["node"]} == workers, "the teacher was not trained on the head"
    assert all(name.startswith(UPLOADED) for name in trials["node"]), "workers run what was uploaded"


@pytest.mark.e2e
def test_the_results_are_in_the_bucket(submitted: Submitted) -> None:
    kept = submitted.names("studies/results/smoke/")
    expected = {
        "study.yaml",
        "study.db",
        "trials.parquet",
        "front.parquet",
        "front.tex",
        "report.html",
        "flips.parquet",
    }
    assert expected <= kept and not any(name.startswith("tune/") for name in kept)
    assert f"s3://{BUCKET}/studies/results/smoke" in submitted.printed
    for folder in uploads(submitted.cluster):
        results = folder / "results"
        written = {str(file.relative_to(results)) for file in results.rglob("*") if file.is_file()} - {".smoke.lock"}
        own = {name.removeprefix("smoke/") for name in written if not name.startswith("smoke/tune/")}
        assert {name for name in own if not name.startswith("study.db")} <= kept
    assert "a-secret-of-s3" not in submitted.printed and submitted.cluster.token not in submitted.printed
    for name in kept:
        content = submitted.s3.client.get_object(Bucket=BUCKET, Key=f"studies/results/smoke/{name}")["Body"].read()
        assert b"a-secret-of-s3" not in content and submitted.cluster.token.encode() not in content


def uploads(cluster: Raylets) -> list[Path]:
    """The working directory of the job, as Ray has unpacked it for its nodes."""
    return list((cluster.nodes.folder / "ray").glob("session_2*/runtime_resources/working_dir_files/_ray_pkg_*/"))


@pytest.mark.e2e
def test_what_is_uploaded_is_small(submitted: Submitted) -> None:
    folders = [folder for folder in uploads(submitted.cluster) if (folder / "search" / "pareto.py").is_file()]
    assert folders
    for folder in folders:
        files = [file for file in folder.rglob("*") if file.is_file()]
        assert not [file for file in files if file.name == "decoy"]
        uploaded = [file for file in files if file.suffix != ".pyc" and file.relative_to(folder).parts[0] != "results"]
        assert sum(file.stat().st_size for file in uploaded) < 3 * 2**20
        assert not any((folder / name).exists() for name in ("tests", "docs", "benchmarks", ".git", ".venv"))


WRONG = [{}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}]


@pytest.mark.e2e
@pytest.mark.parametrize("environment", WRONG, ids=["no token", "wrong token"])
def test_without_the_token_nothing_is_submitted(
    environment: dict[str, str], submitted: Submitted, tmp_path: Path
) -> None:
    before = json.loads(asked(f"{submitted.cluster.dashboard}/api/jobs/", submitted.cluster.token)[1])
    client = submitted.cluster.client_environment(tmp_path, **environment)
    done = submit(submitted.cluster, client, tmp_path, "touch", str(tmp_path / "entered"))
    assert done.returncode != 0
    assert re.search("[Uu]nauthorized|[Aa]uthenticat|token", done.stdout + done.stderr)
    assert json.loads(asked(f"{submitted.cluster.dashboard}/api/jobs/", submitted.cluster.token)[1]) == before
    assert not (tmp_path / "entered").exists()


@pytest.mark.e2e
def test_without_the_token_the_dashboard_tells_nothing(submitted: Submitted) -> None:
    for path in ("api/jobs/", "api/v0/nodes", "nodes?view=summary", "api/cluster_status", "api/v0/tasks", "logs"):
        url = f"{submitted.cluster.dashboard}/{path}"
        assert asked(url, None)[0] == 401, path
        assert asked(url, "0" * 64)[0] == 403, path
    assert asked(f"{submitted.cluster.dashboard}/api/jobs/", submitted.cluster.token)[0] == 200


@pytest.mark.e2e
@pytest.mark.parametrize("environment", WRONG, ids=["no token", "wrong token"])
def test_without_the_token_no_node_joins(environment: dict[str, str], submitted: Submitted, tmp_path: Path) -> None:
    before = nodes_of(submitted.cluster)
    options = submitted.cluster.worker_options(submitted.cluster.nodes.folder / "intruder")
    command = [str(Path(sys.executable).with_name("ray")), "start", *options]
    client = submitted.cluster.client_environment(tmp_path, **environment)
    client["RAY_gcs_server_port_wait_time_s"] = "3"  # Ray would knock for 20
    client[two_nodes.MARK] = str(submitted.cluster.nodes.folder)  # what it may leave ends with the cluster
    joining = subprocess.run(command, cwd=tmp_path, env=client, capture_output=True, text=True, timeout=120)
    assert joining.returncode != 0
    assert two_nodes.READY not in joining.stdout
    assert nodes_of(submitted.cluster) == before


def job(monkeypatch: pytest.MonkeyPatch, **environment: Any) -> None:
    """Ray's word that this process is the driver of a job."""
    told = {"runtime_env": environment, "metadata": {"job_submission_id": "raysubmit_1"}}
    monkeypatch.setenv(JOB, json.dumps(told))


def test_in_a_job_the_cluster_is_the_one_it_was_submitted_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(JOB, raising=False)
    assert default_address() == "local" and passing_folder() is None
    job(monkeypatch)
    assert default_address() == "auto" and passing_folder() is None, "a job without an upload has no folder of its own"
    job(monkeypatch, working_dir="gcs://_ray_pkg_0.zip")
    assert passing_folder() == Path.cwd()


@pytest.mark.parametrize(
    ("settings", "refused"),
    [
        ([], ["results_dir='results'"]),
        (["results_dir=deep/er", "storage=store"], ["results_dir='deep/er'", "storage='store'"]),
        (["results_dir=STAYS", "storage=store"], ["storage='store'"]),
        (["storage=STAYS"], ["results_dir='results'"]),
    ],
)
def test_a_job_whose_results_would_vanish_is_refused(
    settings: list[str], refused: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything starts: no cluster is there to join."""
    job(monkeypatch, working_dir="gcs://_ray_pkg_0.zip")
    (tmp_path / "upload").mkdir()
    settings = [one.replace("STAYS", str(tmp_path / "stays")) for one in settings]
    command = [sys.executable, str(ROOT / "search" / "pareto.py"), str(SMOKE)]
    command += [word for one in settings for word in ("--set", one)]
    done = subprocess.run(command, cwd=tmp_path / "upload", capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    first, *lines = done.stderr.splitlines()
    assert [line.split(":")[0].strip() for line in lines] == refused
    for line in lines:
        key = line.split("=")[0].strip()
        assert "vanishes with it; keep the results with --set storage=s3://BUCKET/PREFIX" in line
        assert line.endswith(f"or --set {key}=/FOLDER/THAT/STAYS")
    assert not os.listdir(tmp_path / "upload") and not (tmp_path / "stays").exists()


def test_a_job_is_not_logged_to_a_file_that_vanishes(tmp_path: Path) -> None:
    made = study_from({"study": "smoke", "storage": "s3://bucket/x", "results_dir": str(tmp_path / "upload/results")})
    assert in_passing_folder(made, tmp_path / "upload").tracking.uri == "none"
    assert in_passing_folder(made, tmp_path / "other") == in_passing_folder(made, None) == made
    named = study_from({**made.model_dump(), "tracking": {"uri": "https://mlflow.example"}})
    assert in_passing_folder(named, tmp_path / "upload").tracking.uri == "https://mlflow.example"
