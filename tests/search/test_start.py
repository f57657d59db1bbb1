"""The claim of a results folder: whose it may not be, and what a full disk leaves of it."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from search.start import claim_folder, foreign_folder, resume_problems
from search.study_file import load_study, study_from

ROOM_BYTES = 1000


@contextmanager
def full_disk() -> Iterator[None]:
    """No file of this process grows beyond `ROOM_BYTES`: the system refuses the rest of a write, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (ROOM_BYTES, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_a_study_that_can_be_resumed(tmp_path: Path) -> None:
    begun = study_from({"study": "one", "results_dir": str(tmp_path)})
    claim_folder(begun, resume=False)
    file = tmp_path / "one" / "study.yaml"
    assert file.stat().st_size > ROOM_BYTES
    longer = begun.model_copy(update={"search": begun.search.model_copy(update={"trials": 999})})
    with full_disk(), pytest.raises(OSError):
        claim_folder(longer, resume=True)
    assert resume_problems(longer) == [] and load_study(file) == begun
    assert os.listdir(file.parent) == ["study.yaml"], "nothing half written stays"

    claim_folder(longer, resume=True)
    with full_disk():
        claim_folder(longer, resume=True)  # as it is: there is nothing to write
    assert load_study(file) == longer


def test_a_folder_of_another_program_is_not_taken(tmp_path: Path) -> None:
    config = study_from({"study": "mlartifacts", "results_dir": str(tmp_path)})
    assert foreign_folder(config) == []
    config.folder.mkdir()
    (config.folder / ".study.yaml.0.tmp").touch()
    assert foreign_folder(config) == [], "what a killed start leaves"
    (config.folder / "a_run").mkdir()
    [told] = foreign_folder(config)
    assert told.startswith("study='mlartifacts': ") and "holds no study; take another name" in told
    claim_folder(config, resume=False)
    assert foreign_folder(config) == []
