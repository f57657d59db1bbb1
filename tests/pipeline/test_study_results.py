"""Results of a study, read: against what wrote them, and each way in which a folder can be none."""

import shutil

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evaluation.records import FIXED, SCHEMA_VERSION, STAGES, read_records
from pipeline import study_results
from pipeline.errors import InputError
from pipeline.study_results import NEEDED, STORED_AS, read_results


def test_it_knows_what_the_writers_know():
    from evaluation.safety import SafetyLimits

    assert str(SCHEMA_VERSION) == study_results.SCHEMA_VERSION
    assert set(NEEDED) <= set(FIXED) and tuple(STORED_AS) == STAGES
    limits = SafetyLimits("threat")
    assert {name: getattr(limits, f"max_{name}") for name in study_results.DROP_LIMITS} == study_results.DROP_LIMITS


@pytest.fixture
def study(tiny_study, tmp_path):
    """A copy that may be damaged."""
    return shutil.copytree(tiny_study.folder, tmp_path / "results" / "tiny")


def test_every_model_is_there_once_with_its_figures_on_test(study, tiny_study, tiny_store):
    results = read_results(study)
    assert sorted(results.measured["model_key"]) == sorted(model.key for model in tiny_study.models.values())
    by_key = results.measured.set_index("model_key")
    for name, model in tiny_study.models.items():
        row, expected = by_key.loc[model.key], tiny_study.rows[name]
        assert row["f1_macro"] == expected["f1_macro"] and row["safety_verdict"] == expected["safety_verdict"]
        assert ("test_f1_macro" in expected) == (not pd.isna(row["test_f1_macro"]))
    assert isinstance(by_key.loc[tiny_study.models["ngram"].key, "distil.buckets"], int)
    assert results.front["model_key"].tolist() == read_records(study / "front.parquet")["model_key"].tolist()
    assert results.critical_label == "threat" and results.store_root == tiny_store.root
    assert results.limits == {"f1_drop": 0.05, "critical_f1_drop": 0.03, "critical_recall_drop": 0.03}


def test_the_store_is_beside_the_study_where_none_is_named(study):
    (study / "study.yaml").write_text("study: tiny\nresults_dir: results\nstorage: null\n")
    results = read_results(study)
    assert results.store_root == study.parent / ".store" and results.critical_label == "threat"
    (study.parent.parent / "elsewhere").mkdir()
    (study / "study.yaml").write_text("storage: elsewhere\n")
    assert read_results(study).store_root == study.parent.parent / "elsewhere"


def refused(folder):
    with pytest.raises(InputError) as refusal:
        read_results(folder)
    return str(refusal.value)


def test_a_folder_that_is_no_study_names_the_nearest(study, tmp_path, monkeypatch):
    assert f"did you mean {study}" in refused(study.with_name("tinny"))
    assert "no trials.parquet in it" in refused(study.parent)
    monkeypatch.chdir(tmp_path)
    assert "did you mean results/tiny" in refused(tmp_path / "tiny")
    assert "name the folder of a study that has run" in refused(tmp_path / "nothing" / "here")


def test_damage_is_named_with_its_remedy(study):
    def rewritten(name, change, metadata=None):
        table = pq.read_table(study / name)
        pq.write_table(change(table).replace_schema_metadata(metadata or table.schema.metadata), study / name)

    backup = (study / "front.parquet").read_bytes()
    rewritten("front.parquet", lambda table: table.drop_columns(["speedup_factor"]))
    assert "front.parquet: no column speedup_factor" in refused(study)
    (study / "front.parquet").write_bytes(backup)
    rewritten("front.parquet", lambda table: table.drop_columns(["on_safe_front"]))
    assert "front.parquet: no column on_safe_front" in refused(study)
    rewritten("front.parquet", lambda table: table, {"schema_version": "1"})
    assert "schema_version='1', this version of the project reads '2'" in refused(study)
    (study / "front.parquet").write_bytes(backup[:-100])
    assert "front.parquet: not a whole Parquet file" in refused(study)
    (study / "front.parquet").unlink()
    assert "front.parquet: missing" in refused(study)
    pq.write_table(pa.table({"a": [1]}), study / "front.parquet")
    assert "schema_version=None" in refused(study)


def test_a_study_file_that_cannot_be_read_is_named(study):
    (study / "study.yaml").write_text("a: [")
    assert "study.yaml: cannot be read" in refused(study)
    (study / "study.yaml").write_text("- a list")
    assert "study.yaml: holds no settings" in refused(study)
    (study / "study.yaml").unlink()
    assert "study.yaml: missing" in refused(study)
