"""Single settings and whole sections: every fault told by key, value and remedy."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.errors import InputError
from search.study_file import study_from


def faults(raw: dict[str, Any]) -> list[str]:
    with pytest.raises(InputError) as caught:
        study_from(raw)
    return caught.value.problems


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
    (
        {"distil": {"method": "logits"}},
        "distil.method='logits': must be 'none', 'logit', 'hidden', 'attention' or 'multi_level'",
        "Hinton",
    ),
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
    (
        {"search": {"sampler": "grid"}},
        "search.sampler='grid': must be 'stage_tree', 'tpe', 'nsgaii', 'gp' or 'random'",
        "Optuna",
    ),
    ({"search": {"objectives": []}}, "search.objectives=[]: must not be empty", "one of the two scores alone"),
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
    ({"measure": {"seconds": 0}}, "measure.seconds=0: must be greater than 0 and at most 600", "in seconds"),
    ({"measure": {"requests": 19}}, "measure.requests=19: must be at least 20 and at most 1000000", "Fewest timed"),
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
