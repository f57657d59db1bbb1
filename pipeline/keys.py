"""The key of an artifact: a digest of everything that decides its content."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from pipeline.artifact import Stage
from pipeline.config import Config

DECIDING_VERSIONS = ("torch", "transformers", "onnxruntime", "scikit-learn")


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no white space: the same text for the same value."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


@cache
def deciding_versions() -> dict[str, str]:
    """Versions of the libraries that decide what a stage computes."""
    found = {}
    for name in DECIDING_VERSIONS:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def artifact_key(stage: Stage, config: Config, parents: list[str], data: str | None) -> str:
    """SHA-256 (64 hex digits) over stage, version, config, parents' keys, data fingerprint and library versions."""
    content = {
        "stage": stage.name,
        "version": stage.version,
        "config": config.key_fields(),
        "parents": parents,
        "data": data,
        "libraries": deciding_versions(),
    }
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()
