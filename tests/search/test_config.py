"""The schema: what follows from other keys, and the limits it shares with the protocol of measuring."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
from pydantic import ValidationError

from evaluation.measuring import LatencyConfig
from pipeline.errors import InputError
from search.config import (
    STAGES,
    Choices,
    Preset,
    StudyConfig,
    defaults,
    exact,
    find_critical_label,
    preset_stages,
)
from search.sections import MeasureConfig
from search.start import with_absolute_paths
from search.study_file import study_from, to_yaml


@pytest.mark.parametrize("name", MeasureConfig.model_fields)
def test_what_a_study_may_measure_the_evaluator_takes(name: str) -> None:
    ours, theirs = MeasureConfig.model_fields[name], LatencyConfig.model_fields[name]
    assert (ours.metadata, ours.default) == (theirs.metadata, theirs.default)


def test_presets_name_every_choice_of_stages_once() -> None:
    named = [tuple(preset_stages(preset)) for preset in get_args(Preset)]
    assert len(set(named)) == len(named) == 2 ** len(STAGES)
    assert set(named[0]) == set() and set(named[-1]) == set(STAGES)


def test_a_preset_takes_stages_out_and_brings_none_in() -> None:
    searched = {"distil": {"method": {"choices": ["none", "logit"]}}}
    assert study_from({"preset": "baseline_quant", **searched}).distil["method"] == "none"
    assert study_from({"preset": "baseline_kd", **searched}).distil["method"] == Choices(choices=("none", "logit"))
    assert study_from({"preset": "baseline_kd", "distil": {"method": "none"}}).distil["method"] == "none"


def test_the_critical_label() -> None:
    assert find_critical_label(None, ["spam", "threat"]) == "threat"
    assert find_critical_label(None, ["hate speech"]) == "hate speech"
    assert find_critical_label("spam", ["spam", "threat"]) == "spam"
    with pytest.raises(ValueError, match="must name the label whose misses matter most: a, b"):
        find_critical_label(None, ["a", "b"])
    with pytest.raises(ValueError, match="no such label"):
        find_critical_label("span", ["spam", "threat"])
    assert StudyConfig().critical_label == "threat"


def test_settings_of_a_stage() -> None:
    for stage, model in STAGES.items():
        assert StudyConfig().settings(stage) == defaults(model) == model().model_dump()


def test_steps_add_up_as_written() -> None:
    assert exact(0.1) + exact(0.2) == exact(0.3)


def test_folders() -> None:
    config = study_from({"study": "a", "results_dir": "out"})
    assert (config.folder, config.store_root) == (Path("out/a"), Path("out/.store"))
    elsewhere = config.model_copy(update={"storage": "elsewhere"})
    assert (elsewhere.store_root, elsewhere.store_place) == (Path("elsewhere"), "elsewhere")
    assert not config.storage_is_remote and not elsewhere.storage_is_remote


def test_an_object_store_has_a_url_and_a_copy_on_this_node(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PARETO_CACHE", str(tmp_path))
    config = study_from({"storage": "s3://bucket/prefix"})
    assert config.storage_is_remote and config.store_place == "s3://bucket/prefix"
    assert config.store_root.parent == tmp_path
    absolute = with_absolute_paths(config)
    assert absolute.storage == "s3://bucket/prefix" and "storage: s3://bucket/prefix\n" in to_yaml(absolute)


@pytest.mark.parametrize(
    "uri",
    [
        "https://me:hunter2@host",
        "https://hunter2@host/mlflow",
        "http://me:hun/ter2@host",
        "postgresql://me:hunter2@host/mlflow",
        "me:hunter2@host",
        "https://host/?token=hunter2",
        "https://host/?a=1&access_key=hunter2",
    ],
)
def test_a_tracking_uri_with_credentials_is_refused_and_not_shown(uri: str) -> None:
    with pytest.raises(InputError) as refused:
        study_from({"tracking": {"uri": uri}})
    [problem] = refused.value.problems
    assert problem.startswith("tracking.uri: holds a user name, password or token")
    assert "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD" in problem
    with pytest.raises(ValidationError) as raised:
        StudyConfig.model_validate({"tracking": {"uri": uri}})
    for told in (problem, str(refused.value), str(raised.value)):
        assert not any(secret in told for secret in ("hunter2", "hun/ter2", "me:"))


def test_where_a_study_may_be_logged() -> None:
    for uri in (None, "none", "http://127.0.0.1:5000", "https://host/mlflow", "sqlite:///a@b.db", "sqlite:////a/b.db"):
        assert study_from({"tracking": {"uri": uri}}).tracking.uri == uri
    for uri in (
        "mlruns",
        "file:///tmp/mlruns",
        "host:5000",
        "sqlite://",
        "https://",
        "postgresql://host/mlflow",
        "s3://b",
    ):
        with pytest.raises(InputError) as refused:
            study_from({"tracking": {"uri": uri}})
        [problem] = refused.value.problems
        assert problem.startswith(
            f"tracking.uri={uri!r}: must be http://HOST:PORT, https://HOST, sqlite:///FILE or none"
        )


def test_import_is_light() -> None:
    heavy = "{'torch', 'transformers', 'ray', 'pandas', 'optuna', 'mlflow', 'huggingface_hub'}"
    code = (
        f"import sys, search.model_folder, search.space, search.study_file; sys.exit(len({heavy} & sys.modules.keys()))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
