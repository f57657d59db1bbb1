"""The content-addressed store: a stage runs once for each key, however many workers ask and however often they die.

A folder `<root>/<stage>/<key>/` is complete by construction: it is built under a temporary name, the manifest is
written last, and then it is renamed. Whoever builds holds a lock that the operating system frees when its process ends.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pipeline.artifact import Artifact, Notes, Stage
from pipeline.config import Config, StageConfig

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
DECIDING_VERSIONS = ("torch", "transformers", "onnxruntime", "scikit-learn")


class DamagedArtifact(Exception):
    """A file of an artifact is missing or is not the one that was stored."""


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


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Store:
    """Artifacts below one local folder, shared by every study and process that names it."""

    def __init__(self, root: Path, waiting: Callable[[str], None] | None = None) -> None:
        """Open the store at `root`; `waiting(stage)` is called when another process builds what is asked for."""
        self.root = Path(root).resolve()
        self._waiting = waiting
        self._verified: set[str] = set()

    def run(self, stage: Stage, config: Config, *inputs: Artifact) -> Artifact:
        """The stage's artifact, built now or found.

        The first input is the data where there is any, the second the model that the stage works on. A stage whose
        method is `none` passes that model on unchanged.
        """
        if isinstance(config, StageConfig) and config.method == "none":
            return inputs[1]
        data = next((one.key for one in inputs if one.stage == "data"), None)
        parents = [one.key for one in inputs if one.stage != "data"]
        key = artifact_key(stage, config, parents, data)

        def build(folder: Path) -> Notes:
            return stage(config, folder, *inputs)

        facts = {"version": stage.version, "config": config.key_fields(), "parents": parents, "data": data}
        return self.add(stage.name, key, build, facts)

    def add(
        self, stage: str, key: str, build: Callable[[Path], Notes], facts: dict[str, Any] | None = None
    ) -> Artifact:
        """The artifact under `key`, built by `build(folder)` if it is not there; one process builds, others wait."""
        found = self.find(stage, key)
        if found:
            return found
        facts = facts or {"parents": [], "config": {}}
        with self._lock(stage, key):
            return self._look_or_set_aside(stage, key) or self._build(stage, key, build, facts)

    def find(self, stage: str, key: str) -> Artifact | None:
        """The artifact if it is stored and whole; a damaged one is set aside, and reported."""
        try:
            return self._look(stage, key)
        except DamagedArtifact:
            with self._lock(stage, key):
                return self._look_or_set_aside(stage, key)

    def _look(self, stage: str, key: str) -> Artifact | None:
        """The artifact if it is stored.

        Raises:
            DamagedArtifact: it is stored, but not whole.
        """
        path = self.root / stage / key
        if not path.is_dir():
            return None
        return Artifact(key, stage, path, self._verify(path, key), cache_hit=True)

    def _look_or_set_aside(self, stage: str, key: str) -> Artifact | None:
        """`find` for the holder of the key's lock: what it moves cannot be what another process has just built anew."""
        try:
            return self._look(stage, key)
        except DamagedArtifact as error:
            aside = self.root / ".damaged" / f"{stage}-{key}-{time.time_ns()}"
            aside.parent.mkdir(parents=True, exist_ok=True)
            (self.root / stage / key).rename(aside)
            self._verified.discard(key)
            log.warning("%s; it was moved to %s and is built again", error, aside)
            return None

    @contextmanager
    def _lock(self, stage: str, key: str) -> Iterator[None]:
        folder = self.root / ".locks"
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / f"{key}.lock")
        try:
            lock.acquire(blocking=False)
        except Timeout:
            if self._waiting:
                self._waiting(stage)
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def _build(self, stage: str, key: str, build: Callable[[Path], Notes], facts: dict[str, Any]) -> Artifact:
        folder = self.root / ".building" / key
        shutil.rmtree(folder, ignore_errors=True)  # left by a builder that died: we hold its lock now
        folder.mkdir(parents=True)
        started = time.perf_counter()
        try:
            notes = build(folder)
            manifest = {
                "key": key,
                "stage": stage,
                **facts,
                "libraries": deciding_versions(),
                "notes": notes,
                "seconds": time.perf_counter() - started,
                "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
                "files": {
                    file.relative_to(folder).as_posix(): {"bytes": file.stat().st_size, "sha256": file_sha256(file)}
                    for file in sorted(folder.rglob("*"))
                    if file.is_file()
                },
            }
            (folder / MANIFEST).write_text(json.dumps(manifest, indent=1, ensure_ascii=False), encoding="utf-8")
            final = self.root / stage / key
            final.parent.mkdir(parents=True, exist_ok=True)
            folder.rename(final)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        self._verified.add(key)
        return Artifact(key, stage, final, json.loads((final / MANIFEST).read_text(encoding="utf-8")))

    def _verify(self, path: Path, key: str) -> dict[str, Any]:
        """The manifest, after comparing sizes, and digests when this store object first meets the artifact."""
        try:
            manifest: dict[str, Any] = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
            files: dict[str, dict[str, Any]] = manifest["files"]
            if manifest["key"] != key:
                raise DamagedArtifact(f"{path}: its manifest is of another artifact")
            for name, facts in files.items():
                if (path / name).stat().st_size != facts["bytes"]:
                    raise DamagedArtifact(f"{path / name}: size differs from the manifest's")
                if key not in self._verified and file_sha256(path / name) != facts["sha256"]:
                    raise DamagedArtifact(f"{path / name}: content differs from the manifest's SHA-256")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DamagedArtifact(f"{path}: {error}") from error
        self._verified.add(key)
        return manifest
