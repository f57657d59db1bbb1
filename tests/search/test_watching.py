"""A small search on a real Ray with trials of no work: what stands in its metrics and logs when it is over."""

from __future__ import annotations

import io
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import pytest
from rich.console import Console

from cluster.metrics import StudyMetrics
from cluster.session import ROOT, session
from pipeline.cache import Store
from search.config import StudyConfig
from search.optuna_study import opened
from search.sampler import study_sampler
from search.searcher import ParetoSearcher
from search.start import checked, claim_folder, with_absolute_paths
from search.study import StudyRun
from search.study_keys import REFERENCES, ROWS
from search.trial_logs import TrialLogs
from search.trial_names import trial_name
from search.watching import TELL_SECONDS, Watching

pytestmark = pytest.mark.e2e

SMOKE = ROOT / "search" / "studies" / "smoke.yaml"
TRIALS = 5
FAILS = 3
"""Number of the trial that raises."""


def model(key: str, stage: str = "baseline", **changes: Any) -> dict[str, Any]:
    drops = dict.fromkeys(("f1_drop", "critical_f1_drop", "critical_recall_drop"), 0.0)
    row = {"study": "smoke", "stage": stage, "model_key": key, "status": "ok", "safety_verdict": "safe", "error": None}
    return row | {"f1_macro": 0.8, "model_size_mb": 4.0, "speedup_factor": 1.0} | drops | changes


def small_trial() -> Callable[..., list[dict[str, Any]]]:
    """A chain of three models without work, or an error in pruning; local, so that it is pickled by value."""
    fails = FAILS

    def trial(bench: Any, params: Any, report: Any) -> list[dict[str, Any]]:
        import re

        from ray import tune

        number = int(re.match(r"trial_(\d+)_", tune.get_context().get_trial_name())[1])  # type: ignore[index]
        rows = []
        report("teacher", None)
        for stage, row_stage in (
            ("distil", "after_kd"),
            ("prune", "after_pruning"),
            ("quantize", "after_quantization"),
        ):
            report(stage, None)
            if number == fails and stage == "prune":
                raise ValueError("torn \x1b[2J weights")
            safe = "safe" if stage == "prune" else "inconclusive"
            rows.append(
                {"study": "smoke", "stage": row_stage, "model_key": f"{stage}{number}", "status": "ok", "error": None}
                | {"f1_macro": 0.77 + 0.01 * number, "model_size_mb": 2.0 - 0.1 * number, "speedup_factor": 2.0}
                | {"f1_drop": 0.0, "critical_f1_drop": 0.0, "critical_recall_drop": 0.0, "safety_verdict": safe}
                | {"cache_hit": stage == "distil" and number > 0, "stage_seconds": 5.0 * number + 1.0}
            )
            report(row_stage, rows[-1])
        return rows

    return trial


Samples = dict[tuple[str, str], float]


@dataclass(frozen=True)
class Watched:
    """A search that is over, in a Ray session that is not."""

    config: StudyConfig
    rows: list[dict[str, Any]]
    hypervolume: float
    samples: Callable[..., Samples]

    def log(self, number: int) -> str:
        return (self.config.folder / "logs" / f"trial_{number:04d}.log").read_text("utf-8")


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("watched")
    settings = [f"results_dir={folder}", f"search.trials={TRIALS}", "tracking.uri=none", "study=watched"]
    config, data = checked(SMOKE, [*settings, "search.sampler=random", "resources.max_concurrent=2"], resume=False)
    config = with_absolute_paths(config)
    claim_folder(config, resume=False)
    console = Console(file=io.StringIO(), width=200)
    with ray_session() as url, opened(config, study_sampler(config)) as study:
        study.set_user_attr(REFERENCES, [model("teacher"), model("floor", "classical", f1_macro=0.5)])
        run = StudyRun(config, data, 2, console, trial=small_trial())
        assert run.search(study, data.add_to(Store(config.store_root)).key, lambda ended: None) is None
        rows = [row for trial in study.get_trials() for row in trial.user_attrs[ROWS] if row.get("model_key")]
        volume = ParetoSearcher(study, config).tally.hypervolume
        yield Watched(config, rows, volume, lambda study="watched": exported(url, study))


@contextmanager
def ray_session() -> Iterator[str]:
    """A local Ray whose processes report their metrics each second instead of each tenth; the agent's address."""
    import ray

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_metrics_report_interval_ms", "1000")
        with session("local"):
            node = ray.nodes()[0]
            yield f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"


def exported(url: str, study: str) -> Samples:
    """Samples of a study, by name without prefix, and state or stage."""
    from prometheus_client.parser import text_string_to_metric_families

    with urllib.request.urlopen(url, timeout=10) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    ours = [one for family in families for one in family.samples if one.labels.get("study") == study]
    plain = [one for one in ours if "le" not in one.labels]
    return {
        (one.name.removeprefix("ray_pareto_"), one.labels.get("state") or one.labels.get("stage", "")): one.value
        for one in plain
    }


def wait_for(scrape: Callable[[], Samples], expected: Samples) -> Samples:
    """What was exported last of each sample, once it is as expected: gauges that nobody sets any more vanish."""
    deadline = time.monotonic() + 30
    samples: Samples = {}
    while not expected.items() <= samples.items():
        assert time.monotonic() < deadline, {key: (value, samples.get(key)) for key, value in expected.items()}
        samples |= scrape()
        time.sleep(0.3)
    return samples


def test_the_metrics_say_what_the_study_holds(watched: Watched) -> None:
    """Counted from the Optuna study's rows; three models of each trial, and those of the one that raised before it."""
    stages = {"after_kd": "distil", "after_pruning": "prune", "after_quantization": "quantize"}
    built = Counter(stages[row["stage"]] for row in watched.rows if not row["cache_hit"])
    found = Counter(stages[row["stage"]] for row in watched.rows if row["cache_hit"])
    assert built == {"distil": 1, "prune": TRIALS - 1, "quantize": TRIALS - 1} and found == {"distil": TRIALS - 1}
    models = {row["model_key"]: row["safety_verdict"] for row in watched.rows} | {"teacher": "safe", "floor": "safe"}
    states = {"waiting": 0, "running": 0, "complete": TRIALS - 1, "failed": 1}
    expected = {("trials", state): count for state, count in states.items()}
    expected |= {("stages_built_total", stage): count for stage, count in built.items()}
    expected |= {("stage_seconds_count", stage): count for stage, count in built.items()}
    expected |= {("cache_hits_total", stage): count for stage, count in found.items()}
    expected |= {("models", ""): len(models)}
    samples = wait_for(watched.samples, expected)
    safe = sum(verdict == "safe" for verdict in models.values())
    assert samples["safe_models_ratio", ""] == pytest.approx(safe / len(models))
    assert watched.hypervolume > 0.0
    assert samples["hypervolume", ""] == pytest.approx(watched.hypervolume)


def test_each_trial_has_its_log(watched: Watched) -> None:
    files = sorted(file.name for file in (watched.config.folder / "logs").iterdir())
    assert files == [f"trial_{number:04d}.log" for number in range(TRIALS)]
    complete = [number for number in range(TRIALS) if number != FAILS]
    for text in map(watched.log, complete):
        told = [line.split("  ", 1)[1] for line in text.splitlines()]
        assert told[0].startswith("attempt 1 begins: trial_000") and told[-1] == "trial ended: complete"
        begins = [line.removesuffix(" begins") for line in told if line.endswith(" begins")]
        assert begins == ["teacher", "distil", "prune", "quantize"]
        measured = [index for index, line in enumerate(told) if "  F1 0." in line]
        assert [told[index - 1].split(" ends after ")[0] for index in measured] == begins[1:]
        assert sum(line.startswith("runs on ") for line in told) == 1
    assert "after_kd distil0: logit" in watched.log(0) or "after_kd distil0: teacher" in watched.log(0)
    assert "found in the store (built in 6.0 s once)" in watched.log(1) and "; built in 6.0 s" in watched.log(1)


def test_the_log_of_a_trial_that_raised(watched: Watched) -> None:
    text = watched.log(FAILS)
    error = next(line for line in text.splitlines() if "  error in prune after " in line)
    assert error.endswith(" s: ValueError: torn \\x1b[2J weights") and text.count("Traceback (most recent call") == 1
    assert text.splitlines()[-1].endswith("trial ended: failed: ValueError: torn \\x1b[2J weights")


def test_a_worker_that_dies_and_the_attempt_after_it(watched: Watched, tmp_path: Path) -> None:
    """Tune itself runs the trial again; the first attempt's process is killed while it prunes."""
    from ray import tune

    config = watched.config.model_copy(update={"study": "again", "results_dir": str(tmp_path)})
    config = config.model_copy(update={"search": config.search.model_copy(update={"trials": 1})})
    config.folder.mkdir()
    marker = str(tmp_path / "was here")

    def trainable(suggested: dict[str, Any]) -> None:
        import os
        import signal
        import time

        tune.report({"at_stage": "teacher"})
        row = {"stage": "after_kd", "model_key": "d", "cache_hit": False, "stage_seconds": 1.0, "status": "ok"}
        tune.report({"at_stage": "after_kd", "rows_so_far": [row]})
        tune.report({"at_stage": "prune", "rows_so_far": [row]})
        if not os.path.exists(marker):
            open(marker, "w").close()
            time.sleep(1.0)  # until the driver has the report
            os.kill(os.getpid(), signal.SIGKILL)
        row |= {"f1_macro": 0.7, "model_size_mb": 1.0, "speedup_factor": 2.0}
        row |= dict.fromkeys(("f1_drop", "critical_f1_drop", "critical_recall_drop"), 0.0)
        tune.report({"at_stage": "done", "rows": [row]})

    with opened(config, optuna.samplers.RandomSampler(seed=0)) as study:
        searcher = ParetoSearcher(study, config)
        metrics = StudyMetrics("again")
        watching = Watching(searcher, metrics, TrialLogs(tmp_path / "logs", pytest.fail))
        names = tune.TuneConfig(
            search_alg=searcher,
            num_samples=1,
            trial_name_creator=lambda trial: trial_name(trial.config["number"], trial.config["params"]),
        )
        retried = tune.FailureConfig(max_failures=1)
        run = tune.RunConfig(
            "tune", str(config.folder.resolve()), failure_config=retried, callbacks=[watching], verbose=0
        )
        tune.Tuner(trainable, tune_config=names, run_config=run).fit()
        assert [trial.state.name for trial in study.get_trials()] == ["COMPLETE"]
        expected = {("trials", "complete"): 1.0, ("trials", "failed"): 0.0, ("stages_built_total", "distil"): 2.0}
        wait_for(lambda: watched.samples("again"), expected)
        metrics.trials({"complete": 99})
        time.sleep(TELL_SECONDS)
        watching.on_step_end(0, [])  # Tune's loop goes on, and no trial begins or ends
        wait_for(lambda: watched.samples("again"), {("trials", "complete"): 1.0})
        assert watched.samples("again")["trials", "complete"] == 1.0
    told = [line.split("  ", 1)[1] for line in (tmp_path / "logs" / "trial_0000.log").read_text().splitlines()]
    begins = [line for line in told if line.startswith("attempt") and "begins" in line]
    assert [line.split(":")[0] for line in begins] == ["attempt 1 begins", "attempt 2 begins"]
    assert sum(line.startswith("attempt failed in prune after ") for line in told) == 1
    broke = next(index for index, line in enumerate(told) if line.startswith("attempt failed"))
    assert any("died" in line for line in told[broke : told.index(begins[1])]), "Ray says how the worker ended"
    places = [line for line in told if line.startswith("runs on ")]
    assert len(set(places)) == 2, "the second attempt has another process"
    assert sum(line.startswith("after_kd d: ") for line in told) == 2, "each attempt has its models"
    assert told[-1] == "trial ended: complete"
