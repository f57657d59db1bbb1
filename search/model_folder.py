"""The places a study names, checked before it starts: is the teacher's folder whole, can the results be written."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import InputError
from pipeline.object_store import url_fault
from pipeline.pretrained import is_hub_id, model_folder
from search.config import Choices, StudyConfig
from search.wording import problem

__all__ = [
    "HEADS",
    "LAYERS",
    "WIDTH",
    "check_paths",
    "encoder_fact",
    "model_digest",
    "model_files",
    "model_folder",
    "resolve",
    "student_models",
]

_WEIGHT_FILES = ("config.json", "*.safetensors", "*.safetensors.index.json")

LAYERS = ("num_hidden_layers", "n_layers", "num_layers", "n_layer")
HEADS = ("num_attention_heads", "n_heads", "n_head")
WIDTH = ("hidden_size", "dim", "d_model", "n_embd")
POSITIONS = ("max_position_embeddings", "n_positions")
"""What the architectures' configurations call these."""
FP32_BYTES = 4
ONNX_BYTES = 2**31
"""An ONNX file is one message of protobuf, which cannot be larger."""
_TOKENIZER_FILES = ("*token*.json", "vocab*", "merges.txt", "*.model")


def check_paths(config: StudyConfig) -> list[str]:
    """Problems with the folders of teacher, results and store, a line each; never uses the network."""
    problems = _folder_problems("results_dir", config.results_dir, config.folder)
    if config.storage is not None and config.storage_is_remote:
        fault = url_fault(config.storage)
        problems += [f"storage: {fault}"] if fault else []  # without the URL, which may have a password in it
    elif config.storage is not None or not problems:
        key, value = ("results_dir", config.results_dir) if config.storage is None else ("storage", config.storage)
        problems += _folder_problems(key, value, config.store_root)
    if config.teacher.model != "scratch":
        problems += _model_problems("teacher.model", config.teacher.model, config.teacher.max_tokens)
    for key, model in student_models(config).items():
        problems += _model_problems(key, model, config.teacher.max_tokens)
    return problems


def student_models(config: StudyConfig) -> dict[str, str]:
    """The encoders that students may be made from, by the key under which the file has them."""
    method, student, model = (config.settings("distil")[name] for name in ("method", "student", "model"))
    if method == "none" or "encoder" not in (student.choices if isinstance(student, Choices) else (student,)):
        return {}
    if isinstance(model, Choices):
        return {f"distil.model.choices[{index}]": str(value) for index, value in enumerate(model.choices)}
    return {"distil.model": str(model)}


def _model_problems(key: str, model: str, tokens: int) -> list[str]:
    """What keeps the model of this key from being used on comments of so many tokens."""
    folder = model_folder(model)
    if folder is None:
        return [f"{key}={model!r}: {_missing_model(model)}"]
    faults = _model_faults(folder)
    positions = encoder_fact(folder, POSITIONS)
    if not faults and positions is not None and positions < tokens:
        faults.append(f"reads {positions} tokens at once; lower teacher.max_tokens={tokens}, or take another encoder")
    return [f"{key}={model!r}: {fault}" for fault in faults]


def _folder_problems(key: str, value: str, folder: Path) -> list[str]:
    """Root may write anywhere as far as permission bits go, so that a file in the way is looked for by itself."""
    nearest = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    if not nearest.is_dir():
        return [problem(key, value, f"{nearest} is a file, not a folder; move it or name another folder")]
    if not os.access(nearest, os.W_OK | os.X_OK):
        return [problem(key, value, f"{nearest} is not writable; make it so or name another folder")]
    return []


def _missing_model(model: str) -> str:
    if not is_hub_id(model):
        return "no such folder; name one with config.json, *.safetensors and tokenizer.json"
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}
    where = " (HF_HUB_OFFLINE is set: it cannot be fetched from here)" if offline else ""
    return (
        f"no such folder, and no such model in the Hugging Face cache{where}; "
        f"name a folder, or fetch the model first: hf download {model}"
    )


def _model_faults(folder: Path) -> list[str]:
    """What keeps a folder from being loaded as a teacher without running any code of its own."""
    if not folder.is_dir():
        return ["is a file; name the folder that holds config.json, *.safetensors and tokenizer.json"]
    faults = []
    for name in ("config.json", "tokenizer_config.json"):
        content = _json_object(folder / name)
        if content is None and (name == "config.json" or (folder / name).exists()):
            state = "is no JSON object" if (folder / name).exists() else "is missing"
            faults.append(f"{name} {state}; save the model again with save_pretrained")
        elif content and "auto_map" in content:
            faults.append(f"{name} asks to run its own code (auto_map), never done here; take a built-in architecture")
    if not (folder / "tokenizer.json").is_file():
        faults.append("tokenizer.json is missing; save a fast tokenizer there with save_pretrained(folder)")
    weights = sorted(folder.glob("*.safetensors"))
    if not weights and any(folder.glob("pytorch_model*.bin")):
        faults.append(
            "has its weights only as a pickle (pytorch_model.bin), which may run code when loaded; "
            "convert them with save_pretrained(folder, safe_serialization=True)"
        )
    elif not weights:
        faults.append("has no *.safetensors weights; save the model there with save_pretrained")
    index = _json_object(folder / "model.safetensors.index.json") or {}
    for shard in sorted(set(index.get("weight_map", {}).values()) - {file.name for file in weights}):
        faults.append(f"{shard} is missing, though the index lists it; copy the folder again, whole")
    faults += [f"{file.name} {fault}; copy it again, whole" for file in weights if (fault := _torn(file))]
    return faults or _size_faults(weights)


def _torn(file: Path) -> str | None:
    """What is wrong with a safetensors file, by its header: 8 bytes of length, JSON, then the bytes it lists."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        header_bytes = int.from_bytes(stream.read(8), "little")
    if size < 8 or header_bytes > size - 8:
        return f"is cut off or no safetensors file ({size} bytes)"
    try:
        ends = [end for _, end in _tensors(file).values()]
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        return "has an unreadable header"
    if not ends:
        return "holds no weights"
    expected = 8 + header_bytes + max(ends)
    return None if size == expected else f"has {size} bytes where its header asks for {expected}"


def _tensors(file: Path) -> dict[str, tuple[int, int]]:
    """Each tensor's parameters and where its bytes end, by its name: a safetensors file's header, not its weights."""
    with file.open("rb") as stream:
        header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
    header.pop("__metadata__", None)
    return {name: (math.prod(tensor["shape"]), tensor["data_offsets"][1]) for name, tensor in header.items()}


def _size_faults(weights: Sequence[Path]) -> list[str]:
    """What keeps the encoder in these files, all whole, from being exported: every model is written as FP32 first."""
    sizes = {name: size for file in weights for name, (size, _) in _tensors(file).items()}
    # Where a head was saved too, which is not loaded, the encoder has a name of its own, as bert in bert.embeddings.
    encoder = next((f"{name.split('.embeddings.')[0]}." for name in sizes if ".embeddings." in name), "")
    parameters = sum(size for name, size in sizes.items() if name.startswith(encoder))
    if FP32_BYTES * parameters < ONNX_BYTES:
        return []
    told = f"{parameters / 1e6:.0f} million parameters, {FP32_BYTES * parameters / 2**30:.1f} GiB in FP32"
    remedy = "take a smaller encoder, such as base in place of large"
    return [f"has {told}, where an ONNX file must stay below {ONNX_BYTES // 2**30}; {remedy}"]


def _json_object(file: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def encoder_fact(folder: Path, names: Sequence[str]) -> int | None:
    """The first whole number that the folder's `config.json` has under one of these names."""
    content = _json_object(folder / "config.json") or {}
    return next((content[name] for name in names if isinstance(content.get(name), int)), None)


def resolve(config: StudyConfig) -> StudyConfig:
    """The study with the digest of the teacher's files, those in the Hugging Face cache if it is named by a hub id.

    Raises:
        InputError: the study already names another digest.
    """
    teacher, digest = config.teacher, None
    folder = None if teacher.model == "scratch" else model_folder(teacher.model)
    if folder is not None:
        digest = model_digest(folder)
        if teacher.model_digest not in (None, digest):
            what = f"the files in {teacher.model} give {digest}; bring the old ones back, or set null to take these"
            raise InputError([problem("teacher.model_digest", teacher.model_digest, what)])
    return config.model_copy(update={"teacher": teacher.model_copy(update={"model_digest": digest})})


def model_files(folder: Path) -> list[str]:
    """Names of the files that make the model: config, weights, tokenizer."""
    patterns = _WEIGHT_FILES + _TOKENIZER_FILES
    return sorted({file.name for pattern in patterns for file in folder.glob(pattern) if file.is_file()})


def model_digest(folder: Path) -> str:
    """SHA-256 over the names and contents of the files that make the model: config, weights, tokenizer."""
    whole = hashlib.sha256()
    for name in model_files(folder):
        with (folder / name).open("rb") as stream:
            whole.update(f"{name}\0{hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode())
    return whole.hexdigest()
