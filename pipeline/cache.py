"""The content-addressed store: a stage runs once for each key, however many workers ask and however often they die.

A folder `<root>/<stage>/<key>/` is complete by construction: it is built under a temporary name, the manifest is
written last, and then it is renamed. Whoever builds holds a lock that the operating system frees when its process ends.
Where the nodes of a cluster share an object store, the root is this node's copy of it: what is there is there too, for
it is uploaded before it gets its name here, or was fetched and checked.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.artifact import Artifact, Notes, Stage
from pipeline.checkpoints import checkpointing
from pipeline.config import Config, StageConfig
from pipeline.keys import artifact_key, canonical_json, deciding_versions
from pipeline.manifest import (
    MANIFEST,
    DamagedArtifact,
    FileStates,
    Manifest,
    check_files,
    facts_of_files,
    file_sha256,
    file_states,
    read_manifest,
    sealed,
)
from pipeline.turns import BeingBuilt, Turns

if TYPE_CHECKING:
    from pipeline.remote_store import RemoteStore

__all__ = [
    "MANIFEST",
    "BeingBuilt",
    "DamagedArtifact",
    "Store",
    "artifact_key",
    "canonical_json",
    "deciding_versions",
    "file_sha256",
]

log = logging.getLogger(__name__)


class Store:
    """Artifacts below one local folder, shared by every study and process that names it."""

    def __init__(
        self, root: Path, waiting: Callable[[str], None] | None = None, remote: RemoteStore | None = None
    ) -> None:
        """Open the store.

        Args:
            root: its folder.
            waiting: `waiting(stage)` is called when another process builds what is asked for.
            remote: what the nodes of a cluster share, of which `root` is this node's copy. Whatever needs it raises
                RemoteError when it cannot be used.
        """
        self.root = Path(root).resolve()
        self._remote = remote
        self._turns = Turns(self.root / ".locks", waiting, remote)
        self._verified: dict[str, FileStates] = {}
        """What the files of each artifact were when their digests were last compared."""

    def run(
        self,
        stage: Stage,
        config: Config,
        *inputs: Artifact,
        counts_as: Mapping[str, str] | None = None,
        wait: bool = True,
    ) -> Artifact:
        """The stage's artifact, built now or found.

        The first input is the data where there is any, the second the model that the stage works on. A stage whose
        method is `none` passes that model on unchanged.

        Args:
            stage: to run.
            config: of the stage.
            inputs: what it works on.
            counts_as: by key, what an input stands for where another that stands for the same leaves the same result:
                what was built of that one is found. The manifest's `parents` tell which it was.
            wait: for another process that builds it.

        Raises:
            BeingBuilt: another process does, and `wait` is false.
        """
        if isinstance(config, StageConfig) and config.method == "none":
            return inputs[1]
        data = next((one.key for one in inputs if one.stage == "data"), None)
        parents = [one.key for one in inputs if one.stage != "data"]
        key = artifact_key(stage, config, [(counts_as or {}).get(parent, parent) for parent in parents], data)

        def build(folder: Path) -> Notes:
            try:
                return stage(config, folder, *inputs)
            finally:  # what was computed of a damaged input, or failed of it, is no result
                for one in inputs:
                    if one.key in self._verified:  # it is of this store
                        self._check_input(one)

        if self.find(stage.name, key) is None:
            stage.load()
        facts = {"version": stage.version, "config": config.key_fields(), "parents": parents, "data": data}
        return self.add(stage.name, key, build, facts, wait)

    def add(
        self,
        stage: str,
        key: str,
        build: Callable[[Path], Notes],
        facts: dict[str, Any] | None = None,
        wait: bool = True,
    ) -> Artifact:
        """The artifact under `key`, built by `build(folder)` if it is not there; one process builds, others wait.

        Raises:
            BeingBuilt: another process builds it, and `wait` is false.
        """
        found = self.find(stage, key)
        if found:
            return found
        facts = facts or {"parents": [], "config": {}}
        with self._turns.everywhere(stage, key, wait):
            return self._look_or_set_aside(stage, key) or self._build(stage, key, build, facts)

    def find(self, stage: str, key: str) -> Artifact | None:
        """The artifact if it is stored and whole; a damaged one is set aside, and reported."""
        try:
            found = self._look(stage, key)
            if found or self._remote is None or not self._remote.has(stage, key):
                return found
        except DamagedArtifact:
            pass
        with self._turns.on_this_node(stage, key):
            return self._look_or_set_aside(stage, key)

    def made_from(self, stage: str, parent: str) -> Iterator[Artifact]:
        """The stage's artifacts that were made from `parent` alone, a key, and the data; none that is damaged."""
        keys = set(self._remote.children(stage, parent)) if self._remote else set()
        for file in (self.root / stage).glob(f"*/{MANIFEST}"):
            with suppress(OSError, DamagedArtifact):  # being removed, or damaged: `find` tells when it is asked for
                if read_manifest(file.read_bytes(), file.parent.name, str(file.parent)).get("parents") == [parent]:
                    keys.add(file.parent.name)
        found = (self.find(stage, key) for key in sorted(keys))
        return (artifact for artifact in found if artifact is not None)

    def _look(self, stage: str, key: str) -> Artifact | None:
        """The artifact if it is in the root.

        Raises:
            DamagedArtifact: it is there, but not whole.
        """
        path = self.root / stage / key
        if not path.is_dir():
            return None
        return Artifact(key, stage, path, self._verify(path, key), cache_hit=True)

    def _look_or_set_aside(self, stage: str, key: str) -> Artifact | None:
        """`find` for the holder of the key's lock: what it moves cannot be what another process has just built anew."""
        try:
            found = self._look(stage, key)
        except DamagedArtifact as error:
            found = None
            aside = self.root / ".damaged" / f"{stage}-{key}-{time.time_ns()}"
            aside.parent.mkdir(parents=True, exist_ok=True)
            (self.root / stage / key).rename(aside)
            self._verified.pop(key, None)
            again = "fetched or built" if self._remote else "built"
            log.warning("%s; it was moved to %s and is %s again", error, aside, again)
        return found or self._fetch(stage, key)

    def _fetch(self, stage: str, key: str) -> Artifact | None:
        """The artifact from the store that is shared, for the holder of the key's lock."""
        if self._remote is None:
            return None
        with self._folder_for(key) as folder:
            manifest = self._remote.fetch(stage, key, folder)
            return self._commit(stage, key, folder, manifest, cache_hit=True) if manifest else None

    @contextmanager
    def _folder_for(self, key: str) -> Iterator[Path]:
        """An empty folder for the holder of the key's lock, which is removed unless it is moved away."""
        folder = self.root / ".building" / key
        shutil.rmtree(folder, ignore_errors=True)  # left by a builder that died: we hold its lock now
        folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _build(self, stage: str, key: str, build: Callable[[Path], Notes], facts: dict[str, Any]) -> Artifact:
        with self._folder_for(key) as folder:
            started = time.perf_counter()
            with self._resumable(key):
                notes = build(folder)
            manifest = {
                "key": key,
                "stage": stage,
                **facts,
                "libraries": deciding_versions(),
                "notes": notes,
                "seconds": time.perf_counter() - started,
                "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
                "files": facts_of_files(folder),
            }
            content = sealed(manifest)
            (folder / MANIFEST).write_text(content, encoding="utf-8")
            if self._remote:
                self._remote.publish(stage, key, folder, manifest)
            return self._commit(stage, key, folder, json.loads(content))

    @contextmanager
    def _resumable(self, key: str) -> Iterator[None]:
        """Let trainings go on where a builder that died, here or on another node, had come."""
        checkpoints = self.root / ".checkpoints" / key
        if self._remote and not checkpoints.is_dir():
            self._remote.fetch_checkpoints(key, checkpoints)
        saved = partial(self._remote.publish_checkpoints, key) if self._remote else None
        try:
            with checkpointing(checkpoints, saved):
                yield
        except (ValueError, ArithmeticError, DamagedArtifact):  # training on would come to the same end, or a wrong one
            self._drop_checkpoints(key)
            raise

    def _drop_checkpoints(self, key: str) -> None:
        checkpoints = self.root / ".checkpoints" / key
        if not checkpoints.is_dir():
            return
        if self._remote:
            self._remote.drop_checkpoints(key, checkpoints)
        shutil.rmtree(checkpoints, ignore_errors=True)

    def _commit(self, stage: str, key: str, folder: Path, manifest: Manifest, cache_hit: bool = False) -> Artifact:
        """Give a finished folder its name; from now on it is found."""
        final = self.root / stage / key
        final.parent.mkdir(parents=True, exist_ok=True)
        folder.rename(final)
        self._verified[key] = file_states(final)
        self._drop_checkpoints(key)
        return Artifact(key, stage, final, manifest, cache_hit)

    def _check_input(self, used: Artifact) -> None:
        """Raise DamagedArtifact, after it is set aside, if an artifact that was being read is no longer what it was."""
        try:
            self._verify(used.path, used.key)
        except DamagedArtifact:
            self.find(used.stage, used.key)
            raise

    def _verify(self, path: Path, key: str) -> Manifest:
        """The manifest, after comparing sizes, and digests of files that were not compared as they are now."""
        try:
            content = (path / MANIFEST).read_bytes()
        except OSError as error:
            raise DamagedArtifact(f"{path}: {error}") from error
        manifest = read_manifest(content, key, str(path))
        states = file_states(path)
        check_files(path, manifest, str(path), digests=self._verified.get(key) != states)
        self._verified[key] = states
        return manifest
