"""The artifacts that the nodes of a cluster share: folders `<stage>/<key>/` of an object store.

One is whole when its manifest is there, which is uploaded last.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from pathlib import Path

from pipeline.lease import DEAD_AFTER_SECONDS, HEARTBEAT_SECONDS, Lease
from pipeline.manifest import MANIFEST, DamagedArtifact, Manifest, check_files, read_manifest
from pipeline.remote import Remote, RemoteUnreachable

log = logging.getLogger(__name__)

CHILDREN, DAMAGED, CHECKPOINTS = ".children", ".damaged", ".checkpoints"
"""Folders of the store that hold no artifacts: `.children/<parent>/<stage>/<key>` are empty files."""


class RemoteStore:
    """Artifacts below a URL; every method raises RemoteError when the store cannot be used."""

    def __init__(
        self,
        remote: Remote,
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
        dead_after_seconds: float = DEAD_AFTER_SECONDS,
    ) -> None:
        """Open it; the seconds are those of `Lease`."""
        self.remote = remote
        self._heartbeat, self._dead_after = heartbeat_seconds, dead_after_seconds
        self._sent: dict[Path, int] = {}

    def has(self, stage: str, key: str) -> bool:
        """Whether the artifact is there; not whether it is undamaged."""
        return self.remote.exists(f"{stage}/{key}/{MANIFEST}")

    def alone(
        self, stage: str, key: str, owner: str, waiting: Callable[[], None] | None
    ) -> AbstractContextManager[None]:
        """Wait until no other node builds the artifact, or it is there; `owner` and `waiting` are those of `Lease`."""
        lease = Lease(self.remote, f"{stage}-{key}", owner, self._heartbeat, self._dead_after)
        return lease.held(lambda: self.has(stage, key), waiting)

    def fetch(self, stage: str, key: str, folder: Path) -> Manifest | None:
        """Download an artifact into a new folder, and check it; one that is damaged is set aside, and reported.

        Returns:
            its manifest, which is in the folder; None if the store has no whole artifact of this key.
        """
        place = f"{stage}/{key}"
        told, missing = f"{self.remote.url}/{place}", ""
        try:
            content = self.remote.read_bytes(f"{place}/{MANIFEST}")
        except FileNotFoundError:
            return None
        try:
            manifest = read_manifest(content, key, told)
            for missing in manifest["files"]:
                self.remote.get(f"{place}/{missing}", folder / missing)
            check_files(folder, manifest, told)
        except DamagedArtifact as error:
            self._set_aside(stage, key, content, str(error))
            return None
        except FileNotFoundError:
            self._set_aside(stage, key, content, f"{told}: {missing} is missing")
            return None
        (folder / MANIFEST).write_bytes(content)
        return manifest

    def publish(self, stage: str, key: str, folder: Path, manifest: Manifest) -> None:
        """Upload a finished artifact, its manifest last; one that is there stays.

        Should two nodes upload at the same time, the manifest may come to name the other one's files: then the artifact
        is found damaged, and built again.
        """
        place = f"{stage}/{key}"
        if self.has(stage, key):
            return
        for name in manifest["files"]:
            self.remote.put(folder / name, f"{place}/{name}")
        if len(parents := manifest.get("parents", [])) == 1:
            self.remote.write_bytes(f"{CHILDREN}/{parents[0]}/{place}", b"")
        self.remote.put(folder / MANIFEST, f"{place}/{MANIFEST}")

    def children(self, stage: str, parent: str) -> list[str]:
        """Keys of the stage's artifacts that were made from this one alone; some may be gone."""
        return [name.rpartition("/")[2] for name in self.remote.list(f"{CHILDREN}/{parent}/{stage}")]

    def fetch_checkpoints(self, key: str, folder: Path) -> None:
        """Download what a builder that died on another node left of its training; nothing if there is nothing."""
        for name in self.remote.list(f"{CHECKPOINTS}/{key}"):
            with suppress(FileNotFoundError):  # the other one has just finished
                self.remote.get(name, folder / name.rpartition("/")[2])

    def publish_checkpoints(self, key: str, folder: Path) -> None:
        """Upload the checkpoints that are new; does not wait for a store that is away, the next one comes soon."""
        at_once = self.remote.patient_for(0)
        for file in sorted(folder.glob("*.safetensors")):
            written = file.stat().st_mtime_ns
            if self._sent.get(file) != written:
                at_once.put(file, f"{CHECKPOINTS}/{key}/{file.name}")
                self._sent[file] = written

    def drop_checkpoints(self, key: str, folder: Path) -> None:
        """Delete the checkpoints of work that is stored; should they stay, they harm nothing."""
        with suppress(RemoteUnreachable):
            self.remote.patient_for(0).delete(f"{CHECKPOINTS}/{key}")
        self._sent = {file: written for file, written in self._sent.items() if file.parent != folder}

    def _set_aside(self, stage: str, key: str, content: bytes, damage: str) -> None:
        """Move a damaged artifact away, unless another node has done so, or has even built it anew."""
        place, aside = f"{stage}/{key}", f"{DAMAGED}/{stage}-{key}-{time.time_ns()}"
        with suppress(FileNotFoundError):
            if self.remote.read_bytes(f"{place}/{MANIFEST}") != content:
                return
            self.remote.move(f"{place}/{MANIFEST}", f"{aside}/{MANIFEST}")  # first: now nobody reads the others
            for name in self.remote.list(place):
                self.remote.move(name, f"{aside}/{name.removeprefix(place + '/')}")
            log.warning("%s; it was moved to %s/%s and is built again", damage, self.remote.url, aside)
