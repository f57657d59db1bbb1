"""Models that only the driver has: found by the other nodes under their digest, with the same keys as at the driver."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer
from pyarrow.fs import S3FileSystem

from pipeline.artifact import Artifact, Notes, Stage
from pipeline.cache import Store, artifact_key
from pipeline.config import Config, DistilConfig, TeacherConfig
from pipeline.errors import InputError
from pipeline.remote import Remote
from pipeline.remote_store import RemoteStore
from search.config import StudyConfig
from search.model_folder import model_digest, resolve
from search.shared_models import fetching, share_models, with_digest
from search.space import Space
from search.start import with_absolute_paths
from search.study_file import load_study

BUCKET = "models"
WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Of a bucket on a real S3 server."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "of-this-test")
        S3FileSystem(endpoint_override=f"http://{host}:{port}", allow_bucket_creation=True).create_dir(BUCKET)
        yield f"s3://{BUCKET}/store"
    server.stop()


def model(folder: Path, words: str) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "bert", "words": words}))
    (folder / "tokenizer.json").write_text("{}")
    (folder / WEIGHTS).write_bytes(words.encode())
    (folder / "notes.txt").write_text("no part of the model")
    return folder


@pytest.fixture
def study(tmp_path: Path, url: str) -> StudyConfig:
    """Of a teacher and two students that lie in folders of the driver."""
    teacher, one, two = (model(tmp_path / name, name) for name in ("teacher", "one", "two"))
    student = f"{{choices: [{one}, {two}]}}"
    settings = ["distil.student=encoder", "distil.method=logit", f"distil.model={student}"]
    config = load_study(None, [f"teacher.model={teacher}", f"storage={url}", *settings])
    return with_absolute_paths(resolve(config))


def node(tmp_path: Path, name: str, url: str) -> Store:
    return Store(tmp_path / name, remote=RemoteStore(Remote(url)))


def test_a_node_without_the_folders_trains_from_the_same_files_under_the_same_keys(
    study: StudyConfig, tmp_path: Path, url: str
) -> None:
    seen: list[tuple[str, dict[str, str]]] = []

    def build(config: TeacherConfig | DistilConfig, folder: Path, *inputs: Artifact) -> Notes:
        files = {file.name: file.read_text() for file in Path(config.model).iterdir()}
        seen.append((config.model, files))
        return {}

    stage = Stage("toy", 1, build)

    fixed = ("method", "student", "model_digest")

    def configs() -> list[Config]:
        students = [
            Space(study).configs({f"distil.{key}": study.distil[key] for key in fixed} | chosen)[0]
            for chosen in ({"distil.model": str(tmp_path / name)} for name in ("one", "two"))
        ]
        return [study.teacher, *(with_digest(study, student) for student in students)]

    def keys() -> list[str]:
        return [artifact_key(stage, config, [], None) for config in configs()]

    share_models(node(tmp_path, "driver", url), study)
    at_driver = keys()
    digests = [model_digest(tmp_path / name) for name in ("teacher", "one", "two")]
    names = ("teacher", "one", "two")
    for name in names:
        shutil.rmtree(tmp_path / name)
    assert keys() == at_driver and len(set(at_driver)) == 3
    worker = node(tmp_path, "worker", url)
    made = [worker.run(fetching(worker, stage), config) for config in configs()]
    assert [artifact.key for artifact in made] == at_driver
    for (place, files), name, digest in zip(seen, names, digests, strict=True):
        assert Path(place) == worker.root / "model" / digest
        assert files[WEIGHTS] == name and {"config.json", "tokenizer.json"} < set(files)
        assert "notes.txt" not in files
    assert [config.model for config in configs()] == [str(tmp_path / name) for name in names], "rows keep the names"


def test_nothing_is_fetched_where_the_result_is_there_already(study: StudyConfig, tmp_path: Path, url: str) -> None:
    stage = Stage("done", 1, lambda config, folder, *inputs: {})
    node(tmp_path, "driver", url).run(stage, study.teacher)
    share_models(node(tmp_path, "driver", url), study)
    shutil.rmtree(tmp_path / "teacher")
    worker = node(tmp_path, "worker", url)
    assert worker.run(fetching(worker, stage), study.teacher).cache_hit
    assert not (worker.root / "model").exists()


def test_a_folder_that_is_here_is_used_as_it_is(study: StudyConfig, tmp_path: Path, url: str) -> None:
    used: list[str] = []
    stage = Stage("here", 1, lambda config, folder, *inputs: used.append(config.model) or {})
    worker = node(tmp_path, "worker", url)
    worker.run(fetching(worker, stage), study.teacher)
    assert used == [str(tmp_path / "teacher")] and not (worker.root / "model").exists()


def test_a_folder_that_holds_other_files_here_is_not_used(study: StudyConfig, tmp_path: Path, url: str) -> None:
    """As the Hugging Face cache of a node, which may have another snapshot of the same model."""
    named = {"distil.method": "logit", "distil.student": "encoder", "distil.model": str(tmp_path / "one")}
    student = Space(study).configs(named)[0]
    at_driver = [study.teacher, with_digest(study, student)]
    used: list[str] = []

    def build(config: TeacherConfig | DistilConfig, folder: Path, *inputs: Artifact) -> Notes:
        used.append((Path(config.model) / WEIGHTS).read_text())
        return {}

    stage = Stage("other", 1, build)
    share_models(node(tmp_path, "driver", url), study)
    for name in ("teacher", "one"):
        (tmp_path / name / WEIGHTS).write_text("newer")
    assert with_digest(study, student) == at_driver[1]
    worker, alone = node(tmp_path, "worker", url), Store(tmp_path / "alone")
    for config in at_driver:
        told = rf"{config.model}: .* give [0-9a-f]{{64}}, .* {config.model_digest}; bring"
        with pytest.raises(InputError, match=told):
            alone.run(fetching(alone, stage), config)
        worker.run(fetching(worker, stage), config)
    assert used == ["teacher", "one"]


def test_a_model_made_from_nothing_needs_no_folder(tmp_path: Path, url: str) -> None:
    study = with_absolute_paths(load_study(None, [f"storage={url}"]))
    assert study.teacher.model == "scratch" and study.distil["model_digest"] is None
    worker = node(tmp_path, "worker", url)
    share_models(worker, study)
    assert not (worker.root / "model").exists()
    used: list[str] = []
    stage = Stage("scratch", 1, lambda config, folder, *inputs: used.append(config.model) or {})
    worker.run(fetching(worker, stage), study.teacher)
    assert used == ["scratch"]
