"""Shapes: what is expected to be timed already, and how that is believed less where it did not hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from evaluation.records import read_records
from pipeline.config import DistilConfig, PruneConfig, QuantizeConfig
from search.config import STAGES
from search.stage_tree.chains import Prefix
from search.stage_tree.reading import OF_TRAINING, study_shapes
from search.stage_tree.shapes import DOUBT, Shapes
from search.study_file import load_study

RECORDED = Path(__file__).resolve().parents[3] / "benchmarks" / "recorded" / "mixed"
FIGURES = np.array([1.0, -0.5])


def student(layers: int = 2, seed: int = 0) -> Prefix:
    return ("distil.layers", layers), ("distil.seed", seed)


@pytest.fixture
def shapes() -> Shapes:
    return Shapes(["distil.seed"], 5.0)


def test_the_first_of_a_shape_takes_the_time_and_its_figures_are_those_of_the_next(shapes: Shapes) -> None:
    assert shapes.seconds("distil", student()) == 5.0 and shapes.figures("distil", student()) is None
    shapes.add("distil", student(), "a", FIGURES)
    assert shapes.seconds("distil", student(seed=1)) == pytest.approx(5.0 * DOUBT)
    assert shapes.figures("distil", student(seed=1)) is FIGURES
    assert shapes.seconds("distil", student(layers=3)) == 5.0 and shapes.figures("distil", student(layers=3)) is None


def test_a_shape_that_a_trial_is_at_will_be_timed(shapes: Shapes) -> None:
    shapes.begin([student()])
    assert shapes.seconds("distil", student(seed=1)) == pytest.approx(5.0 * DOUBT)
    assert shapes.figures("distil", student(seed=1)) is None
    shapes.end([student()])
    assert shapes.seconds("distil", student(seed=1)) == 5.0


def test_where_models_that_should_be_alike_are_not_it_is_believed_no_more(shapes: Shapes) -> None:
    for seed, name in enumerate("abcd"):
        shapes.add("distil", student(seed=seed), name, FIGURES)
    assert 5.0 * 0.7 < shapes.seconds("distil", student(seed=9)) < 5.0
    assert shapes.figures("distil", student(seed=9)) is None
    assert shapes.seconds("prune", student(seed=9)) == pytest.approx(5.0 * DOUBT), "of each stage apart"


def test_where_they_are_alike_it_is_believed_more(shapes: Shapes) -> None:
    for seed in range(10):
        shapes.add("distil", student(seed=seed), "a", FIGURES)
    assert shapes.seconds("distil", student(seed=11)) < 5.0 * DOUBT / 5
    assert shapes.figures("distil", student(seed=11)) is FIGURES


def test_without_names_nothing_is_expected_to_take_time() -> None:
    assert Shapes().seconds("distil", student()) == 0.0


def test_the_settings_of_training_are_settings() -> None:
    configs = {"distil": DistilConfig, "prune": PruneConfig, "quantize": QuantizeConfig}
    assert {stage: set(names.split()) - set(configs[stage].model_fields) for stage, names in OF_TRAINING.items()} == {
        stage: set() for stage in STAGES
    }


def test_models_that_should_be_of_one_shape_are_in_a_recorded_space() -> None:
    """Size and speed of each model of the table, foretold from one of its shape."""
    shapes = study_shapes(load_study(RECORDED / "study.yaml"))
    rows = read_records(RECORDED / "trials.parquet")
    students = rows[rows["stage"] == "after_kd"].sample(1000, random_state=0)
    names = [name for name in students.columns if name.startswith("distil.")]
    known: dict[Prefix, str] = {}
    for row in students[[*names, "timed_model"]].to_dict("records"):
        key = shapes.key(tuple((name, row[name]) for name in names if row[name] == row[name]))
        assert known.setdefault(key, row["timed_model"]) == row["timed_model"]
    assert 10 < len(known) < 100
