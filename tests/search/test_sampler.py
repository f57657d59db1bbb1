"""Samplers: the numbered one is a function of seed, number and name; the learning ones learn our constraints too."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from typing import get_args

import numpy as np
import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from scipy.stats import chi2_contingency, chisquare, kstest

from search.nsgaii import RememberingNSGAIISampler
from search.sampler import NumberedRandomSampler, make_sampler, study_sampler
from search.sections import SearchConfig
from search.study_file import study_from

SPACE: dict[str, BaseDistribution] = {
    "distil.method": CategoricalDistribution(["none", "logit"]),
    "distil.layers": IntDistribution(1, 6),
    "distil.alpha": FloatDistribution(0.1, 0.9, step=0.1),
    "prune.sparsity": FloatDistribution(0.2, 0.8),
    "prune.learning_rate": FloatDistribution(1e-5, 1e-2, log=True),
}
UNLIKELY = 1e-4
"""Of a p-value; seeds are fixed, so that a test passes always or never."""


pytestmark = pytest.mark.usefixtures("quiet_optuna")


def study_of(seed: int) -> optuna.Study:
    return optuna.create_study(sampler=NumberedRandomSampler(seed))


def ask(trial: optuna.Trial, names: list[str]) -> dict[str, object]:
    return {name: trial._suggest(name, SPACE[name]) for name in names}


def draws(distribution: BaseDistribution, number: int) -> list[object]:
    study = study_of(0)
    return [study.ask()._suggest("x", distribution) for _ in range(number)]


def test_the_order_of_asking_changes_nothing() -> None:
    expected = [ask(study.ask(), list(SPACE)) for study in [study_of(3)] for _ in range(5)]
    for order in itertools.islice(itertools.permutations(SPACE), 0, 120, 17):
        study = study_of(3)
        assert [ask(study.ask(), list(order)) for _ in range(5)] == expected
    study = study_of(3)
    assert [ask(study.ask(), ["prune.sparsity"]) for _ in range(5)] == [
        {"prune.sparsity": one["prune.sparsity"]} for one in expected
    ]


def test_finished_trials_change_nothing() -> None:
    alone, told, failed = study_of(3), study_of(3), study_of(3)
    for number in range(20):
        expected = ask(alone.ask(), list(SPACE))
        good, bad = told.ask(), failed.ask()
        assert ask(good, list(SPACE)) == ask(bad, list(SPACE)) == expected
        told.tell(good, float(number))
        failed.tell(bad, state=optuna.trial.TrialState.FAIL)


def test_seed_number_and_name_each_count() -> None:
    same = {name: SPACE["prune.sparsity"] for name in ("a", "b")}
    values = {
        (seed, number, name): trial._suggest(name, same[name])
        for seed in range(3)
        for study in [study_of(seed)]
        for number in range(3)
        for trial in [study.ask()]
        for name in same
    }
    assert len(set(values.values())) == len(values) == 18


def test_two_settings_and_two_seeds_are_independent() -> None:
    coin = CategoricalDistribution([0, 1, 2])
    first, second = study_of(0), study_of(1)
    joint = np.zeros((2, 3, 3))
    for _ in range(900):
        one, other = first.ask(), second.ask()
        a = one._suggest("a", coin)
        joint[0, a, one._suggest("b", coin)] += 1
        joint[1, a, other._suggest("a", coin)] += 1
    assert all(chi2_contingency(table).pvalue > UNLIKELY for table in joint)


@pytest.mark.parametrize(
    ("distribution", "values"),
    [
        (CategoricalDistribution(["none", "logit", True]), ["none", "logit", True]),
        (IntDistribution(3, 7), [3, 4, 5, 6, 7]),
        (IntDistribution(2, 12, step=5), [2, 7, 12]),
        (FloatDistribution(0.1, 0.7, step=0.1), [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]),
        (FloatDistribution(1.0, 4.0, step=0.5), [1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0]),
        (FloatDistribution(0.25, 0.25), [0.25]),
    ],
)
def test_listed_values_come_equally_often_and_no_others(distribution: BaseDistribution, values: list[object]) -> None:
    counts = Counter(draws(distribution, 2000))
    assert set(counts) == set(values)
    assert {type(value) for value in counts} == {type(value) for value in values}
    assert len(values) == 1 or chisquare([counts[value] for value in values]).pvalue > UNLIKELY


def test_a_continuous_range_is_uniform() -> None:
    values = np.array(draws(FloatDistribution(-1.0, 3.0), 2000), dtype=float)
    assert kstest(values, "uniform", args=(-1.0, 4.0)).pvalue > UNLIKELY


def test_a_logarithmic_range_is_uniform_in_the_logarithm() -> None:
    values = np.array(draws(FloatDistribution(1e-5, 1e-1, log=True), 2000), dtype=float)
    assert kstest(np.log10(values), "uniform", args=(-5.0, 4.0)).pvalue > UNLIKELY


def test_whole_numbers_on_a_logarithmic_scale() -> None:
    counts = Counter(draws(IntDistribution(2, 20, log=True), 4000))
    assert all(isinstance(value, int) and 2 <= value <= 20 for value in counts)
    edges = np.log([2.0, *(value + 0.5 for value in range(2, 20)), 20.0])
    expected = np.diff(edges) / math.log(10.0)
    assert chisquare([counts[value] for value in range(2, 21)], 4000 * expected).pvalue > UNLIKELY


def test_every_sampler_of_the_schema_is_there_and_follows_its_seed() -> None:
    names = get_args(SearchConfig.model_fields["sampler"].annotation)
    assert set(names) == {"stage_tree", "random", "tpe", "nsgaii", "gp"}
    for name in set(names) - {"stage_tree"}:  # see test_stage_tree
        runs = []
        for seed in (0, 0, 1):
            study = optuna.create_study(sampler=make_sampler(name, seed, 6))
            runs.append([ask(study.ask(), list(SPACE)) for _ in range(3)])
        assert runs[0] == runs[1] != runs[2], name


@pytest.mark.parametrize(("trials", "population"), [(16, 4), (200, 20), (3000, 50)])
def test_a_search_has_ten_generations_of_nsgaii(trials: int, population: int) -> None:
    made = study_sampler(study_from({"study": "s", "search": {"sampler": "nsgaii", "trials": trials}}))
    assert isinstance(made, RememberingNSGAIISampler) and made.population_size == population


def test_an_unknown_sampler_is_refused_with_what_there_is() -> None:
    with pytest.raises(ValueError, match=r"search\.sampler='grid': no such sampler; take random, tpe, nsgaii or gp"):
        make_sampler("grid", 0, 6)


@pytest.mark.parametrize(("name", "number"), [("tpe", 80), ("nsgaii", 200), ("gp", 20)])
def test_a_learning_sampler_learns_the_constraint(name: str, number: int) -> None:
    """The objective alone pulls x to 1; constrained to x ≤ 0.4, the later trials are mostly there or at its edge."""
    shares = {}
    for constrained in (False, True):
        study = optuna.create_study(direction="maximize", sampler=make_sampler(name, 0, 10, population=10))
        values = []
        for _ in range(number):
            trial = study.ask()
            x, *others = (trial.suggest_float(setting, 0.0, 1.0) for setting in "xabc")
            if constrained:
                trial.set_constraint("f1_drop", x - 0.4)
            study.tell(trial, x + 0.01 * sum(others))
            values.append(x)
        late = values[number // 2 :]
        shares[constrained] = sum(x <= 0.45 for x in late) / len(late)
    assert shares[True] > 0.7 > 0.3 > shares[False]
