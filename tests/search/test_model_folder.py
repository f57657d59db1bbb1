"""The teacher's folder and the folders to be written: each fault told before anything starts."""

from __future__ import annotations

import json
import math
import os
import struct
from pathlib import Path

import pytest

from pipeline.errors import InputError
from search.model_folder import check_paths, model_digest, resolve
from search.study_file import differences, load_study, to_yaml


def model_folder(folder: Path, layers: int = 4, **config: object) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "bert", "num_hidden_layers": layers, **config}))
    (folder / "tokenizer.json").write_text("{}")
    header = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    return folder


def path_faults(tmp_path: Path, model: Path | str = "scratch", *overrides: str) -> list[str]:
    return check_paths(load_study(None, [f"teacher.model={model}", f"results_dir={tmp_path / 'out'}", *overrides]))


def test_a_sound_teacher_folder_has_no_faults(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model")
    assert path_faults(tmp_path, folder) == []
    safetensors = pytest.importorskip("safetensors.numpy")
    safetensors.save_file({"w": __import__("numpy").ones(5)}, folder / "model.safetensors")
    assert path_faults(tmp_path, folder) == []
    assert not (tmp_path / "out").exists()


def test_teacher_folder_faults(tmp_path: Path) -> None:
    def one(name: str, **config: object) -> Path:
        return model_folder(tmp_path / name, **config)

    def told(folder: Path | str) -> str:
        [problem] = path_faults(tmp_path, folder)
        assert problem.startswith(f"teacher.model='{folder}': ")
        return problem

    for missing, remedy in {
        "config.json": "config.json is missing; save the model again",
        "tokenizer.json": "tokenizer.json is missing; save a fast tokenizer",
        "model.safetensors": "has no *.safetensors weights; save the model",
    }.items():
        folder = one(f"without_{missing}")
        (folder / missing).unlink()
        assert remedy in told(folder)
    (folder / "pytorch_model.bin").write_bytes(b"x")
    assert "convert them with save_pretrained(folder, safe_serialization=True)" in told(folder)
    assert "auto_map" in told(one("custom", auto_map={"AutoModel": "m.M"}))
    folder = one("custom_tokenizer")
    (folder / "tokenizer_config.json").write_text('{"auto_map": {}}')
    assert "tokenizer_config.json asks to run its own code" in told(folder)
    folder = one("broken_config")
    (folder / "config.json").write_text("[1")
    assert "config.json is no JSON object" in told(folder)
    folder = one("sharded")
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-2.safetensors"}}')
    assert "model-2.safetensors is missing, though the index lists it" in told(folder)
    (tmp_path / "file").write_text("")
    assert "is a file; name the folder" in told(str(tmp_path / "file"))
    assert "no such folder" in told("./nowhere")
    assert "no such folder" in told("/no/where")


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "is cut off or no safetensors file (0 bytes)"),
        (b"abc", "is cut off or no safetensors file (3 bytes)"),
        (struct.pack("<Q", 500) + b"{}", "is cut off or no safetensors file (10 bytes)"),
        (struct.pack("<Q", 2) + b"{]", "has an unreadable header"),
        (struct.pack("<Q", 31) + b'{"w": {"data_offsets": [0, 0]}}', "has an unreadable header"),
        (struct.pack("<Q", 2) + b"{}", "holds no weights"),
        (None, "bytes where its header asks for"),
    ],
)
def test_torn_weights(tmp_path: Path, content: bytes | None, fault: str) -> None:
    weights = model_folder(tmp_path / "model") / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] if content is None else content)
    [problem] = path_faults(tmp_path, tmp_path / "model")
    assert fault in problem and problem.endswith("copy it again, whole")


def weights_of(file: Path, **shapes: list[int]) -> None:
    """A safetensors file of these FP16 tensors, all zeros: the disk holds no more than its header."""
    header, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * math.prod(shape)
        header[name.replace("__", ".")] = {"dtype": "F16", "shape": shape, "data_offsets": [start, end]}
    written = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(written)) + written)
    os.truncate(file, 8 + len(written) + end)


def test_an_encoder_that_no_onnx_file_can_hold_is_refused(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "large")
    limit = 2**29  # parameters of 4 bytes in 2 GiB
    weights_of(folder / "model.safetensors", embeddings__word=[2**18, 1024], encoder__layer=[2**18 - 1, 1024])
    assert path_faults(tmp_path, folder) == []
    weights_of(folder / "model.safetensors", embeddings__word=[250_002, 1024], encoder__layer=[303_000_000])
    told = "has 559 million parameters, 2.1 GiB in FP32, where an ONNX file must stay below 2; take a smaller encoder"
    assert path_faults(tmp_path, folder) == [f"teacher.model='{folder}': {told}, such as base in place of large"]
    student = ("distil.method=logit", "distil.student=encoder", f"distil.model={folder}")
    [problem] = path_faults(tmp_path, "scratch", *student)
    assert problem.startswith(f"distil.model='{folder}': has 559 million parameters")
    weights_of(folder / "model.safetensors", bert__embeddings__word=[limit - 1], cls__decoder=[limit])
    assert path_faults(tmp_path, folder) == [], "a head for masked words is left behind"
    for shard, name in (("model-1", "embeddings__word"), ("model-2", "encoder__layer")):
        weights_of(folder / f"{shard}.safetensors", **{name: [limit // 2]})
    (folder / "model.safetensors").unlink()
    assert "has 537 million parameters" in path_faults(tmp_path, folder)[0], "all shards together"


def test_an_encoder_that_cannot_read_such_long_comments_is_refused(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "short", max_position_embeddings=60)
    assert path_faults(tmp_path, folder, "teacher.max_tokens=60") == []
    told = "reads 60 tokens at once; lower teacher.max_tokens=61, or take another encoder"
    assert path_faults(tmp_path, folder, "teacher.max_tokens=61") == [f"teacher.model='{folder}': {told}"]
    student = ("distil.method=logit", "distil.student=encoder", f"distil.model={folder}")
    assert path_faults(tmp_path, "scratch", *student, "teacher.max_tokens=61") == [f"distil.model='{folder}': {told}"]


def test_a_hub_id_is_looked_for_in_the_cache_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    asked = []

    def cached(name: str, file: str) -> str | None:
        asked.append((name, file))
        return str(tmp_path / "snapshot" / file) if name == "org/cached" else None

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", cached)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    [problem] = path_faults(tmp_path, "org/absent")
    assert problem.startswith(
        "teacher.model='org/absent': no such folder, and no such model in the Hugging Face cache;"
    )
    assert problem.endswith("hf download org/absent")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "HF_HUB_OFFLINE is set" in path_faults(tmp_path, "org/absent")[0]
    model_folder(tmp_path / "snapshot", layers=2)
    assert path_faults(tmp_path, "org/cached") == []
    assert asked == [("org/absent", "config.json")] * 2 + [("org/cached", "config.json")]


def test_folders_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.write_text("")
    for results in (file, file / "below" / "it"):
        [problem] = check_paths(load_study(None, [f"results_dir={results}"]))
        assert problem.startswith(f"results_dir='{results}': {file} is a file, not a folder; move it")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "embedded").write_text("")
    [problem] = path_faults(tmp_path)
    assert f"{tmp_path / 'out' / 'embedded'} is a file" in problem
    (tmp_path / "out" / "embedded").unlink()
    [problem] = path_faults(tmp_path, "scratch", f"storage={file}")
    assert problem.startswith(f"storage='{file}': {file} is a file")
    assert path_faults(tmp_path, "scratch", "storage=s3://bucket/prefix") == []
    assert "gs:// is no store; write s3://" in path_faults(tmp_path, "scratch", "storage=gs://bucket")[0]
    [problem] = path_faults(tmp_path, "scratch", "storage=s3://key:sec/ret@bucket/prefix")
    assert problem.startswith("storage: ") and "AWS_SECRET_ACCESS_KEY" in problem and "ret@" not in problem
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert path_faults(tmp_path) == [
        f"results_dir='{tmp_path / 'out'}': {tmp_path / 'out'} is not writable; make it so or name another folder"
    ]


def test_resolve_fills_in_the_digest_of_the_folder(tmp_path: Path) -> None:
    here, moved = model_folder(tmp_path / "here"), model_folder(tmp_path / "moved")
    (moved / "training_args.bin").write_bytes(b"no part of the model")
    config = load_study(None, [f"teacher.model={here}"])
    old, new = resolve(config), resolve(load_study(None, [f"teacher.model={moved}"]))
    assert old.teacher.model_digest == new.teacher.model_digest == model_digest(here)
    assert differences(old, new) == []
    (tmp_path / "mine.yaml").write_text(to_yaml(old), encoding="utf-8")
    assert resolve(old) == old == load_study(tmp_path / "mine.yaml")
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        content = (here / name).read_bytes()
        (here / name).write_bytes(content + b" ")
        assert resolve(config).teacher.model_digest != old.teacher.model_digest
        with pytest.raises(InputError, match=r"teacher\.model_digest='.*give .*; bring the old ones back, or set null"):
            resolve(old)
        (here / name).write_bytes(content)
    assert resolve(load_study(None)).teacher.model_digest is None


def test_resolve_fills_in_the_digest_of_a_hub_models_snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    cache = tmp_path / "hub" / "models--org--teacher"
    (cache / "refs").mkdir(parents=True)
    (cache / "snapshots").mkdir()
    config = load_study(None, ["teacher.model=org/teacher"])
    assert resolve(config).teacher.model_digest is None, "not fetched yet"

    def fetched(revision: str, layers: int) -> Path:
        (cache / "refs" / "main").write_text(revision)
        return model_folder(cache / "snapshots" / revision, layers)

    first = fetched("a" * 40, layers=2)
    old = resolve(config)
    assert old.teacher.model == "org/teacher" and old.teacher.model_digest == model_digest(first)
    assert resolve(old) == old
    second = fetched("b" * 40, layers=3)
    new = resolve(config)
    assert new.teacher.model_digest == model_digest(second)
    assert new.teacher.key_fields() != old.teacher.key_fields(), "other weights make another teacher"
    with pytest.raises(InputError, match=r"teacher\.model_digest='.*the files in org/teacher give .*; bring"):
        resolve(old)
