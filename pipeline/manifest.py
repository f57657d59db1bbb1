"""An artifact's manifest: which files it has, and the check that they are the ones that were stored."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from pipeline.object_store import is_relative_name

MANIFEST = "manifest.json"
SEAL = "manifest_sha256"
"""Field with the digest of all others."""
FIELDS = {
    *("key", "stage", "version", "config", "parents", "data", "libraries"),
    *("notes", "seconds", "created_at", "files", SEAL),
}
RUNS_CODE = {".pkl", ".pickle", ".pt", ".pth", ".bin", ".ckpt", ".joblib", ".dill", ".py", ".pyc", ".so"}
"""Endings of files that may run code when they are loaded; no stage writes one."""
Manifest = dict[str, Any]


class DamagedArtifact(OSError):
    """A file of an artifact is missing or is not the one that was stored."""


def sealed(manifest: Manifest) -> str:
    """The manifest as the text of its file, with its own digest."""
    return json.dumps({**manifest, SEAL: _digest(manifest)}, indent=1, ensure_ascii=False)


def _digest(manifest: Manifest) -> str:
    """SHA-256 over all fields but `SEAL`."""
    plain = {name: value for name, value in manifest.items() if name != SEAL}
    as_read = json.loads(json.dumps(plain))  # keys are text then
    return hashlib.sha256(json.dumps(as_read, sort_keys=True).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def facts_of_files(folder: Path) -> dict[str, dict[str, Any]]:
    """Size and digest of every file below a folder, by name."""
    return {
        file.relative_to(folder).as_posix(): {"bytes": file.stat().st_size, "sha256": file_sha256(file)}
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


FileStates = frozenset[tuple[str, int, int]]


def file_states(folder: Path) -> FileStates:
    """Name, size and time of the last writing (ns) of each file of a folder; equal states, same files."""
    return frozenset(
        (entry.name, entry.stat().st_size, entry.stat().st_mtime_ns) for entry in folder.rglob("*") if entry.is_file()
    )


def read_manifest(content: bytes, key: str, place: str) -> Manifest:
    """The manifest of the artifact `key`.

    Args:
        content: of its file.
        key: of the artifact.
        place: where it was read, for the error.

    Raises:
        DamagedArtifact: it is none, or another artifact's, or names a file outside of the artifact's folder.
    """
    try:
        manifest: Manifest = json.loads(content)
        files: dict[str, dict[str, Any]] = manifest["files"]
        if manifest["key"] != key:
            raise DamagedArtifact(f"{place}: its manifest is of another artifact")
        if not manifest.keys() <= FIELDS or (SEAL in manifest and manifest[SEAL] != _digest(manifest)):
            raise DamagedArtifact(f"{place}: its manifest is not the one that was written")
        for name, facts in files.items():
            if not is_relative_name(name) or name == MANIFEST:
                raise DamagedArtifact(f"{place}: its manifest names {name!r}, which is no file of it")
            if Path(name).suffix.lower() in RUNS_CODE:
                raise DamagedArtifact(f"{place}: {name} may run code when it is loaded; no stage of ours writes one")
            if not (isinstance(facts["bytes"], int) and isinstance(facts["sha256"], str)):
                raise DamagedArtifact(f"{place}: its manifest has no size and digest of {name}")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedArtifact(f"{place}: its manifest cannot be read: {error}") from error
    return manifest


def check_files(folder: Path, manifest: Manifest, place: str, digests: bool = True) -> None:
    """Compare the files of a folder with its manifest.

    Args:
        folder: with the files.
        manifest: of the artifact.
        place: where they come from, for the error.
        digests: whether to compare contents too, and not sizes alone.

    Raises:
        DamagedArtifact: one is missing or differs.
    """
    try:
        for name, facts in manifest["files"].items():
            if (folder / name).stat().st_size != facts["bytes"]:
                raise DamagedArtifact(f"{place}/{name}: size differs from the manifest's")
            if digests and file_sha256(folder / name) != facts["sha256"]:
                raise DamagedArtifact(f"{place}/{name}: content differs from the manifest's SHA-256")
    except DamagedArtifact:
        raise
    except OSError as error:
        raise DamagedArtifact(f"{place}: {error}") from error
