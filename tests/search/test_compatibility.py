"""Settings that cannot stand together: refused with the reason, and never proposed."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from search.compatibility import TeacherShape, compatibility_problems, obstacle, teacher_shape
from search.config import STAGES
from search.every_chain import every_chain
from search.space import Space, flat_settings
from search.study_file import study_from

TAUGHT = {"distil.method": "logit"}
NGRAM = TAUGHT | {"distil.student": "ngram"}


def problems(**sections: Any) -> list[str]:
    return compatibility_problems(study_from({"data": {"path": "embedded"}, **sections}))


@pytest.mark.parametrize(
    ("sections", "told"),
    [
        ({"distil": {"method": "attention", "student": "ngram"}}, "distil.student='ngram'.*token by token.*layers"),
        ({"distil": {"method": "multi_level", "student": "encoder"}}, "distil.student='encoder'.*token by token"),
        ({"distil": {"method": "logit", "layers": 5}}, "distil.layers=5.*the teacher's 4"),
        ({"distil": {"method": "logit", "layers": {"low": 3, "high": 6}}}, "distil.layers=6.*the teacher's 4"),
        ({"distil": {"method": "logit", "width": 66}}, "distil.width=66.*multiple of the teacher's 4 heads"),
        ({"distil": {"method": "logit", "width": 256}}, "distil.width=256.*the teacher's 128"),
        ({"distil": {"method": "logit", "teacher_logits": "out_of_fold"}}, "out_of_fold.*teacher.folds to 2"),
        ({"distil": {"method": "logit", "student": "ngram", "buckets": 5000}}, "buckets=5000.*power of two; take 8192"),
        (
            {"distil": {"method": "logit", "student": "ngram", "smallest_ngram": 4, "longest_ngram": 3}},
            "longest_ngram=3.*smallest_ngram=4",
        ),
        (
            {"distil": {"method": "logit", "student": "ngram"}, "prune": {"method": "wanda"}},
            "prune.method='wanda'.*no layers to prune",
        ),
        ({"prune": {"method": "structured", "heads_left": 5}}, "prune.heads_left=5.*the 4 that a layer has"),
        ({"prune": {"method": "gradual", "epochs": 0}}, "prune.epochs=0.*raise it to 1"),
        ({"prune": {"method": "gradual", "sparsity": 0.3, "initial_sparsity": 0.3}}, "initial_sparsity=0.3"),
        ({"prune": {"method": "gradual", "begin_fraction": 0.8}}, "end_fraction=0.7.*begin_fraction=0.8"),
        (
            {"distil": {"method": "logit", "student": "ngram"}, "quantize": {"method": "int8_qat"}},
            "quantize.method='int8_qat'.*no activations.*int4",
        ),
        (
            {"prune": {"method": "vocabulary+structured"}, "quantize": {"method": "int4"}},
            "quantize.method='int4'.*no block of weights divides",
        ),
        ({"quantize": {"method": "int4", "block_size": 256}}, "block_size=256.*does not divide.*128"),
        ({"quantize": {"method": "int4", "block_size": 48}}, "block_size=48.*power of two; take 64"),
        ({"quantize": {"method": "int4", "block_size": 8}}, "block_size=8.*16 weights or more"),
        (
            {"distil": {"method": "logit", "student": "ngram"}, "quantize": {"method": "int4", "block_size": 32}},
            "block_size=32.*does not divide the model's width 16",
        ),
        (
            {
                "distil": {"method": "logit", "width": {"low": 64, "high": 128, "step": 16}},
                "quantize": {"method": "int4", "block_size": {"choices": [32, 64]}},
            },
            "block_size=32.*does not divide the model's width 80",
        ),
        (
            {"quantize": {"method": "int4", "block_size": {"low": 16, "high": 64, "step": 16}}},
            "block_size=48.*power of two; take 64 .of 16 to 64, list as choices",
        ),
        (
            {"distil": {"method": "logit", "width": {"low": 0, "high": 64, "step": 2}}},
            "width=2.*multiple of the teacher's 4 heads.*list as choices",
        ),
        (
            {"distil": {"method": "logit", "student": "ngram", "buckets": {"low": 16384, "high": 2**24, "log": True}}},
            "buckets=16385.*power of two; take 32768 .of 16384 to 16777216, list as choices",
        ),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(sections: dict[str, Any], told: str) -> None:
    found = problems(**sections)
    assert len(found) == 1
    assert re.search(told, found[0]), found


def test_sparsity_one_is_refused_before() -> None:
    from pipeline.errors import InputError

    with pytest.raises(InputError, match=r"prune\.sparsity=1\.0.*less than 1"):
        study_from({"prune": {"method": "magnitude", "sparsity": 1.0}})
    with pytest.raises(InputError, match=r"prune\.method='wanda\+wanda'"):
        study_from({"prune": {"method": "wanda+wanda"}})


def test_what_is_not_used_is_no_obstacle() -> None:
    assert problems(distil={"method": "none", "student": "ngram", "layers": 40}, prune={"method": "wanda"}) == []
    assert problems(preset="baseline_kd", distil={"method": "logit"}, prune={"method": "gradual", "epochs": 0}) == []


def test_a_choice_that_fits_somewhere_is_kept_where_it_fits() -> None:
    searched = {
        "distil": {"method": {"choices": ["none", "logit"]}, "student": {"choices": ["layers", "ngram"]}, "layers": 1},
        "prune": {"method": {"choices": ["none", "wanda", "vocabulary+structured"]}},
        "quantize": {"method": {"choices": ["none", "int8_static", "int8_dynamic"]}},
    }
    assert problems(**searched) == []
    del searched["prune"]["method"]["choices"][0]
    assert len(problems(**searched)) == 1, "nothing is left for an n-gram student"


def test_the_shape_of_a_pretrained_teacher_is_read_from_its_folder(tmp_path: Any) -> None:
    (tmp_path / "config.json").write_text('{"n_layers": 6, "n_heads": 12, "dim": 768}', encoding="utf-8")
    study = study_from({"teacher": {"model": str(tmp_path), "folds": 3}})
    assert teacher_shape(study) == TeacherShape(6, 12, 768, 3)
    assert teacher_shape(study_from({"teacher": {"model": "no/such-model"}})) == TeacherShape(None, None, None, 0)


SEARCHED = {
    "teacher": {"folds": 2},
    "distil": {
        "method": {"choices": ["none", "logit", "hidden", "attention", "multi_level"]},
        "student": {"choices": ["layers", "ngram"]},
        "layers": {"low": 1, "high": 4},
        "layer_choice": {"choices": ["even", "first", "last"]},
        "width": {"choices": [0, 64, 96]},
        "dimension": {"choices": [8, 16, 32]},
        "buckets": {"choices": [1024, 65536]},
        "teacher_logits": {"choices": ["in_sample", "out_of_fold"]},
        "loss": {"choices": ["bce", "focal"]},
        "class_weights": {"choices": [True, False]},
        "alpha": {"low": 0.1, "high": 0.9, "step": 0.2},
    },
    "prune": {
        "method": {"choices": ["none", "magnitude", "wanda", "gradual", "structured", "vocabulary+structured+wanda"]},
        "sparsity": {"low": 0.3, "high": 0.7, "step": 0.1},
        "scope": {"choices": ["encoder", "attention", "ffn", "all"]},
        "gradual_schedule": {"choices": ["linear", "cubic", "exponential"]},
        "importance": {"choices": ["taylor", "activation"]},
    },
    "quantize": {
        "method": {"choices": ["none", "fp16", "int8_dynamic", "int8_static", "int8_qat", "int4"]},
        "block_size": {"choices": [8, 16, 32, 64]},
    },
}


@cache
def searched() -> tuple[Space, TeacherShape]:
    """The space of the whole toolbox, of which the study says nothing against."""
    config = study_from(SEARCHED)
    assert compatibility_problems(config) == []
    return Space(config), teacher_shape(config)


@settings(max_examples=80, deadline=None)
@given(
    width=st.tuples(st.integers(0, 24), st.integers(1, 8), st.sampled_from([2, 4, 8, 16])),
    blocks=st.one_of(
        st.sampled_from([16, 32, 64]),
        st.lists(st.sampled_from([16, 32, 64]), min_size=1, unique=True).map(lambda listed: {"choices": listed}),
        st.sampled_from([{"low": 16, "high": 32, "step": 16}, {"low": 16, "high": 64, "step": 16}]),
    ),
)
def test_what_is_said_of_ranges_holds_for_every_chain(width: tuple[int, int, int], blocks: Any) -> None:
    """Against all chains one by one: one that cannot be is somewhere exactly if the study is refused."""
    first, steps, step = width
    widths = {"low": first * step, "high": (first + steps) * step, "step": step}
    config = study_from(
        {
            "distil": {"method": "logit", "width": widths},
            "quantize": {"method": {"choices": ["none", "int4"]}, "block_size": blocks},
        }
    )
    teacher = teacher_shape(config)
    try:
        refused = any(
            obstacle(key, value, {name: params[name] for name in params if name != key}, teacher)
            for params in every_chain(config)
            for key, value in params.items()
        )
    except ValidationError:  # nothing is left to choose from
        refused = True
    assert bool(compatibility_problems(config)) == refused


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**16))
def test_the_search_never_proposes_what_cannot_be(seed: int) -> None:
    """Over the whole toolbox: every suggestion builds its configs, and no setting of it meets an obstacle."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space, teacher = searched()
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=3))
    for _ in range(6):
        trial = study.ask()
        params = space.suggest(trial)
        built: dict[str, Any] = {}
        for stage, one in zip(STAGES, space.configs(params), strict=True):
            built |= flat_settings(stage, one)
        assert built == params
        for key, value in params.items():
            assert obstacle(key, value, {name: params[name] for name in params if name != key}, teacher) is None
        study.tell(trial, float(len(params)))


def test_points_find_the_place_where_their_choice_is_left_alone() -> None:
    point = {
        "distil.method": "logit",
        "distil.student": "ngram",
        "distil.dimension": 16,
        "prune.method": "none",
        "quantize.method": "int4",
        "quantize.block_size": 16,
    }
    config = study_from(SEARCHED | {"search": {"points": [point]}})
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.enqueue_trial(Space(config).named(point))
    params = Space(config).suggest(study.ask())
    assert {key: params[key] for key in point} == point
