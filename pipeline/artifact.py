"""What a stage leaves behind, and what a stage is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config import Config

Notes = dict[str, Any]
"""What a stage reports of its own work, as JSON types: training history, counts. Kept in the manifest."""


@dataclass(frozen=True)
class Artifact:
    """A finished folder of the store: weights in safetensors, ONNX or NumPy without pickle; else JSON or Parquet."""

    key: str
    """SHA-256, 64 hex digits, over everything that decides the content."""
    stage: str
    path: Path
    manifest: dict[str, Any]
    cache_hit: bool = False
    """Whether the artifact was there already when it was asked for."""

    @property
    def notes(self) -> Notes:
        """What the stage reported when it ran."""
        notes: Notes = self.manifest["notes"]
        return notes

    @property
    def seconds(self) -> float:
        """How long the stage took when it ran."""
        return float(self.manifest["seconds"])

    @property
    def parent_key(self) -> str | None:
        """Key of the model that this one was made from."""
        parents: list[str] = self.manifest["parents"]
        return parents[0] if parents else None


@dataclass(frozen=True)
class Stage:
    """A named, versioned function from config and input artifacts to the files of one folder.

    `build(config, folder, *inputs)` reads only its arguments and writes only below `folder`. The version is raised when
    the behaviour changes, so that artifacts of the old behaviour are no longer found.
    """

    name: str
    version: int
    build: Callable[..., Notes]
    load: Callable[[], object] = lambda: None
    """Imports the code of `build`, which is no part of what the stage takes."""

    def __call__(self, config: Config, folder: Path, *inputs: Artifact) -> Notes:
        return self.build(config, folder, *inputs)


def stage(name: str, version: int) -> Callable[[Callable[..., Notes]], Stage]:
    """Make a function a `Stage` of this name and version."""
    return lambda build: Stage(name, version, build)
