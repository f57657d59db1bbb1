"""Points: whatever one names that passes the check is what runs, and what cannot run is refused."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.compatibility import compatibility_problems
from search.config import Choices, Range, StudyConfig
from search.every_chain import every_chain
from search.sampler import study_sampler
from search.space import Space, point_problems
from search.study_file import study_from

SPACE: dict[str, Any] = {
    "distil": {
        "method": {"choices": ["none", "logit", "hidden"]},
        "student": {"choices": ["layers", "ngram"]},
        "layers": {"choices": [1, 2]},
        "width": {"low": 64, "high": 112, "step": 16},
        "dimension": {"choices": [8, 16]},
        "smallest_ngram": {"choices": [2, 4]},
        "longest_ngram": {"choices": [3, 5]},
    },
    "prune": {
        "method": {"choices": ["none", "gradual", "structured", "vocabulary+structured"]},
        "sparsity": {"low": 0.2, "high": 0.6, "step": 0.2},
        "initial_sparsity": {"choices": [0.0, 0.2, 0.4]},
        "begin_fraction": {"choices": [0.0, 0.5]},
        "end_fraction": {"choices": [0.4, 0.7]},
        "structures": {"choices": ["both", "heads"]},
        "epochs": {"choices": [0, 1]},
    },
    "quantize": {
        "method": {"choices": ["none", "int8_dynamic", "int8_static", "int4"]},
        "block_size": {"choices": [8, 16, 32, 64]},
    },
}
CONTINUOUS = SPACE | {
    "distil": SPACE["distil"] | {"smallest_ngram": {"low": 1, "high": 5}, "longest_ngram": {"choices": [3, 4, 5, 6]}},
    "prune": SPACE["prune"] | {"sparsity": {"low": 0.1, "high": 0.9}, "begin_fraction": {"low": 0.0, "high": 0.6}},
}

TAUGHT = {"distil.method": "logit", "distil.student": "layers"}


pytestmark = pytest.mark.usefixtures("quiet_optuna")


def study(space: dict[str, Any], *points: dict[str, Any], sampler: str = "random", seed: int = 0) -> StudyConfig:
    return study_from(space | {"seed": seed, "search": {"points": list(points), "sampler": sampler, "trials": 40}})


@cache
def chains() -> list[dict[str, Any]]:
    """Every chain of SPACE."""
    config = study(SPACE)
    assert compatibility_problems(config) == []
    return list(every_chain(config))


@cache
def searched() -> dict[str, list[Any]]:
    """The searched settings of SPACE with their values."""
    found: dict[str, dict[Any, None]] = {}
    config = study(SPACE)
    for chain in chains():
        for key, value in chain.items():
            stage, name = key.split(".")
            if isinstance(config.settings(stage)[name], Choices | Range):
                found.setdefault(key, {})[value] = None
    return {key: list(values) for key, values in found.items()}


def suggested(config: StudyConfig, times: int) -> list[dict[str, Any]]:
    """What the study's first point becomes, tried so many times."""
    made = optuna.create_study(directions=["maximize", "minimize", "minimize"], sampler=study_sampler(config))
    space = Space(config)
    names = space.named(config.search.points[0])
    for _ in range(times):
        made.enqueue_trial(names)
    return [space.suggest(made.ask()) for _ in range(times)]


@st.composite
def any_points(draw: st.DrawFn) -> dict[str, Any]:
    """A few settings with values of theirs, whether or not they can stand together."""
    keys = draw(st.lists(st.sampled_from(sorted(searched())), min_size=1, max_size=4, unique=True))
    return {key: draw(st.sampled_from(searched()[key])) for key in keys}


@settings(max_examples=30, deadline=None)
@given(point=any_points(), sampler=st.sampled_from(["random", "stage_tree"]), seed=st.integers(0, 2**16))
def test_a_point_passes_if_some_chain_has_it_and_then_it_runs(point: dict[str, Any], sampler: str, seed: int) -> None:
    """Against all chains of the space one by one."""
    possible = any(point.items() <= chain.items() for chain in chains())
    config = study(SPACE, point, sampler=sampler, seed=seed)
    assert (point_problems(config) == []) == possible
    if possible:
        assert all(point.items() <= params.items() for params in suggested(config, 6))


@settings(max_examples=30, deadline=None)
@given(
    data=st.data(),
    space=st.sampled_from([SPACE, CONTINUOUS]),
    sampler=st.sampled_from(["random", "stage_tree"]),
    seed=st.integers(0, 2**16),
)
def test_any_part_of_a_chain_is_a_point_that_runs(
    data: st.DataObject, space: dict[str, Any], sampler: str, seed: int
) -> None:
    (chain,) = suggested(study(space, {}, seed=seed), 1)
    keys = data.draw(st.lists(st.sampled_from(sorted(searched().keys() & chain)), unique=True, max_size=6))
    point = {key: chain[key] for key in keys}
    config = study(space, point, sampler=sampler, seed=seed)
    assert point_problems(config) == []
    assert all(point.items() <= params.items() for params in suggested(config, 6))


def test_what_a_point_leaves_open_is_settled_only_where_it_must_be() -> None:
    def seen(point: dict[str, Any], *keys: str) -> list[set[Any]]:
        chains = suggested(study(SPACE, point), 40)
        return [{chain[key] for chain in chains if key in chain} for key in keys]

    methods = set(SPACE["prune"]["method"]["choices"])
    assert seen({"quantize.method": "int4"}, "distil.method", "prune.method", "prune.structures") == [
        {"none", "logit", "hidden"},
        methods,
        {"heads"},
    ]
    assert seen({"distil.layers": 2}, "distil.method", "distil.width", "prune.method") == [
        {"logit"},
        {64, 80, 96, 112},
        methods,
    ]
    assert seen({"prune.epochs": 0}, "prune.method", "prune.structures") == [{"structured"}, {"both", "heads"}]


def test_every_value_of_the_space_is_a_point_by_itself() -> None:
    """Also of settings whose obstacles hang on others that the point does not name."""
    points = [{key: value} for key, values in searched().items() for value in values]
    assert point_problems(study(SPACE, *points)) == []


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("sampler", ["random", "stage_tree", "tpe"])
@pytest.mark.parametrize(
    "point",
    [
        {"distil.layers": 2, "quantize.method": "int8_dynamic"},
        {"distil.student": "ngram"},
        TAUGHT | {"distil.layers": 2, "quantize.method": "int4"},
    ],
)
def test_settings_below_an_open_one_run(point: dict[str, Any], sampler: str, seed: int) -> None:
    space = {
        "distil": {
            "method": {"choices": ["none", "logit", "hidden"]},
            "student": {"choices": ["layers", "ngram"]},
            "layers": {"choices": [1, 2]},
        },
        "prune": {"method": {"choices": ["structured", "none"]}},
        "quantize": {"method": {"choices": ["none", "int8_dynamic", "int4"]}},
    }
    config = study(space, point, sampler=sampler, seed=seed)
    assert point_problems(config) == []
    assert all(point.items() <= params.items() for params in suggested(config, 5))


@pytest.mark.parametrize(
    ("point", "told"),
    [
        ({"distil.method": "none", "distil.layers": 2}, r"distil.layers=2: counts only with distil.student=layers"),
        ({"distil.method": "hidden", "distil.student": "ngram"}, "distil.student='ngram'.*token by token"),
        ({"distil.student": "ngram", "prune.method": "gradual"}, "prune.method='gradual'.*no layers to prune"),
        ({"prune.method": "gradual", "prune.epochs": 0}, "prune.epochs=0.*raise it to 1"),
        ({"prune.sparsity": 0.4, "prune.initial_sparsity": 0.4}, "initial_sparsity=0.4.*not less than"),
        ({"distil.smallest_ngram": 4, "distil.longest_ngram": 3}, "longest_ngram=3.*smallest_ngram=4"),
        ({"prune.begin_fraction": 0.5, "prune.end_fraction": 0.4}, "end_fraction=0.4.*begin_fraction=0.5"),
        (TAUGHT | {"quantize.block_size": 8}, "block_size=8.*16 weights or more"),
        ({"distil.width": 80, "quantize.block_size": 32.0}, "block_size=32.*the model's width 80"),
    ],
)
def test_what_cannot_count_is_told_with_the_reason(point: dict[str, Any], told: str) -> None:
    found = point_problems(study(SPACE, {}, point))
    assert len(found) == 1
    assert re.search(r"search\.points\[1\]\.\S*" + told, found[0]), found
    with pytest.raises(ValueError, match="not all of these can count together"):
        Space(study(SPACE)).named(point)


def test_each_setting_that_cannot_count_is_told() -> None:
    point = {"quantize.block_size": 64, "distil.layers": 1, "prune.epochs": 0, "distil.method": "none"}
    told = point_problems(study(SPACE, point | {"quantize.method": "none"}))
    assert [line.split("=")[0] for line in told] == [
        f"search.points[0].{key}" for key in ("distil.layers", "quantize.block_size")
    ]


def test_numbers_may_be_written_as_another_type() -> None:
    space = SPACE | {
        "distil": SPACE["distil"] | {"buckets": {"choices": [65536, 131072]}, "layers": {"low": 1, "high": 4}}
    }
    for sampler in ("random", "stage_tree"):
        for point in ({"distil.buckets": 65536.0}, {"distil.layers": 3.0}, {"prune.epochs": 0.0}):
            config = study(space, point, sampler=sampler)
            assert point_problems(config) == []
            assert point.items() <= suggested(config, 1)[0].items()


def test_a_study_whose_settings_stand_against_each_other_is_told_of_these_first() -> None:
    config = study(SPACE | {"quantize": {"method": "int4", "block_size": 48}}, {"quantize.method": "int4"})
    assert compatibility_problems(config) and point_problems(config) == []
