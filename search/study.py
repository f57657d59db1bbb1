"""A whole study: prepare, let Ray Tune run Optuna's trials, measure the front again, write the results."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import optuna
import pandas as pd
from optuna.trial import FrozenTrial
from ray import tune
from ray.exceptions import RayError
from rich.console import Console

from cluster.metrics import StudyMetrics
from pipeline.data import Data
from pipeline.errors import InputError
from pipeline.storage import open_store
from search.attempts import BeforeRetry
from search.config import StudyConfig
from search.deployable import write_models
from search.ending import Ending, Outcome
from search.faults import run_task
from search.goals import without_goal
from search.lean import LeanTrials, trainables_fetched_once
from search.optuna_study import opened
from search.placing import WaitingFirst
from search.progress import Progress
from search.results_mirror import ResultsMirror
from search.run_records import reference_curves
from search.sampler import study_sampler
from search.searcher import ParetoSearcher
from search.shared_models import share_models
from search.snapshots import RecordFiles, Snapshots
from search.study_keys import REFERENCE_CURVES, REFERENCES, TEACHER_THREADS
from search.tracked_study import TrackedStudy
from search.trial import run_trial
from search.trial_logs import FOLDER as LOGS
from search.trial_logs import TrialLogs
from search.trial_names import trial_name
from search.watching import Watching
from search.worker import TrialFunction, prepare, run_in_tune, trial_resources

TUNE_STATE_SECONDS = 86_400
"""How often Tune writes down its own state, which nothing is resumed from: the Optuna study is."""


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
        store = open_store(self.config.store_place)
        data_key = self.data.add_to(store).key
        if self.config.storage_is_remote:
            share_models(store, self.config)
        with (
            opened(self.config, study_sampler(self.config)) as study,
            ResultsMirror(self.config, self._warn) as mirror,
            TrackedStudy(study, self.config, self.console) as tracked,
        ):
            self._train_references(study, data_key)
            tracked.references()

            def on_end(trial: FrozenTrial) -> None:
                mirror.trial_ended()
                tracked.trial(trial)

            spent = self.search(study, data_key, on_end)
            ending = Ending(self.config, RecordFiles(self.config, self.data.report), data_key, self._say)
            outcome = ending.run(study, spent)
            tracked.results(ending.rows_with_test, outcome.files, outcome.finished)
            return self._with_models(outcome)

    def search(self, study: optuna.Study, data_key: str, on_end: Callable[[FrozenTrial], None]) -> str | None:
        """Run the trials that are left.

        Args:
            study: with the rows of teacher and floor.
            data_key: of the data in the store.
            on_end: told each trial as it ends.

        Returns:
            why the search ended before it had all its trials, if its budget was spent and nobody interrupted it.
        """
        searcher = ParetoSearcher(study, self.config, on_end)
        while searcher.remaining:
            before = searcher.sent_again
            try:
                self._run_trials(searcher, data_key)
                if not searcher.idle or searcher.sent_again == before:
                    break
            except RuntimeError as error:  # Tune's, which takes a worker that Ray's memory monitor ended for a bug
                if not (isinstance(error.__cause__, RayError) and searcher.take_back(str(error))):
                    raise
        searcher.close()
        return searcher.spent if searcher.idle and not searcher.remaining else None

    def _train_references(self, study: optuna.Study, data_key: str) -> None:
        """Teacher and classical floor, once; says so when the teacher does not beat the floor."""
        if REFERENCES not in study.user_attrs:
            self.console.print("teacher and classical floor: trained and measured once, for all trials")
            with self.console.status("teacher and classical floor"):
                resources = self.config.resources
                needed = {"num_cpus": self.cpus, "num_gpus": resources.gpus_per_trial}
                what = "teacher and classical floor"
                rows, notes = run_task(what, prepare, (self.config, data_key, self.cpus), resources, **needed)
            model = Path(self.config.teacher.model).name
            if notes["folds"]:
                pd.DataFrame(notes["folds"]).assign(model=model).to_parquet(
                    self.config.folder / "folds.parquet", index=False
                )
            study.set_user_attr(REFERENCE_CURVES, reference_curves(notes))
            study.set_user_attr(TEACHER_THREADS, self.cpus)
            study.set_user_attr(REFERENCES, rows)
            if self.config.teacher.ensemble or self.config.teacher.generations:
                self._say(f"macro F1 on validation of the ensemble that teaches: {notes['teaching_f1_macro']:.4f}")
        references = study.user_attrs[REFERENCES]
        if problem := without_goal(self.config, references[0]):
            raise InputError([problem])
        teacher, floor = (row["f1_macro"] for row in references)
        self._say(f"macro F1 on validation: teacher {teacher:.4f}, classical floor {floor:.4f}")
        if teacher <= floor:
            heard = Console(stderr=True, highlight=False) if self.console.quiet else self.console
            heard.print(
                "[yellow]warning:[/] the teacher does not beat the classical floor: compressing it has little point. "
                "Train it longer (teacher.epochs), or take a better one (teacher.model)"
            )

    def _run_trials(self, searcher: ParetoSearcher, data_key: str) -> None:
        resources = self.config.resources
        trainable = tune.with_resources(
            tune.with_parameters(
                run_in_tune,
                config=self.config,
                data_key=data_key,
                teacher_threads=searcher.study.user_attrs.get(TEACHER_THREADS),
                trial=self.trial,
            ),
            trial_resources(resources),
        )

        def keep_data() -> None:
            with suppress(OSError):  # the next attempt will tell
                self.data.add_to(open_store(self.config.store_place))

        progress = Progress(searcher, self.config.search.trials, self.console)
        snapshots = Snapshots(searcher, RecordFiles(self.config, self.data.report))
        watching = Watching(searcher, StudyMetrics(self.config.study), TrialLogs(self.config.folder / LOGS, self._warn))
        tuner = tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                scheduler=WaitingFirst(),  # type: ignore[no-untyped-call]
                num_samples=searcher.remaining,
                max_concurrent_trials=resources.max_concurrent,
                reuse_actors=True,
                trial_name_creator=lambda trial: trial_name(trial.config["number"], trial.config["params"]),
                trial_dirname_creator=lambda trial: str(trial.trial_id),
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=str(self.config.folder.resolve()),
                callbacks=[searcher.attempts, BeforeRetry(keep_data), progress, snapshots, watching, LeanTrials()],
                failure_config=tune.FailureConfig(max_failures=resources.retries),
                verbose=0,  # `Progress` says what there is to say
            ),
        )
        os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", str(TUNE_STATE_SECONDS))
        by_ctrl_c = signal.getsignal(signal.SIGINT)
        try:
            with progress.shown(), trainables_fetched_once():
                tuner.fit()
        finally:
            signal.signal(signal.SIGINT, by_ctrl_c)  # Tune leaves its own, which stops nothing any more
            snapshots.catch_up()

    def _with_models(self, outcome: Outcome) -> Outcome:
        """The outcome, once the folders to deploy are written; an interrupted one when they are not all."""
        if outcome.finished and self.config.write_models:
            try:
                write_models(self.config, self.console)
            except KeyboardInterrupt:
                self._say("interrupted: not all models to deploy are written")
                return replace(outcome, finished=False)
        return outcome

    def _warn(self, line: str) -> None:
        self.console.print(f"warning: {line}", highlight=False, markup=False, soft_wrap=True, style="yellow")

    def _say(self, line: str) -> None:
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)
