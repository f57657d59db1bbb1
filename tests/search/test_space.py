"""Suggestions: conditional on the methods, always valid, the same numbers as typed configs and as flat settings."""

from __future__ import annotations

from typing import Any

import optuna
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pipeline.compression_config import PRUNING
from pipeline.config import DistilConfig, PruneConfig, QuantizeConfig, StageConfig
from search.compatibility import compatibility_problems
from search.config import STAGES, StudyConfig
from search.space import Space, flat_settings, point_problems
from search.study_file import load_study, study_from

pytestmark = pytest.mark.usefixtures("quiet_optuna")


def suggestions(config: StudyConfig, number: int, seed: int = 0) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """What `Space` returned and what Optuna was asked for, of each trial."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    pairs = []
    for _ in range(number):
        trial = study.ask()
        params = Space(config).suggest(trial)
        pairs.append((params, dict(trial.params)))
        study.tell(trial, 0.0)
    return pairs


def test_only_the_settings_of_the_chosen_methods_are_suggested() -> None:
    seen = set()
    for params, asked in suggestions(load_study(None), 80):
        distil, prune, student = params["distil.method"], params["prune.method"], params.get("distil.student")
        seen.add((distil, student, prune))
        assert ("distil.alpha" in asked) == ("distil.alpha" in params) == (distil == "logit")
        assert ("distil.layers" in asked) == ("distil.schedule" in params) == (student == "layers")
        assert ("distil.buckets" in params) == (student == "ngram"), "fixed, so not suggested"
        assert ("prune.sparsity" in asked) == ("prune.scope" in params) == (prune == "wanda")
        assert ("prune.ratio" in asked) == (prune == "structured")
        assert ("prune.calibration_rows" in params) == (prune in ("wanda", "structured"))
        assert not {"distil.buckets", "distil.schedule", "distil.hidden_weight", "quantize.epochs"} & set(asked)
        assert student != "layers" or params["distil.epochs"] == 6
    assert len(seen) == 3 + 3 + 1, "an n-gram student is not pruned"


def test_a_stepped_range_gives_the_decimals_as_written() -> None:
    given_ = {
        "preset": "baseline_prune",
        "prune": {"method": "magnitude", "sparsity": {"low": 0.1, "high": 0.9, "step": 0.1}},
    }
    sparsities = {params["prune.sparsity"] for params, _ in suggestions(study_from(given_), 200)}
    assert sparsities == {0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9}


def test_same_seed_same_suggestions() -> None:
    config = load_study(None)
    assert suggestions(config, 5, seed=3) == suggestions(config, 5, seed=3) != suggestions(config, 5, seed=4)


def test_other_columns_of_a_row_are_left_alone() -> None:
    params = {
        "distil.method": "logit",
        "distil.layers": 3,
        "prune.method": "none",
        "quantize.method": "fp16",
        "trial": 4,
    }
    distil, prune, quantize = Space(load_study(None)).configs(params)
    assert (distil, prune) == (DistilConfig(method="logit", layers=3), PruneConfig())
    assert quantize == QuantizeConfig(method="fp16")


def test_flat_settings_are_the_used_ones() -> None:
    assert flat_settings("distil", DistilConfig(layers=7)) == {"distil.method": "none"}
    assert flat_settings("prune", PruneConfig(method="magnitude", sparsity=0.25)) == {
        "prune.method": "magnitude",
        "prune.scope": "encoder",
        "prune.sparsity": 0.25,
        "prune.granularity": "default",
        "prune.epochs": 1,
        "prune.learning_rate": 1e-4,
        "prune.batch_size": 32,
        "prune.alpha": 0.5,
        "prune.temperature": 2.0,
        "prune.seed": 0,
    }


def settings_for(name: str, low: float, high: float, whole: bool) -> st.SearchStrategy[Any]:
    """A fixed value, choices, or a range of any kind within bounds that the setting allows."""
    values = st.integers(int(low), int(high)) if whole else st.floats(low, high)
    steps = st.integers(1, 3) if whole else st.sampled_from([0.05, 0.125, 1 / 3])
    ends = st.tuples(values, values).filter(lambda pair: pair[0] < pair[1])
    plain = st.builds(lambda pair, log: {"low": pair[0], "high": pair[1], "log": log}, ends, st.booleans())
    stepped = st.builds(lambda step, count: (step, count), steps, st.integers(1, 4)).map(
        lambda pair: {"low": low, "high": low + pair[0] * pair[1], "step": pair[0]}
    )
    choices = st.lists(values, min_size=1, max_size=4, unique=True).map(lambda listed: {"choices": listed})
    exact = stepped.filter(lambda found: whole or found["step"] != 1 / 3)
    return st.tuples(st.just(name), st.one_of(values, choices, plain, exact))


def methods(model: type[StageConfig]) -> st.SearchStrategy[Any]:
    listed: Any = PRUNING if model is PruneConfig else model.model_fields["method"].annotation.__args__  # type: ignore
    names = st.sampled_from(listed)
    return st.one_of(names, st.lists(names, min_size=1, unique=True).map(lambda listed: {"choices": listed}))


spaces = st.fixed_dictionaries(
    {
        "distil": st.builds(
            lambda method, found: {"method": method, **dict(found)},
            methods(DistilConfig),
            st.tuples(
                settings_for("layers", 1, 4, True),
                settings_for("alpha", 0.25, 1, False),
                settings_for("temperature", 0.5, 100, False),
            ),
        ),
        "prune": st.builds(
            lambda method, found: {"method": method, **dict(found)},
            methods(PruneConfig),
            st.tuples(settings_for("sparsity", 0.25, 0.99, False), settings_for("calibration_rows", 8, 999, True)),
        ),
        "quantize": methods(QuantizeConfig).map(lambda method: {"method": method}),
    }
)


@settings(max_examples=80, deadline=None)
@given(raw=spaces, seed=st.integers(0, 2**16))
def test_every_suggestion_builds_the_configs_it_stands_for(raw: dict[str, Any], seed: int) -> None:
    config = study_from(raw)
    assume(not compatibility_problems(config))
    space = Space(config)
    for params, _ in suggestions(config, 4, seed):
        configs = space.configs(params)
        again: dict[str, Any] = {}
        for (stage, model), built in zip(STAGES.items(), configs, strict=True):
            assert type(built) is model
            again |= flat_settings(stage, built)
        assert again == params
        for name, value in params.items():
            stage, setting = name.split(".")
            wanted = raw[stage].get(setting)
            if isinstance(wanted, dict) and "choices" in wanted:
                assert value in wanted["choices"]
            elif isinstance(wanted, dict):
                assert wanted["low"] <= value <= wanted["high"]
            elif wanted is not None:
                assert value == wanted


@settings(max_examples=60, deadline=None)
@given(raw=spaces, seed=st.integers(0, 2**16))
def test_a_space_that_was_asked_before_asks_the_same(raw: dict[str, Any], seed: int) -> None:
    """What it remembers of earlier chains must hang on nothing that differs between them."""
    config = study_from(raw)
    assume(not compatibility_problems(config))
    remembering = Space(config)
    for index in range(12):
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed + index))
        again = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed + index))
        trial, other = study.ask(), again.ask()
        assert list(remembering.suggest(trial).items()) == list(Space(config).suggest(other).items())
        assert trial.distributions == other.distributions and trial.params == other.params


def test_points_are_checked_against_the_space() -> None:
    raw = {
        "data": {"path": "embedded"},
        "distil": {"method": {"choices": ["none", "logit"]}, "layers": {"low": 1, "high": 4}},
        "prune": {"method": "magnitude", "sparsity": {"low": 0.3, "high": 0.7, "step": 0.1}},
    }
    good = {"distil.method": "logit", "distil.layers": 4, "prune.sparsity": 0.5, "prune.method": "magnitude"}
    bad = {
        "distil.layers": 5,
        "prune.sparsity": 0.55,
        "prune.method": "wanda",
        "distil.metod": "none",
        "data.path": "x",
    }
    assert point_problems(study_from({**raw, "search": {"points": [good]}})) == []
    problems = point_problems(study_from({**raw, "search": {"points": [good, bad]}}))
    assert [problem.split("=")[0] for problem in problems] == [f"search.points[1].{key}" for key in bad]


@pytest.mark.parametrize(("value", "held"), [(1, True), (4, True), (2.0, True), (2.5, False), (5, False), ("3", False)])
def test_a_point_in_a_range_of_whole_numbers_is_whole(value: Any, held: bool) -> None:
    raw = {
        "distil": {"method": "logit", "layers": {"low": 1, "high": 4}},
        "search": {"points": [{"distil.layers": value}]},
    }
    assert (point_problems(study_from(raw)) == []) == held
