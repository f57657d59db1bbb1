"""The stage-tree sampler on a small world: what it suggests, and what a front costs with it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FrozenTrial, TrialState

from evaluation.front import hypervolume
from search.stage_tree import StageTreeSampler
from search.stage_tree.beliefs import StageOutcome
from search.stage_tree.chains import Chain, plain
from search.stage_tree.effects import FloatArray

STAGES = ("distil", "prune", "quantize")
ROOT = (-0.8, 2.0, 0.0)
LIMIT = 0.77
SECONDS = {"distil": 100.0, "prune": 30.0, "quantize": 2.0}


def space(trial: Any) -> dict[str, Any]:
    params = {"distil.method": trial.suggest_categorical("distil.method", ["none", "logit"])}
    if params["distil.method"] == "logit":
        params["distil.layers"] = trial.suggest_int("distil.layers", 1, 6)
        params["distil.alpha"] = trial.suggest_float("distil.alpha", 0.1, 0.9, step=0.2)
    params["prune.method"] = trial.suggest_categorical("prune.method", ["none", "structured"])
    if params["prune.method"] == "structured":
        params["prune.ratio"] = trial.suggest_float("prune.ratio", 0.1, 0.7, step=0.1)
    formats = ["none", "fp16", "int8"] + (["int4"] if params["prune.method"] == "none" else [])
    name = "quantize.method" if len(formats) == 4 else f"quantize.method[{'|'.join(formats)}]"
    params["quantize.method"] = trial.suggest_categorical(name, formats)
    return params


def world(params: dict[str, Any]) -> list[StageOutcome]:
    f1, size, latency = 0.8, 2.0, 0.0
    outcomes = []
    if params["distil.method"] != "none":
        layers = params["distil.layers"]
        f1 -= 0.05 / layers + 0.02 * (params["distil.alpha"] - 0.7) ** 2
        size, latency = np.log10(10 + 7 * layers), np.log10(layers / 12)
    outcomes.append(("distil", f1, size, latency))
    if params["prune.method"] != "none":
        left = 1 - 0.8 * params["prune.ratio"]
        f1, size, latency = f1 - 0.08 * params["prune.ratio"] ** 2, size + np.log10(left), latency + np.log10(left)
    outcomes.append(("prune", f1, size, latency))
    change = {"none": (0, 0, 0), "fp16": (0, -0.3, 0.1), "int8": (0.001, -0.6, -0.2), "int4": (0.01, -0.8, 0)}
    lost, smaller, faster = change[params["quantize.method"]]
    outcomes.append(("quantize", f1 - lost, size + smaller, latency + faster))
    return [
        StageOutcome((-f1, size, latency), LIMIT - f1, None if params[f"{stage}.method"] == "none" else SECONDS[stage])
        for stage, f1, size, latency in outcomes
    ]


class Reading:
    """Outcomes are worked out again from the trial's settings."""

    def root(self, study: optuna.Study) -> StageOutcome:
        return StageOutcome(ROOT, LIMIT - 0.8)

    def of(self, trial: FrozenTrial, root: StageOutcome | None) -> Sequence[StageOutcome]:
        params = {name.partition("[")[0]: value for name, value in trial.params.items()}
        return [*world(params)[:2], StageOutcome(None)] if trial.user_attrs.get("failed") else world(params)


def tree_sampler(seed: int) -> StageTreeSampler:
    return StageTreeSampler(space, STAGES, Reading(), seed=seed)


def study_with(sampler: BaseSampler) -> optuna.Study:
    return optuna.create_study(directions=["minimize"] * 3, sampler=sampler)


def search(
    sampler: BaseSampler,
    trials: int,
    broken: Callable[[dict[str, Any]], bool] = lambda params: False,
    budget: float = math.inf,
) -> tuple[list[dict[str, Any]], list[tuple[float, float]]]:
    """Settings of the trials, and (seconds so far, hypervolume) after each; models that exist cost nothing.

    No trial begins once so many seconds are spent.
    """
    study = study_with(sampler)
    built: set[str] = set()
    points: list[tuple[float, float, float]] = []
    asked, curve, seconds = [], [], 0.0
    for _ in range(trials):
        if seconds > budget:
            break
        trial = study.ask()
        params = space(trial)
        asked.append(params)
        if broken(params):
            trial.set_user_attr("failed", True)
            study.tell(trial, state=TrialState.FAIL)
            continue
        outcomes = world(params)
        path = ""
        for stage, outcome in zip(STAGES, outcomes, strict=True):
            path += str({name: value for name, value in params.items() if name.startswith(stage)})
            if outcome.seconds is not None and path not in built:
                seconds += outcome.seconds
                built.add(path)
                if outcome.excess <= 0 and outcome.losses:
                    points.append(outcome.losses)
        study.tell(trial, outcomes[-1].losses)
        curve.append((seconds, hypervolume(np.array(points), np.array([-0.75, 2.0, 0.0])) if points else 0.0))
    return asked, curve


def volume_at(curve: list[tuple[float, float]], seconds: float) -> float:
    return max((volume for paid, volume in curve if paid <= seconds), default=0.0)


def test_equal_cost_buys_more_front_than_random_search_that_reuses_models_too() -> None:
    ours = [search(tree_sampler(seed), 90, budget=2000.0)[1] for seed in range(5)]
    theirs = [search(RandomSampler(seed=seed), 300, budget=2000.0)[1] for seed in range(5)]
    for seconds in (1000.0, 2000.0):
        bought, for_comparison = (np.mean([volume_at(curve, seconds) for curve in one]) for one in (ours, theirs))
        assert bought > 1.2 * for_comparison


def test_many_beliefs_together_begin_better_than_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.stage_tree.sampler.CANDIDATES", 96)  # with more, this small space is looked at whole
    many = [search(tree_sampler(seed), 20, budget=300.0)[1] for seed in range(40)]
    monkeypatch.setattr("search.stage_tree.sampler.BELIEFS", 1)
    one = [search(tree_sampler(seed), 20, budget=300.0)[1] for seed in range(40)]
    bought, by_one = (np.mean([volume_at(curve, 300.0) for curve in curves]) for curves in (many, one))
    assert bought > 1.05 * by_one


def test_what_running_trials_should_bring_is_not_sought_again() -> None:
    def kept_of_the_best(seed: int) -> float:
        """Share of its gain that the best candidate has left when a trial is at that very chain."""
        sampler = tree_sampler(seed)
        search(sampler, 24)
        tree, candidates = sampler.tree, [chain for chain in sampler._candidates(64) if sampler.tree.is_new(chain)]

        def gains() -> Any:
            return tree.prospects(candidates, np.random.default_rng(0), 512).gain.mean(axis=0)

        best = int((before := gains()).argmax())
        tree.begin(1000, candidates[best])
        return float(gains()[best] / before[best])

    assert np.mean([kept_of_the_best(seed) for seed in range(4)]) < 0.8, "what is left is luck of its own"


WITHOUT = {stage: {f"{stage}.method": "none"} for stage in STAGES}


def applied(params: dict[str, Any]) -> list[str]:
    return [stage for stage in STAGES if params[f"{stage}.method"] != "none"]


def test_a_dear_rest_is_put_off_until_the_student_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    def begun_alone(of_rest: float) -> int:
        monkeypatch.setitem(SECONDS, "prune", of_rest)
        monkeypatch.setitem(SECONDS, "quantize", of_rest)
        runs = [StageTreeSampler(space, STAGES, Reading(), seed=seed, without=WITHOUT) for seed in range(3)]
        asked = [params for sampler in runs for params in search(sampler, 30)[0][4:]]
        return sum(applied(params) == ["distil"] for params in asked)

    assert begun_alone(100.0) > 2 * begun_alone(0.5)


def test_where_nothing_can_be_left_out_chains_are_run_whole() -> None:
    def always(trial: Any) -> dict[str, Any]:
        params = {"distil.method": trial.suggest_categorical("distil.method", ["logit"])}
        params["distil.layers"] = trial.suggest_int("distil.layers", 1, 6)
        params["distil.alpha"] = trial.suggest_float("distil.alpha", 0.1, 0.9, step=0.2)
        params["prune.method"] = trial.suggest_categorical("prune.method", ["structured"])
        params["prune.ratio"] = trial.suggest_float("prune.ratio", 0.1, 0.7, step=0.1)
        params["quantize.method"] = trial.suggest_categorical("quantize.method", ["fp16", "int8"])
        return params

    study = study_with(StageTreeSampler(always, STAGES, Reading(), seed=0, without=WITHOUT))
    for _ in range(30):
        trial = study.ask()
        params = always(trial)
        assert len(applied(params)) == 3
        study.tell(trial, world(params)[-1].losses)


def test_equal_seeds_suggest_the_same_and_other_seeds_others() -> None:
    runs = [search(tree_sampler(seed), 25)[0] for seed in (0, 0, 1)]
    assert runs[0] == runs[1] != runs[2]


def test_no_chain_is_suggested_twice_while_there_are_others() -> None:
    asked = [str(params) for params in search(tree_sampler(3), 60)[0]]
    assert len(set(asked)) == len(asked)


def test_a_space_that_was_run_whole_has_no_end() -> None:
    def small(trial: Any) -> dict[str, Any]:
        params = {name: trial.suggest_categorical(name, ["none"]) for name in ("distil.method", "prune.method")}
        return params | {"quantize.method": trial.suggest_categorical("quantize.method", ["none", "fp16", "int8"])}

    study = study_with(StageTreeSampler(small, STAGES, Reading(), seed=0))
    asked = []
    for _ in range(30):
        trial = study.ask()
        asked.append(small(trial)["quantize.method"])
        study.tell(trial, world(small(trial))[-1].losses)
    assert set(asked[:3]) == {"none", "fp16", "int8"}


def rounds_of(sampler: StageTreeSampler) -> list[int]:
    """The sampler's rounds of prediction from now on, by the number of candidates."""
    rounds: list[int] = []
    predict = sampler.tree.prospects

    def counting(candidates: Any, *others: Any) -> Any:
        rounds.append(len(candidates))
        return predict(candidates, *others)

    sampler.tree.prospects = counting  # type: ignore[method-assign]
    return rounds


def test_what_waits_for_anothers_student_is_not_forgotten() -> None:
    sampler = tree_sampler(0)
    study = study_with(sampler)
    for _ in range(300):  # from here on several suggestions come of one round
        trial = study.ask()
        study.tell(trial, world(space(trial))[-1].losses)
    rounds = rounds_of(sampler)
    running = []
    for _ in range(60):
        running.append(study.ask())
        space(running[-1])
        if len(running) == 8:
            done = running.pop(0)
            study.tell(done, world(space(done))[-1].losses)
    assert len(rounds) <= 30


def test_where_many_work_at_once_a_round_of_prediction_serves_several_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.stage_tree.sampler.SUGGESTIONS_PER_TRIAL", 1 / 8)
    sampler = tree_sampler(0)
    study = study_with(sampler)
    for _ in range(4):
        trial = study.ask()
        study.tell(trial, world(space(trial))[-1].losses)
    rounds = rounds_of(sampler)
    asked = [str(space(study.ask())) for _ in range(24)]
    assert len(set(asked)) == 24
    assert len(rounds) <= 15, "none of the 24 has ended"


def test_with_many_workers_most_first_chains_are_drawn_at_random(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.stage_tree.sampler.MANY", 8)
    sampler = StageTreeSampler(space, STAGES, Reading(), seed=0, startup_trials=0, without=WITHOUT)
    study, rounds = study_with(sampler), rounds_of(sampler)
    running = [study.ask() for _ in range(8)]
    for trial in running:
        space(trial)
    predicted = len(rounds)
    assert predicted == 8, "chosen by what is expected"
    random = [space(study.ask()) for _ in range(16)]
    assert len(rounds) == predicted
    assert len({str(params) for params in random}) == 16
    assert {len(applied(params)) for params in random} >= {2, 3}, "whole chains"
    study.tell(running[0], world(space(running[0]))[-1].losses)
    space(study.ask())
    assert len(rounds) == predicted + 1, "something is known now"


def test_of_first_chains_drawn_at_random_cheap_ones_are_begun_more_often(monkeypatch: pytest.MonkeyPatch) -> None:
    def expected(chain: Chain) -> dict[str, FloatArray]:
        dear = chain.params["distil.method"] == "logit"
        return {stage: np.array([0.0, 0.0, 0.0, 0.0, 2.0 * dear]) for stage in STAGES}

    def students(untried: int) -> int:
        monkeypatch.setattr("search.stage_tree.sampler.MANY", 0)
        monkeypatch.setattr("search.stage_tree.sampler.DRAWN_UNTRIED", untried)
        study = study_with(StageTreeSampler(space, STAGES, Reading(), seed=0, startup_trials=0, expected=expected))
        return sum(space(study.ask())["distil.method"] == "logit" for _ in range(40))

    assert 0 < students(3) < students(1)


def test_of_first_chains_drawn_at_random_those_that_promise_more_are_begun_more_often(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def students(promise: float) -> int:
        def promised(chain: Chain) -> float:
            return promise if chain.params["distil.method"] == "logit" else 1.0

        monkeypatch.setattr("search.stage_tree.sampler.MANY", 0)
        sampler = StageTreeSampler(space, STAGES, Reading(), seed=0, startup_trials=0, promise=promised)
        study = study_with(sampler)
        return sum(space(study.ask())["distil.method"] == "logit" for _ in range(40))

    assert students(0.5) < students(1.0) < students(2.0)


def test_where_many_run_suggestions_are_best_by_the_mean_of_all_beliefs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.stage_tree.sampler.SUGGESTIONS_PER_TRIAL", 1.0)
    monkeypatch.setattr("search.stage_tree.sampler.MANY", 3)
    sampler = tree_sampler(0)
    study = study_with(sampler)
    for _ in range(6):
        trial = study.ask()
        study.tell(trial, world(space(trial))[-1].losses)
    seen: list[tuple[list[Chain], FloatArray]] = []
    predict = sampler.tree.prospects

    def watched(candidates: Sequence[Chain], *others: Any) -> Any:
        prospects = predict(candidates, *others)
        seen.append((list(candidates), prospects.per_second.mean(axis=0)))
        return prospects

    sampler.tree.prospects = watched  # type: ignore[method-assign]
    running = [study.ask() for _ in range(5)]
    for trial in running:
        space(trial)
    sampler._queue.clear()
    space(study.ask())
    candidates, mean = seen[-1]
    order = [candidates[index].prefixes[-1] for index in np.argsort(-mean, kind="stable")]
    queued = [chain.prefixes[-1] for chain in sampler._queue if chain.prefixes[-1] in order]
    assert len(queued) >= 4
    best_first = iter(order)
    assert all(chain in best_first for chain in queued), "in the order of the mean"


def test_two_workers_never_build_the_same_student() -> None:
    study = study_with(tree_sampler(0))
    running: list[tuple[optuna.Trial, dict[str, Any]]] = []
    built: set[str] = set()
    for number in range(40):
        trial = study.ask()
        params = space(trial)
        student = str({name: value for name, value in params.items() if name.startswith("distil.")})
        being_built = {
            str({name: value for name, value in other.items() if name.startswith("distil.")}) for _, other in running
        } - built
        assert params["distil.method"] == "none" or student not in being_built
        running.append((trial, params))
        if number % 3 == 2:
            done, settings = running.pop(0)
            built.add(str({name: value for name, value in settings.items() if name.startswith("distil.")}))
            study.tell(done, world(settings)[-1].losses)


def test_settings_that_fail_are_left_alone() -> None:
    asked, _ = search(tree_sampler(0), 80, broken=lambda params: params["quantize.method"] == "int4")
    late = [params["quantize.method"] == "int4" for params in asked[40:]]
    assert sum(late) <= 4


def test_a_setting_that_makes_models_unsafe_is_left_alone() -> None:
    class Unsafe(Reading):
        def of(self, trial: FrozenTrial, root: StageOutcome | None) -> Sequence[StageOutcome]:
            outcomes = list(super().of(trial, root))
            if "int4" in trial.params.values():
                outcomes[-1] = replace(outcomes[-1], excess=0.1)
            return outcomes

    asked, _ = search(StageTreeSampler(space, STAGES, Unsafe(), seed=1), 80)
    assert sum(params["quantize.method"] == "int4" for params in asked[40:]) <= 4


def test_an_enqueued_trial_keeps_its_settings_and_a_resumed_sampler_knows_what_was_run() -> None:
    study = study_with(tree_sampler(0))
    point = {"distil.method": "logit", "distil.layers": 2, "prune.method": "none", "quantize.method": "int4"}
    study.enqueue_trial(point)
    trial = study.ask()
    params = space(trial)
    assert point.items() <= params.items()
    study.tell(trial, world(params)[-1].losses)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        resumed = optuna.create_study(
            directions=["minimize"] * 3,
            storage=study._storage,
            sampler=tree_sampler(7),
            study_name=study.study_name,
            load_if_exists=True,
        )
    for _ in range(30):
        trial = resumed.ask()
        assert space(trial) != params
        resumed.tell(trial, world(space(trial))[-1].losses)


def test_a_resumed_sampler_knows_the_past_when_an_unfinished_trial_ends_first() -> None:
    study = study_with(tree_sampler(0))
    for _ in range(40):
        trial = study.ask()
        study.tell(trial, world(space(trial))[-1].losses)
    unfinished = study.ask()
    settings = space(unfinished)
    sampler = tree_sampler(1)
    resumed = optuna.load_study(study_name=study.study_name, storage=study._storage, sampler=sampler)
    resumed.tell(unfinished, world(settings)[-1].losses)
    done = [{plain(name): value for name, value in one.params.items()} for one in resumed.get_trials()]
    for _ in range(20):
        trial = resumed.ask()
        assert space(trial) not in done
        resumed.tell(trial, world(space(trial))[-1].losses)
    assert sampler._ended == 61, "each once"


@pytest.mark.parametrize("same", [True, False], ids=["sampler", "resumed"])
def test_a_trial_that_is_run_again_is_planned_as_what_it_is(same: bool) -> None:
    sampler = tree_sampler(0)
    study = study_with(sampler)
    for _ in range(5):
        trial = study.ask()
        study.tell(trial, world(space(trial))[-1].losses)
    unfinished = study.ask()
    settings = space(unfinished)
    if not same:
        sampler = tree_sampler(7)
        study = optuna.load_study(study_name=study.study_name, storage=study._storage, sampler=sampler)
    again = optuna.trial.Trial(study, unfinished._trial_id)
    assert dict(sampler._planned[again.number].params) == again.params
    assert space(again) == settings
    student = sampler._planned[again.number].prefixes[0]
    assert sampler.tree._building[student] == 1
    study.tell(again, world(settings)[-1].losses)
    assert not +sampler.tree._building, "nobody is at work"
    assert sampler.tree._nodes[student][1] == pytest.approx(world(settings)[0].losses[1])


def test_trials_at_once_are_of_different_chains_even_if_they_wait_for_one_student() -> None:
    def below_one(trial: Any) -> dict[str, Any]:
        params = {"distil.method": trial.suggest_categorical("distil.method", ["logit"])}
        for name, count in (("prune.method", 3), ("quantize.method", 4)):
            params[name] = trial.suggest_categorical(name, ["none", *(f"m{index}" for index in range(1, count))])
        return params

    study = study_with(StageTreeSampler(below_one, STAGES, Reading(), seed=0))
    asked = [str(below_one(study.ask())) for _ in range(12)]
    assert len(set(asked)) == 12


@pytest.mark.parametrize("seed", range(5))
def test_every_suggestion_is_of_the_space(seed: int) -> None:
    for params in search(tree_sampler(seed), 30)[0]:
        assert params["quantize.method"] != "int4" or params["prune.method"] == "none"
