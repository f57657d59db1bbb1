"""Virtual time against sums by hand, and against what must hold of any schedule."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import optuna
import pytest
from optuna.samplers import BaseSampler, RandomSampler

from search.config import STAGES, StudyConfig
from search.optuna_study import ENDED
from search.outcome_tables import SyntheticTable
from search.sampler import study_sampler
from search.searcher import ParetoSearcher
from search.simulate import DIED, Cluster, History, Simulation
from search.study_file import study_from
from search.study_keys import REFERENCES, ROWS
from search.trial import ROW_STAGES, Row

SECONDS = {"distil": 100.0, "prune": 10.0, "quantize": 1.0}
SPACE = {
    "distil": {"method": "logit", "layers": {"choices": [1, 2]}},
    "prune": {"method": {"choices": ["none", "structured"]}},
    "quantize": {"method": {"choices": ["none", "fp16", "int8_dynamic"]}},
}
POINTS = [
    {"distil.layers": 1, "prune.method": "none", "quantize.method": "none"},
    {"distil.layers": 1, "prune.method": "none", "quantize.method": "fp16"},
    {"distil.layers": 1, "prune.method": "structured", "quantize.method": "fp16"},
    {"distil.layers": 2, "prune.method": "none", "quantize.method": "none"},
]


class ByHand:
    """Every stage takes its `SECONDS`; nothing is lost."""

    def teacher(self) -> Row:
        return self._row("baseline", "teacher", 0.0)

    def row(self, stage: str, params: Mapping[str, Any]) -> Row | None:
        if params[f"{stage}.method"] == "none":
            return None
        upto = list(STAGES)[: list(STAGES).index(stage) + 1]
        key = str(sorted(item for item in params.items() if item[0].split(".")[0] in upto))
        return self._row(ROW_STAGES[stage], key, SECONDS[stage])

    def _row(self, stage: str, key: str, seconds: float) -> Row:
        drops = dict.fromkeys(("f1_drop", "critical_f1_drop", "critical_recall_drop"), 0.0)
        figures = {"f1_macro": 0.8, "model_size_mb": 5.0, "speedup_factor": 2.0, "safety_verdict": "safe"}
        return {"stage": stage, "status": "ok", "model_key": key, "stage_seconds": seconds, **figures, **drops}


def config(
    trials: int, sampler: str = "random", points: list[dict[str, Any]] | None = None, seed: int = 0
) -> StudyConfig:
    search = {"trials": trials, "sampler": sampler, "points": points or []}
    teacher = {"model": "scratch", "scratch_layers": 12, "scratch_width": 384, "scratch_heads": 12}
    labels = {"label_columns": ["threat", "bully"]}
    return study_from({"study": "s", "seed": seed, "data": labels, "teacher": teacher, "search": search, **SPACE})


def simulated(
    made: StudyConfig, table: Any, cluster: Cluster, sampler: BaseSampler | None = None, **limits: Any
) -> tuple[History, optuna.Study]:
    directions = ["maximize", "minimize", "minimize"]
    study = optuna.create_study(directions=directions, sampler=sampler or study_sampler(made))
    study.set_user_attr(REFERENCES, [table.teacher()])
    for point in made.search.points:
        study.enqueue_trial(dict(point))
    searcher = ParetoSearcher(study, made)
    return Simulation(searcher, made, table, cluster).run(**limits), study


def test_one_worker_pays_for_each_model_once() -> None:
    history, _ = simulated(config(4, points=POINTS), ByHand(), Cluster(measure_seconds=3.0))
    times = [time for time, _ in history.models]
    assert times == [103.0, 107.0, 120.0, 124.0, 227.0]  # distil; fp16; prune, fp16 of it; the other student
    assert history.busy_seconds == 227.0 and history.trials == 4 and history.utilisation(1) == 1.0


def test_a_trial_costs_its_own_time_even_if_all_its_models_are_there() -> None:
    again = [*POINTS[:2], *POINTS[:2]]
    history, _ = simulated(config(4, points=again), ByHand(), Cluster(measure_seconds=3.0, trial_seconds=0.5))
    assert [time for time, _ in history.models] == [103.5, 108.0]
    assert history.busy_seconds == 103.0 + 4.0 + 4 * 0.5 and history.utilisation(1) == 1.0


class OneShapeAStage(ByHand):
    """All models of a stage are equally fast."""

    def row(self, stage: str, params: Any) -> Any:
        row = super().row(stage, params)
        return row and row | {"timed_model": row["stage"]}


def test_workers_wait_for_the_one_driver_and_that_is_no_work() -> None:
    history, _ = simulated(
        config(2, points=[POINTS[0], POINTS[3]]), ByHand(), Cluster(workers=2, measure_seconds=3.0, driver_seconds=50.0)
    )
    assert [time for time, _ in history.models] == [153.0, 203.0]  # handed out after 50 and 100 s
    assert history.busy_seconds == 206.0 and history.utilisation(2) == 50.0 / 200.0


class Slow(RandomSampler):
    """Takes a fifth of a second of a core for each trial."""

    def before_trial(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        began = time.process_time()
        while time.process_time() < began + 0.2:
            pass


def test_workers_wait_for_a_sampler_as_long_as_it_takes() -> None:
    made = config(2, points=[POINTS[0], POINTS[3]])
    cluster = Cluster(workers=2, measure_seconds=3.0, driver_seconds=50.0, suggestion_factor=100.0)
    history, _ = simulated(made, ByHand(), cluster, Slow(seed=0))
    first, second = (time for time, _ in history.models)
    assert 50 + 20 + 103 <= first < 200 and second >= 2 * (50 + 20) + 103, "one suggestion after the other"
    assert history.busy_seconds == pytest.approx(206.0)
    free, _ = simulated(made, ByHand(), Cluster(workers=2, measure_seconds=3.0), Slow(seed=0))
    assert [time for time, _ in free.models] == [103.0, 103.0]


def test_of_models_of_one_shape_the_first_is_timed_and_without_reuse_each() -> None:
    def seconds(reuse: bool) -> float:
        cluster = Cluster(measure_seconds=1.0, timing_seconds=5.0, reuse=reuse)
        return simulated(config(4, points=POINTS), OneShapeAStage(), cluster)[0].busy_seconds

    assert seconds(reuse=True) == (100 + 1 + 10 + 1 + 100) + 5 * 1.0 + 3 * 5.0
    assert seconds(reuse=False) == 100 + 101 + 111 + 100 + 7 * (1.0 + 5.0)


BELOW_THE_SECOND = POINTS[3] | {"quantize.method": "fp16"}


@pytest.mark.parametrize(("sampler", "goes_on"), [("random", 106.0), ("stage_tree", 101.0)])
def test_a_model_is_measured_when_another_of_its_shape_is_timed(sampler: str, goes_on: float) -> None:
    """Its worker waits for that, unless the sampler can do without."""
    cluster = Cluster(workers=2, measure_seconds=1.0, timing_seconds=5.0)
    points = [POINTS[0], POINTS[3], BELOW_THE_SECOND]
    history, study = simulated(config(3, sampler, points), OneShapeAStage(), cluster)
    assert [time for time, _ in history.models] == [106.0, 106.0, goes_on + 7.0]
    assert history.last_start == goes_on and history.busy_seconds == 106.0 + 101.0 + 2.0 + 5.0
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 3
    assert [row["speedup_factor"] for row in study.trials[1].user_attrs[ROWS]] == [2.0]


@pytest.mark.parametrize(("sampler", "trials"), [("random", 2), ("stage_tree", 3)])
def test_a_shape_is_timed_anew_when_the_worker_that_timed_it_dies(sampler: str, trials: int) -> None:
    """By the one that waits; else the trial that lacks its speed is run again, finds its model, and times it."""
    cluster = Cluster(workers=2, measure_seconds=1.0, timing_seconds=60.0, deaths_per_hour=20.0, seed=68)
    history, study = simulated(config(2, sampler, [POINTS[0], POINTS[3]]), OneShapeAStage(), cluster)
    assert [trial.state.name for trial in study.trials] == ["FAIL", "COMPLETE"]
    assert [row["speedup_factor"] for row in study.trials[1].user_attrs[ROWS]] == [2.0]
    assert history.trials == trials
    assert len(history.models) == 2, "that of the worker that died is timed with it"


def test_a_search_that_has_enough_ends() -> None:
    enough = {"enough": lambda history: len(history.models) == 3}
    history, _ = simulated(config(4, points=POINTS), ByHand(), Cluster(measure_seconds=3.0), **enough)
    assert [time for time, _ in history.models] == [103.0, 107.0, 120.0]


def test_without_reuse_each_trial_pays_for_its_whole_chain() -> None:
    history, _ = simulated(config(4, points=POINTS), ByHand(), Cluster(measure_seconds=0.0, reuse=False))
    assert history.busy_seconds == 100 + 101 + 111 + 100


def test_a_stage_that_another_worker_is_at_is_waited_for_not_run_again() -> None:
    history, _ = simulated(config(3, points=POINTS[:3]), ByHand(), Cluster(workers=3, measure_seconds=0.0))
    assert [time for time, _ in history.models] == [100.0, 101.0, 110.0, 111.0]
    assert history.busy_seconds == 112.0


def test_a_worker_that_dies_fails_its_trial_and_what_it_was_at_is_run_anew() -> None:
    cluster = Cluster(workers=2, measure_seconds=0.0, deaths_per_hour=30.0, seed=1)
    history, study = simulated(config(40), ByHand(), cluster)
    failed = [trial for trial in study.trials if trial.state == optuna.trial.TrialState.FAIL]
    assert history.failed == len(failed) > 0
    assert all(DIED in trial.user_attrs["error"] for trial in failed)
    keys = [row["model_key"] for _, row in history.models]
    assert len(keys) == len(set(keys)) and all(trial.state in ENDED for trial in study.trials)


def test_stragglers_take_longer_and_change_nothing_else() -> None:
    plain, _ = simulated(config(20), ByHand(), Cluster())
    slow, _ = simulated(config(20), ByHand(), Cluster(straggler_share=0.5, straggler_factor=4.0))
    assert plain.busy_seconds < slow.busy_seconds < 4.0 * plain.busy_seconds
    assert {row["model_key"] for _, row in plain.models} == {row["model_key"] for _, row in slow.models}


@pytest.mark.parametrize("sampler", ["stage_tree", "tpe"])
@pytest.mark.parametrize("workers", [1, 16])
def test_any_schedule_is_possible_and_equal_seeds_give_equal_ones(sampler: str, workers: int) -> None:
    made = config(60, sampler, seed=3)
    runs = []
    for _ in range(2):
        history, study = simulated(made, SyntheticTable(made, 0), Cluster(workers=workers))
        runs.append([(time, row["model_key"]) for time, row in history.models])
        assert len(study.trials) == 60 and all(trial.state in ENDED for trial in study.trials)
        assert all(trial.user_attrs[ROWS] for trial in study.trials)
        assert history.busy_seconds <= workers * max(time for time, _ in history.models) + 1e-6
    assert runs[0] == runs[1]


def test_no_trial_starts_after_its_time() -> None:
    history, _ = simulated(config(10_000), ByHand(), Cluster(reuse=False), seconds=1000.0)
    assert history.last_start < 1000.0 <= max(start + length for start, length in history.work)
