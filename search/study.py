"""A whole study: prepare, let Ray Tune run Optuna's trials, measure the front again, write the results."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import ray
from optuna.trial import TrialState
from ray import tune
from rich.console import Console

from evaluation.front import front_rows
from evaluation.records import read_records, write_records
from evaluation.report import write_report
from pipeline.cache import Store
from pipeline.data import Data
from search.config import StudyConfig
from search.finish import measure_again, test_figures
from search.progress import Progress
from search.sampler import make_sampler
from search.searcher import QUIET, REFERENCES, ParetoSearcher, collected_rows, open_study
from search.trial import Row, run_trial
from search.worker import TrialFunction, prepare, run_in_tune, with_bench

STARTUP_TRIALS = 6
ENDED = (TrialState.COMPLETE, TrialState.FAIL)
SHOWN_BY_TUNE = {
    "at_stage": "stage",
    "f1_macro": "macro F1",
    "model_size_mb": "MB",
    "latency_ratio": "latency ratio",
    "tradeoff_score": "trade-off",
    "safety_verdict": "verdict",
    "critical_recall_drop": "recall drop",
}


@dataclass(frozen=True)
class Outcome:
    """What a study ended with."""

    trials: pd.DataFrame
    front: pd.DataFrame
    files: list[Path]
    finished: bool
    """False when it was interrupted; `--resume` goes on."""

    @property
    def recommended(self) -> pd.DataFrame:
        """Rows on the safe front that are safe on validation and not unsafe on test; the teacher itself is none."""
        if "test_safety_verdict" not in self.front:
            return self.front[:0]
        chosen = self.front["on_safe_front"] & (self.front["stage"] != "baseline")
        return self.front[chosen & (self.front["test_safety_verdict"] != "unsafe")]


@dataclass(frozen=True)
class StudyRun:
    """A study inside a Ray session."""

    config: StudyConfig
    """Resolved; its folder exists."""
    data: Data
    cpus: int
    """Processors of the session."""
    console: Console
    trial: TrialFunction = run_trial
    """What a worker runs for each trial."""

    def run(self) -> Outcome:
        """Run to the end, taking up what an earlier run of the same study left."""
        store = Store(self.config.store_root)
        data_key = store.add("data", self.data.fingerprint, self._save_data).key
        study = open_study(self.config, make_sampler(self.config.search.sampler, self.config.seed, STARTUP_TRIALS))
        self._train_references(study, data_key)
        searcher = ParetoSearcher(study, self.config)
        if searcher.remaining:
            self._run_trials(searcher, data_key)
        finished = len(study.get_trials(False, ENDED)) >= self.config.search.trials
        rows = collected_rows(study)
        front = front_of(rows)
        self._say(f"{len(study.get_trials(False, ENDED))} trials ended: {_counts(rows)}")
        if finished:
            self.console.print("front: measured again in one quiet session, then once on the test split")
            front = self._measure_front_again(study, front, data_key)
            front = self._add_test_figures(front, data_key)
            references = self._add_test_figures(collected_rows(study)[:2], data_key)
            teacher, floor = (row["test_f1_macro"] for row in references)
            self._say(f"macro F1 on test: teacher {teacher:.4f}, classical floor {floor:.4f}")
            write_records(references, self.config.folder / "references.parquet", metadata=self._metadata())
        return self._write(study, front, finished)

    def _save_data(self, folder: Path) -> dict[str, Any]:
        self.data.save(folder)
        return self.data.report

    def _train_references(self, study: optuna.Study, data_key: str) -> None:
        """Teacher and classical floor, once; says so when the teacher does not beat the floor."""
        if REFERENCES not in study.user_attrs:
            self.console.print("teacher and classical floor: trained and measured once, for all trials")
            with self.console.status("teacher and classical floor"):
                resources = self.config.resources
                task = ray.remote(prepare).options(num_cpus=self.cpus, num_gpus=resources.gpus_per_trial)
                rows, notes = ray.get(task.remote(self.config, data_key, self.cpus))
            model = Path(self.config.teacher.model).name
            if notes["folds"]:
                pd.DataFrame(notes["folds"]).assign(model=model).to_parquet(
                    self.config.folder / "folds.parquet", index=False
                )
            study.set_user_attr(REFERENCES, rows)
            if self.config.teacher.ensemble:
                self._say(f"macro F1 on validation of the ensemble that teaches: {notes['teaching_f1_macro']:.4f}")
        teacher, floor = (row["f1_macro"] for row in study.user_attrs[REFERENCES])
        self._say(f"macro F1 on validation: teacher {teacher:.4f}, classical floor {floor:.4f}")
        if teacher <= floor:
            self.console.print(
                "[yellow]warning:[/] the teacher does not beat the classical floor: compressing it has little point. "
                "Train it longer (teacher.epochs), or take a better one (teacher.model)"
            )

    def _run_trials(self, searcher: ParetoSearcher, data_key: str) -> None:
        resources = self.config.resources
        trainable = tune.with_resources(
            tune.with_parameters(run_in_tune, config=self.config, data_key=data_key, trial=self.trial),
            {"cpu": resources.cpus_per_trial, "gpu": resources.gpus_per_trial},
        )
        progress = Progress(searcher, self.config.search.trials, self.console)
        tuner = tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                num_samples=searcher.remaining,
                max_concurrent_trials=resources.max_concurrent,
                reuse_actors=True,
                trial_name_creator=lambda trial: f"trial_{trial.config.get('number', trial.trial_id)}",
                trial_dirname_creator=lambda trial: str(trial.trial_id),
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=str(self.config.folder.resolve()),
                callbacks=[progress],
                progress_reporter=TableAtTheEnd(
                    metric_columns=SHOWN_BY_TUNE, parameter_columns={"number": "trial"}, max_progress_rows=50
                ),
                verbose=1,
            ),
        )
        with progress.shown():
            tuner.fit()

    def _measure_front_again(self, study: optuna.Study, front: list[Row], data_key: str) -> list[Row]:
        """Measure what is on the front and was not measured in quiet yet, until no row on it is new."""
        quiet: dict[str, Row] = dict(study.user_attrs.get(QUIET, {}))
        while new := [row for row in front if row["model_key"] not in quiet]:
            quiet |= self._on_worker(measure_again, data_key, new)
            study.set_user_attr(QUIET, quiet)
            front = front_of(collected_rows(study))
        return front

    def _add_test_figures(self, rows: list[Row], data_key: str) -> list[Row]:
        figures = self._on_worker(test_figures, data_key, rows)
        return [{**row, **figures[row["model_key"]]} for row in rows]

    def _say(self, line: str) -> None:
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def _on_worker(self, function: Callable[..., Any], data_key: str, rows: list[Row]) -> Any:
        return ray.get(ray.remote(with_bench).remote(function, self.config, data_key, rows))

    def _write(self, study: optuna.Study, front: list[Row], finished: bool) -> Outcome:
        """Write the Parquet files, and every table and figure from them."""
        folder, metadata = self.config.folder, self._metadata()
        write_records(collected_rows(study), folder / "trials.parquet", metadata=metadata)
        write_records(front, folder / "front.parquet", metadata=metadata)
        files = [folder / "trials.parquet", folder / "front.parquet", *write_report(folder)]
        return Outcome(read_records(files[0]), read_records(files[1]), files, finished)

    def _metadata(self) -> dict[str, str]:
        """What the report needs to know beside the rows."""
        return {
            "study": self.config.study,
            "preset": self.config.preset,
            "critical_label": self.config.critical_label,
            "label_columns": json.dumps(self.config.data.label_columns, ensure_ascii=False),
            "synthetic": json.dumps(bool(self.data.report["synthetic"])),
        }


class TableAtTheEnd(tune.CLIReporter):
    """Tune's own table of trials, printed once."""

    def should_report(self, trials: list[Any], done: bool = False) -> bool:
        """Only when all is done: before that the live table shows the state."""
        return done


def _counts(rows: list[Row]) -> str:
    """In words: different models, trials that brought new ones, failures."""
    models = [row for row in rows if row["status"] != "failed"]
    new = {row["trial"] for row in models} - {None}
    return f"{len(models)} different models measured, {len(new)} trials with new ones, {len(rows) - len(models)} failed"


def front_of(rows: list[Row]) -> list[Row]:
    """The rows on either front, with `on_front` and `on_safe_front`, smallest model first."""
    marked = front_rows(pd.DataFrame(rows))
    flags = zip(marked.index, marked["on_front"], marked["on_safe_front"], strict=True)
    return [{**rows[index], "on_front": bool(on), "on_safe_front": bool(safe)} for index, on, safe in flags]
