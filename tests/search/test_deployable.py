"""The folders to deploy that a study leaves: of the smoke study, all of whose models are called safe here."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from evaluation.records import read_records
from pipeline.deployed import load_deployed
from pipeline.study_results import STORED_AS
from search.config import StudyConfig
from search.deployable import folder_of, write_models


@pytest.fixture
def safe_study(smoke_runs: Any, tmp_path: Path) -> StudyConfig:
    """A copy of results and store, with other verdicts."""
    run = smoke_runs.first
    shutil.copytree(run.folder, tmp_path / "results" / "smoke", ignore=shutil.ignore_patterns("tune", "logs"))
    shutil.copytree(run.config.store_root, tmp_path / "store")
    places = {"results_dir": str(tmp_path / "results"), "storage": str(tmp_path / "store")}
    made: StudyConfig = run.config.model_copy(update=places)
    shutil.rmtree(made.folder / "models", ignore_errors=True)  # what the smoke study's own limits allowed
    judge(made, safety_verdict="safe", test_safety_verdict="safe", on_safe_front=True)
    return made


def judge(config: StudyConfig, **columns: object) -> None:
    """Give every row of the front these values."""
    file = config.folder / "front.parquet"
    table = pq.read_table(file)
    for name, value in columns.items():
        position, field = table.column_names.index(name), table.schema.field(name)
        table = table.set_column(position, field, pa.array([value] * len(table), field.type))
    pq.write_table(table, file)


def written(config: StudyConfig) -> str:
    """What is said meanwhile."""
    console = Console(file=io.StringIO(), width=200)
    write_models(config, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def compressed(config: StudyConfig) -> list[tuple[str, str]]:
    """Key and stage of the models on the front, without the teacher."""
    front = read_records(config.folder / "front.parquet")
    front = front[front["stage"] != "baseline"]
    return list(zip(front["model_key"], front["stage"], strict=True))


def test_each_recommended_model_answers_from_its_folder_and_what_is_there_stays(safe_study: StudyConfig) -> None:
    keys = [key for key, _ in compressed(safe_study)]
    assert len(keys) >= 2
    own = folder_of(safe_study, keys[0]) / "notes.txt"
    own.parent.mkdir(parents=True)
    own.write_text("mine", encoding="utf-8")
    assert written(safe_study) == ""
    assert {folder.name for folder in (safe_study.folder / "models").iterdir()} == set(keys)
    assert [file.name for file in own.parent.iterdir()] == ["notes.txt"]
    for key in keys[1:]:
        answers = load_deployed(folder_of(safe_study, key)).probabilities(["first comment", "second comment"])
        assert answers.shape == (2, len(safe_study.data.label_columns))


def test_a_model_that_is_gone_from_the_store_is_told_and_the_others_are_written(safe_study: StudyConfig) -> None:
    (gone, stage), *others = compressed(safe_study)
    shutil.rmtree(safe_study.store_root / STORED_AS[stage] / gone)
    [line] = written(safe_study).splitlines()
    assert line.startswith(f"warning: {folder_of(safe_study, gone)}: the model {gone[:8]} was not written: ")
    assert "is not in the store" in line
    assert {folder.name for folder in (safe_study.folder / "models").iterdir()} == {key for key, _ in others}


@pytest.mark.parametrize("verdict", [{"safety_verdict": "inconclusive"}, {"test_safety_verdict": "unsafe"}])
def test_nothing_is_written_where_nothing_is_safe(safe_study: StudyConfig, verdict: dict[str, str]) -> None:
    judge(safe_study, **verdict)
    assert written(safe_study) == "" and not (safe_study.folder / "models").exists()
