"""The study file: every fault told by key, value and remedy; what is written is read again."""

from __future__ import annotations

import json
import os
import pickle
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.config import DistilConfig
from pipeline.errors import InputError
from search.config import (
    EMBEDDED_STUDY,
    Choices,
    Range,
    StudyConfig,
    check_paths,
    differences,
    load_study,
    model_digest,
    resolve,
    study_from,
    to_yaml,
)

READY = sorted(EMBEDDED_STUDY.parent.glob("*.yaml"))


def faults(raw: dict[str, Any]) -> list[str]:
    with pytest.raises(InputError) as caught:
        study_from(raw)
    return caught.value.problems


def written(folder: Path, text: str) -> Path:
    file = folder / "mine.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def reread(config: StudyConfig, folder: Path) -> StudyConfig:
    return load_study(written(folder, to_yaml(config)))


FAULTS: list[tuple[dict[str, Any], str, str]] = [
    ({"study": "a..b"}, "study='a..b': is not allowed as a name; change it", "letters, digits"),
    ({"study": "-a"}, "study='-a': is not allowed as a name", "a letter or digit first"),
    ({"study": "a/b"}, "study='a/b': is not allowed as a name", "letters, digits"),
    ({"study": "a\n"}, "study='a\\n': is not allowed as a name", "letters, digits"),
    ({"study": "a" * 81}, "study='aaa", "must have at most 80 characters"),
    ({"study": 7}, "study=7: must be text; put it in quotes", "Name of the study"),
    ({"seed": -1}, "seed=-1: must be at least 0 and at most 4294967295", "Seed of the sampler"),
    ({"preset": "baseline_dk"}, "preset='baseline_dk': must be 'baseline', 'baseline_kd'", "baseline_kd_prune_quant"),
    ({"trials": 5}, "trials=5: no such setting here", "did you mean search.trials?"),
    ({"distill": {}}, "distill={}: no such setting", "did you mean distil?"),
    ({"distil": {"temprature": 4}}, "distil.temprature=4: no such setting", "did you mean temperature?"),
    ({"quantize": {"bits": 4}}, "quantize.bits=4: no such setting", "known: method"),
    ({"distil": [1]}, "distil=[1]: must be a section of settings", "distil: {method: …}"),
    (
        {"distil": {"temperature": -1}},
        "distil.temperature=-1: must be greater than 0 and at most 100",
        "(Divides the logits in the soft loss",
    ),
    ({"distil": {"alpha": float("nan")}}, "distil.alpha=NaN: must be at least 0 and at most 1", "Weight of the soft"),
    ({"distil": {"layers": 2.5}}, "distil.layers=2.5: must be a whole number, at least 1 and at most 48", "Layers"),
    ({"distil": {"layers": True}}, "distil.layers=true: must be a number, not yes or no", "Layers"),
    ({"distil": {"alpha": "much"}}, "distil.alpha='much': must be a number, at least 0 and at most 1", "soft loss"),
    ({"distil": {"method": "logits"}}, "distil.method='logits': must be 'none' or 'logit'", "Hinton"),
    (
        {"distil": {"alpha": {"choices": [0.5, 1.5]}}},
        "distil.alpha.choices[1]=1.5: must be at least 0 and at most 1",
        "",
    ),
    (
        {"distil": {"layers": {"choices": []}}},
        "distil.layers.choices=[]: must be a list of at least one value",
        "Layers",
    ),
    ({"distil": {"layers": {"choices": 2}}}, "distil.layers.choices=2: must be a list of at least one value", "Layers"),
    ({"distil": {"layers": {"choices": [1, 2, 1]}}}, "distil.layers.choices[2]=1: is there twice", "leave one out"),
    ({"distil": {"epochs": {"low": 5, "high": 5}}}, "distil.epochs.low=5: must be less than distil.epochs.high=5", ""),
    (
        {"distil": {"epochs": {"low": 0, "high": 5}}},
        "distil.epochs.low=0: must be at least 1 and at most 100",
        "Passes",
    ),
    ({"distil": {"epochs": {"low": 1}}}, "distil.epochs={low: 1}: must be one value", "{low: a, high: b}"),
    ({"distil": {"method": {"low": 1, "high": 2}}}, "distil.method={low: 1, high: 2}: has no range", "list values as"),
    (
        {"prune": {"sparsity": {"low": 0.3, "high": 0.7, "step": 0}}},
        "prune.sparsity.step=0: must be greater than 0",
        "",
    ),
    (
        {"prune": {"epochs": {"low": 1, "high": 3, "step": 0.5}}},
        "prune.epochs.step=0.5: must be a whole number, greater than 0",
        "",
    ),
    (
        {"prune": {"sparsity": {"low": 0.3, "high": 0.75, "step": 0.1}}},
        "prune.sparsity.high=0.75: must be a whole number of steps of 0.1 above low=0.3",
        "the last one within is 0.7",
    ),
    (
        {"prune": {"alpha": {"low": 0, "high": 1, "log": True}}},
        "prune.alpha.low=0: must be greater than 0 when log is true",
        "raise it",
    ),
    (
        {"prune": {"alpha": {"low": 0.1, "high": 0.9, "log": True, "step": 0.1}}},
        "prune.alpha.step=0.1: cannot stand with log: true",
        "leave one of them out",
    ),
    ({"prune": {"alpha": {"low": 0.1, "high": 0.9, "log": 3}}}, "prune.alpha.log=3: must be true or false", ""),
    (
        {"teacher": {"epochs": {"choices": [1, 2]}}},
        "teacher.epochs={choices: [1, 2]}: cannot be searched, only settings of distil, prune and quantize can",
        "give one value",
    ),
    (
        {"data": {"max_rows": {"low": 60, "high": 90}}},
        "data.max_rows={low: 60, high: 90}: cannot be searched",
        "one value",
    ),
    ({"data": {"max_rows": 3}}, "data.max_rows=3: must be at least 50 or null", "null takes all"),
    ({"data": {"label_columns": "threat"}}, "data.label_columns='threat': must be a list, as in [a, b]", "Columns"),
    ({"data": {"label_columns": ["a", 3]}}, "data.label_columns[1]=3: must be text; put it in quotes", "Columns"),
    ({"data": {"label_columns": []}}, "data.label_columns=[]: must not be empty", "Columns"),
    ({"teacher": {"scratch_width": 30}}, "teacher.scratch_width=30 is no multiple of scratch_heads=4", "make it one"),
    (
        {"classical": {"inverse_regularization": float("inf")}},
        "classical.inverse_regularization=Infinity: must be",
        "finite",
    ),
    ({"search": {"trials": 0}}, "search.trials=0: must be at least 1", "Trials of the study"),
    ({"search": {"sampler": "grid"}}, "search.sampler='grid': must be 'tpe', 'nsgaii', 'gp' or 'random'", "Optuna"),
    ({"search": {"objectives": []}}, "search.objectives=[]: must not be empty", "tradeoff_score alone"),
    ({"search": {"objectives": ["speed"]}}, "search.objectives[0]='speed': must be 'f1_macro', 'model_size_mb'", ""),
    (
        {"search": {"objectives": ["f1_macro", "tradeoff_score"]}},
        "search.objectives=[f1_macro, tradeoff_score]: tradeoff_score must stand alone",
        "leave it or the others out",
    ),
    (
        {"search": {"objectives": ["f1_macro", "f1_macro"]}},
        "search.objectives=[f1_macro, f1_macro]",
        "leave the repeated",
    ),
    ({"safety": {"critical_label": "treat"}}, "safety.critical_label='treat': no such label", "did you mean threat?"),
    (
        {"data": {"label_columns": ["x", "y"]}},
        "safety.critical_label=null: must name the label whose misses matter most: x, y",
        "",
    ),
    ({"safety": {"confidence": 95}}, "safety.confidence=95: must be greater than 0.5 and less than 1", "upper bound"),
    ({"priorities": {"sexism": 2}}, "priorities.sexism=2.0: no such label", "known: bully, sexual"),
    ({"priorities": {"threat": -2}}, "priorities.threat=-2: must be at least 0", "Weight of each label"),
    ({"priorities": {"threat": True}}, "priorities.threat=true: must be a number", "Weight of each label"),
    ({"data": {"label_columns": ["a"]}, "priorities": {"a": 0}}, "priorities={a: 0.0}: must not all be 0", "raise one"),
    ({"tradeoff_weights": [1, 2]}, "tradeoff_weights=[1, 2]: must be a list of 3 values", "retention"),
    ({"tradeoff_weights": [0, 0, 0]}, "tradeoff_weights=[0.0, 0.0, 0.0]: must not all be 0", "raise one"),
    ({"measure": {"seconds": 0}}, "measure.seconds=0: must be greater than 0", "in seconds"),
    (
        {"resources": {"max_concurrent": 0}},
        "resources.max_concurrent=0: must be at least 1 or null",
        "null for as many",
    ),
    ({"results_dir": ""}, "results_dir='': must not be empty", "Folder"),
]


@pytest.mark.parametrize(("raw", "start", "remedy"), FAULTS, ids=[start.split(":")[0][:40] for _, start, _ in FAULTS])
def test_a_fault_names_key_value_and_remedy(raw: dict[str, Any], start: str, remedy: str) -> None:
    [problem] = faults(raw)
    assert problem.startswith(start)
    assert remedy in problem[len(start.split(":")[0]) :]
    assert "pydantic" not in problem and "Input should" not in problem and "\n" not in problem


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
    searched = {"distil": {"method": {"choices": ["none", "logit"]}}}
    assert study_from({"preset": "baseline_quant", **searched}).distil["method"] == "none"
    assert study_from({"preset": "baseline_kd", **searched}).distil["method"] == Choices(choices=("none", "logit"))


def test_folders() -> None:
    config = study_from({"study": "a", "results_dir": "out"})
    assert (config.folder, config.store_root) == (Path("out/a"), Path("out/.store"))
    assert config.model_copy(update={"storage": "elsewhere"}).store_root == Path("elsewhere")


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
    free = ["search.trials=99", "resources.max_concurrent=2", "results_dir=x", "storage=y"]
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


def model_folder(folder: Path, layers: int = 4, **config: object) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "bert", "num_hidden_layers": layers, **config}))
    (folder / "tokenizer.json").write_text("{}")
    header = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    return folder


def path_faults(tmp_path: Path, model: Path | str = "scratch", *overrides: str) -> list[str]:
    return check_paths(load_study(None, [f"teacher.model={model}", f"results_dir={tmp_path / 'out'}", *overrides]))


def test_a_sound_teacher_folder_has_no_faults(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model")
    assert path_faults(tmp_path, folder) == []
    safetensors = pytest.importorskip("safetensors.numpy")
    safetensors.save_file({"w": __import__("numpy").ones(5)}, folder / "model.safetensors")
    assert path_faults(tmp_path, folder) == []
    assert not (tmp_path / "out").exists()


def test_teacher_folder_faults(tmp_path: Path) -> None:
    def one(name: str, **config: object) -> Path:
        return model_folder(tmp_path / name, **config)

    def told(folder: Path | str) -> str:
        [problem] = path_faults(tmp_path, folder)
        assert problem.startswith(f"teacher.model='{folder}': ")
        return problem

    for missing, remedy in {
        "config.json": "config.json is missing; save the model again",
        "tokenizer.json": "tokenizer.json is missing; save a fast tokenizer",
        "model.safetensors": "has no *.safetensors weights; save the model",
    }.items():
        folder = one(f"without_{missing}")
        (folder / missing).unlink()
        assert remedy in told(folder)
    (folder / "pytorch_model.bin").write_bytes(b"x")
    assert "convert them with save_pretrained(folder, safe_serialization=True)" in told(folder)
    assert "auto_map" in told(one("custom", auto_map={"AutoModel": "m.M"}))
    folder = one("custom_tokenizer")
    (folder / "tokenizer_config.json").write_text('{"auto_map": {}}')
    assert "tokenizer_config.json asks to run its own code" in told(folder)
    folder = one("broken_config")
    (folder / "config.json").write_text("[1")
    assert "config.json is no JSON object" in told(folder)
    folder = one("sharded")
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-2.safetensors"}}')
    assert "model-2.safetensors is missing, though the index lists it" in told(folder)
    (tmp_path / "file").write_text("")
    assert "is a file; name the folder" in told(str(tmp_path / "file"))
    assert "no such folder" in told("./nowhere")
    assert "no such folder" in told("/no/where")


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "is cut off or no safetensors file (0 bytes)"),
        (b"abc", "is cut off or no safetensors file (3 bytes)"),
        (struct.pack("<Q", 500) + b"{}", "is cut off or no safetensors file (10 bytes)"),
        (struct.pack("<Q", 2) + b"{]", "has an unreadable header"),
        (struct.pack("<Q", 2) + b"{}", "holds no weights"),
        (None, "bytes where its header asks for"),
    ],
)
def test_torn_weights(tmp_path: Path, content: bytes | None, fault: str) -> None:
    weights = model_folder(tmp_path / "model") / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] if content is None else content)
    [problem] = path_faults(tmp_path, tmp_path / "model")
    assert fault in problem and problem.endswith("copy it again, whole")


def test_a_hub_id_is_looked_for_in_the_cache_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    asked = []

    def cached(name: str, file: str) -> str | None:
        asked.append((name, file))
        return str(tmp_path / "snapshot" / file) if name == "org/cached" else None

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", cached)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    [problem] = path_faults(tmp_path, "org/absent")
    assert problem.startswith(
        "teacher.model='org/absent': no such folder, and no such model in the Hugging Face cache;"
    )
    assert problem.endswith("hf download org/absent")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "HF_HUB_OFFLINE is set" in path_faults(tmp_path, "org/absent")[0]
    model_folder(tmp_path / "snapshot", layers=2)
    assert path_faults(tmp_path, "org/cached") == []
    assert asked == [("org/absent", "config.json")] * 2 + [("org/cached", "config.json")]


def test_students_deeper_than_the_teacher(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model", layers=3)
    [problem] = path_faults(tmp_path, folder, "distil.layers={choices: [3, 4]}")
    assert problem.startswith("distil.layers.choices[1]=4: more than the teacher's 3 (")
    assert str(folder / "config.json") in problem
    [problem] = path_faults(tmp_path, "scratch", "distil.layers={low: 1, high: 6}")
    assert problem == "distil.layers.high=6: more than the teacher's 4 (teacher.scratch_layers); take 4 or less"
    assert path_faults(tmp_path, "scratch", "distil.layers=6", "distil.method=none") == []


def test_folders_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.write_text("")
    for results in (file, file / "below" / "it"):
        [problem] = check_paths(load_study(None, [f"results_dir={results}"]))
        assert problem.startswith(f"results_dir='{results}': {file} is a file, not a folder; move it")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "embedded").write_text("")
    [problem] = path_faults(tmp_path)
    assert f"{tmp_path / 'out' / 'embedded'} is a file" in problem
    (tmp_path / "out" / "embedded").unlink()
    [problem] = path_faults(tmp_path, "scratch", f"storage={file}")
    assert problem.startswith(f"storage='{file}': {file} is a file")
    assert "storage='s3://x': must be a folder" in path_faults(tmp_path, "scratch", "storage=s3://x")[0]
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert path_faults(tmp_path) == [
        f"results_dir='{tmp_path / 'out'}': {tmp_path / 'out'} is not writable; make it so or name another folder"
    ]


def test_resolve_fills_in_the_digest_of_the_folder(tmp_path: Path) -> None:
    here, moved = model_folder(tmp_path / "here"), model_folder(tmp_path / "moved")
    (moved / "training_args.bin").write_bytes(b"no part of the model")
    config = load_study(None, [f"teacher.model={here}"])
    old, new = resolve(config), resolve(load_study(None, [f"teacher.model={moved}"]))
    assert old.teacher.model_digest == new.teacher.model_digest == model_digest(here)
    assert differences(old, new) == []
    assert resolve(old) == old == reread(old, tmp_path)
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        content = (here / name).read_bytes()
        (here / name).write_bytes(content + b" ")
        assert resolve(config).teacher.model_digest != old.teacher.model_digest
        with pytest.raises(InputError, match=r"teacher\.model_digest='.*give .*; bring the old ones back, or set null"):
            resolve(old)
        (here / name).write_bytes(content)
    assert resolve(load_study(None)).teacher.model_digest is None


def test_import_is_light() -> None:
    heavy = "{'torch', 'transformers', 'ray', 'pandas', 'optuna', 'mlflow', 'huggingface_hub'}"
    code = f"import sys, search.config, search.space; sys.exit(len({heavy} & sys.modules.keys()))"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=EMBEDDED_STUDY.parents[2])
