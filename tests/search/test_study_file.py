"""The study file: read with overrides, all faults told at once; what is written is read again."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.config import DistilConfig
from pipeline.errors import InputError
from search.config import Choices, Range, StudyConfig
from search.study_file import EMBEDDED_STUDY, differences, load_study, study_from, to_yaml

READY = sorted(EMBEDDED_STUDY.parent.glob("*.yaml"))


def written(folder: Path, text: str) -> Path:
    file = folder / "mine.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def reread(config: StudyConfig, folder: Path) -> StudyConfig:
    return load_study(written(folder, to_yaml(config)))


def test_all_faults_are_told_together(tmp_path: Path) -> None:
    file = written(tmp_path, "seed: -1\nprune: {sparsity: 2}\ndistil: {alpha: {choices: [7, 0.5, -1]}}\ntypo: 1\n")
    with pytest.raises(InputError) as caught:
        load_study(file, ["search.trials=0", "nonsense", "data.path=!!python/object:os.system x"])
    keys = {problem.split(":")[0] for problem in caught.value.problems}
    assert keys == {
        "seed=-1",
        "prune.sparsity=2",
        "distil.alpha.choices[0]=7",
        "distil.alpha.choices[2]=-1",
        "typo=1",
        "search.trials=0",
        "--set nonsense",
        "--set data.path=!!python/object",
    }
    assert str(caught.value).count("\n") == 7


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("seed: 1\ndata: {path: x\nsearch: 3\n", "mine.yaml:3: not a study file in plain YAML"),
        ("seed: 1\na: b: c\n", "mine.yaml:2: not a study file in plain YAML: mapping values are not allowed here"),
        ("seed: !!python/object/apply:os.system [exit]\n", "mine.yaml:1: not a study file in plain YAML: could not"),
        ("a: 1\nb: x\na: 2\n", "mine.yaml:3: not a study file in plain YAML: a stands twice, first in line 1; take"),
        ("distil:\n  alpha: 1\n  'alpha': 2\n", "mine.yaml:3: not a study file in plain YAML: alpha stands twice"),
        ("- 1\n- 2\n", "mine.yaml: must hold keys with values, such as `seed: 1`, but is a list"),
        ("day: 2024-13-45\n", "mine.yaml: not a study file in plain YAML: month must be in 1..12"),
        ("a: \x07\n", "mine.yaml: not a study file in plain YAML"),
    ],
)
def test_a_file_that_is_no_study(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(InputError) as caught:
        load_study(written(tmp_path, text))
    [problem] = caught.value.problems
    assert problem.startswith(f"{tmp_path}/{told}")


def test_a_missing_file_names_the_ready_ones(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.yaml: no such study file; .*smoke\.yaml"):
        load_study(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("distil.temperature=4", 4.0),
        ("distil.temperature=1e-1", 0.1),
        ("distil.alpha={choices: [0, 1]}", Choices(choices=(0.0, 1.0))),
        ("distil.layers={low: 1, high: 5, step: 2}", Range(low=1, high=5, step=2)),
        ("distil.learning_rate={low: 1e-5, high: 1e-3, log: true}", Range(low=1e-5, high=1e-3, log=True)),
        ("distil.layers.choices=[3]", Choices(choices=(3,))),
        ("data.label_columns=[threat, hate speech]", ("threat", "hate speech")),
        ("data.path=/my data/a b.csv", "/my data/a b.csv"),
        ("data.path=/x #1/y: z.csv", "/x #1/y: z.csv"),
        ("data.path=*.csv", "*.csv"),
        ("data.path='quoted: x'", "quoted: x"),
        ("data.path=a=b", "a=b"),
        ("data.max_rows=null", None),
        ("search.objectives=[tradeoff_score]", ("tradeoff_score",)),
    ],
)
def test_override(override: str, expected: object) -> None:
    section, name = override.split("=")[0].removesuffix(".choices").split(".")
    below = load_study(None, ["data.path=first", override]).__getattribute__(section)
    assert (below[name] if isinstance(below, dict) else getattr(below, name)) == expected


def test_overrides_keep_their_neighbours_even_behind_a_yaml_alias(tmp_path: Path) -> None:
    file = written(tmp_path, "distil: &same {alpha: 0.25, epochs: 7}\nprune: *same\n")
    config = load_study(file, ["prune.epochs=9", "priorities.threat=3"])
    assert (config.distil["epochs"], config.prune["epochs"], config.prune["alpha"]) == (7, 9, 0.25)
    assert config.priorities == {"threat": 3.0}
    assert config.study == "mine"


def test_seed_preset_and_critical_label_are_filled_in() -> None:
    config = study_from({"seed": 7, "teacher": {"seed": 3}, "preset": "baseline_prune", "prune": {"method": "wanda"}})
    assert (config.data.seed, config.teacher.seed, config.classical.seed) == (7, 3, 7)
    assert (config.distil["seed"], config.prune["seed"]) == (7, 7)
    assert (config.prune["method"], config.quantize["method"]) == ("wanda", "none")
    assert config.critical_label == config.safety.critical_label == "threat"
    assert study_from({"data": {"label_columns": ["hate speech"]}}).critical_label == "hate speech"


@pytest.mark.parametrize("file", READY, ids=lambda file: file.stem)
def test_ready_studies_survive_writing_and_pickling(file: Path, tmp_path: Path) -> None:
    config = load_study(file)
    assert config.study == file.stem
    assert reread(config, tmp_path) == config
    assert pickle.loads(pickle.dumps(config)) == config
    first = to_yaml(config).splitlines()[0]
    assert first == f"# Repeat with: python search/pareto.py results/{file.stem}/study.yaml"
    sections = yaml.safe_load(to_yaml(config))
    assert set(sections) == set(StudyConfig.model_fields)
    assert set(sections["distil"]) == set(DistilConfig.model_fields)


text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
alphas = st.floats(0, 1)
searched_alpha = st.one_of(
    alphas,
    st.lists(alphas, min_size=1, max_size=4, unique=True).map(lambda values: {"choices": values}),
    st.tuples(alphas, alphas)
    .filter(lambda ends: ends[0] < ends[1])
    .map(lambda ends: {"low": ends[0], "high": ends[1]}),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    path=text, labels=st.lists(text, min_size=1, max_size=4, unique=True), alpha=searched_alpha, seed=st.integers(0, 99)
)
def test_any_study_survives_writing(tmp_path: Path, path: str, labels: list[str], alpha: object, seed: int) -> None:
    config = study_from(
        {
            "seed": seed,
            "data": {"path": path, "label_columns": labels},
            "distil": {"alpha": alpha},
            "safety": {"critical_label": labels[-1]},
            "priorities": {labels[0]: 2},
            "results_dir": path,
        }
    )
    assert reread(config, tmp_path) == config
    assert differences(config, reread(config, tmp_path)) == []


def test_differences_leave_out_what_may_change_on_resume() -> None:
    old = load_study(None, ["distil.alpha=0.5"])
    free = ["search.trials=99", "resources.max_concurrent=2", "results_dir=x", "storage=y", "write_models=false"]
    assert differences(old, load_study(None, ["distil.alpha=0.5", *free])) == []
    changed = [
        "distil.alpha=0.7",
        "measure.seconds=2",
        "distil.layers={low: 1, high: 3}",
        "priorities.spam=2",
        "seed=1",
    ]
    lines = differences(old, load_study(None, changed))
    assert "distil.alpha: 0.5 in the study's folder, 0.7 now" in lines
    assert "distil.layers: {choices: [1, 2]} in the study's folder, {low: 1, high: 3} now" in lines
    assert "measure.seconds: 1.0 in the study's folder, 2.0 now" in lines
    assert "priorities.spam: null in the study's folder, 2.0 now" in lines
    assert {line.split(":")[0] for line in lines} >= {"seed", "data.seed", "prune.seed"}
