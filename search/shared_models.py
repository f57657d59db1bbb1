"""Pretrained models that only the driver's machine has, on their way to the nodes that train: through the store.

A node where the folder of a model is not there, or holds other files, as a Hugging Face cache of another day may, finds
those of the study in the store under their digest. Keys do not change: they hang on the digest, and not on the folder.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from pipeline.artifact import Artifact, Notes, Stage
from pipeline.cache import Store
from pipeline.config import DistilConfig, TeacherConfig
from pipeline.errors import InputError
from search.config import StudyConfig
from search.model_folder import model_digest, model_files, model_folder, student_models

STAGE = "model"
SEPARATOR = ","
_OTHER_FILES = (
    "{}: the files in {} on this node give {}, those that the study began with {}; "
    "bring them there, or set `storage` to a URL, and the search brings them along itself"
)
C = TypeVar("C", TeacherConfig, DistilConfig)


def with_student_digests(config: StudyConfig) -> StudyConfig:
    """The study whose `distil.model_digest` has the digests of all models of `distil.model`, in their order.

    A model that is not on this machine has an empty one.
    """
    models = student_models(config)
    if not models:
        return config
    folders = [model_folder(model) for model in models.values()]
    digests = SEPARATOR.join(model_digest(folder) if folder else "" for folder in folders)
    return config.model_copy(update={"distil": {**config.distil, "model_digest": digests}})


def share_models(store: Store, config: StudyConfig) -> None:
    """Put the files of the study's pretrained models, where this machine has them, into its store."""
    for model, digest in _digests(config):
        folder = model_folder(model)
        if folder is not None and digest:
            store.add(STAGE, digest, _copying(folder))


def with_digest(config: StudyConfig, student: DistilConfig) -> DistilConfig:
    """The student's config with the digest that its model has in the study, whatever this machine has by that name."""
    digest = dict(_digests(config)).get(student.model) if _is_pretrained(student) else None
    return student.model_copy(update={"model_digest": digest}) if digest else student


def fetching(store: Store, stage: Stage) -> Stage:
    """The stage, which takes the files of its pretrained model from the store where they are not in the named folder.

    It raises an `InputError` if those in the folder are others, and the store has none.
    """

    def build(config: C, folder: Path, *inputs: Artifact) -> Notes:
        if _is_pretrained(config) and config.model_digest:
            here = model_folder(config.model)
            digest = model_digest(here) if here is not None else None
            if digest != config.model_digest:
                if found := store.find(STAGE, config.model_digest):
                    config = config.model_copy(update={"model": str(found.path)})
                elif digest:
                    raise InputError([_OTHER_FILES.format(config.model, here, digest, config.model_digest)])
        return stage(config, folder, *inputs)

    return replace(stage, build=build)


def _is_pretrained(config: TeacherConfig | DistilConfig) -> bool:
    if isinstance(config, TeacherConfig):
        return config.model != "scratch"
    return config.student == "encoder" and config.method != "none"


def _digests(config: StudyConfig) -> Iterator[tuple[str, str | None]]:
    """The study's pretrained models as they are named, with their digests."""
    yield config.teacher.model, config.teacher.model_digest
    models = student_models(config).values()
    digests = str(config.settings("distil")["model_digest"] or "").split(SEPARATOR)
    if len(digests) == len(models):
        yield from zip(models, digests, strict=True)


def _copying(source: Path) -> Callable[[Path], Notes]:
    def build(folder: Path) -> Notes:
        for name in model_files(source):
            shutil.copyfile(source / name, folder / name)
        return {}

    return build
