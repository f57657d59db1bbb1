"""After the last trial: the front measured again, once on the test split, and everything written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
from optuna.trial import FixedTrial
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from evaluation.records import read_records, write_records
from evaluation.report import write_report
from pipeline.choice import recommended
from search.config import StudyConfig
from search.faults import run_task
from search.finish import flips_of, front_within_noise, measure_again, test_figures
from search.optuna_study import ENDED, collected_rows
from search.snapshots import RecordFiles, front_of
from search.space import Space
from search.study_keys import QUIET, TEACHER_THREADS
from search.trial import PARAMS, Row
from search.worker import with_bench


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
        return recommended(self.front)


@dataclass
class Ending:
    """The end of a study, inside its Ray session."""

    config: StudyConfig
    files: RecordFiles
    data_key: str
    say: Callable[[str], None]
    rows_with_test: list[Row] = field(default_factory=list)
    """Front, teacher and floor with their figures on test; empty for a study that was interrupted."""
    _node: str | None = None
    """Where the first task of the end ran: its worker is up, another one would cost seconds of imports."""

    def run(self, study: optuna.Study, spent: str | None) -> Outcome:
        """Measure the front again, test it once, and write the results; an interrupted study, or end, only writes.

        Args:
            study: with its trials.
            spent: why the search ended before it had all its trials, if it was not interrupted.
        """
        ended = len(study.get_trials(False, ENDED))
        rows = collected_rows(study)
        front = front_of(rows)
        self.say(f"{ended} trials ended: {_counts(rows)}")
        if spent:
            self.say(spent)
        elif ended < self.config.search.trials:
            return self._write(study, front, [])
        try:
            return self._finished(study, front)
        except KeyboardInterrupt:
            self.say("interrupted: what is measured so far is written")
            return self._write(study, front_of(collected_rows(study)), [])

    def _finished(self, study: optuna.Study, front: list[Row]) -> Outcome:
        self.say("front: measured again in one quiet session, then once on the test split")
        front = self._with_test_figures(study, self._measured_again(study, front))
        references = self._with_test_figures(study, collected_rows(study)[:2])
        self.rows_with_test = [*front, *references]
        teacher, floor = (row["test_f1_macro"] for row in references)
        self.say(f"macro F1 on test: teacher {teacher:.4f}, classical floor {floor:.4f}")
        folder, metadata = self.config.folder, self.files.metadata
        write_records(references, folder / "references.parquet", metadata=metadata)
        self._on_worker(study, flips_of, front).save(folder / "flips.parquet")
        within = self._within_noise(study, collected_rows(study))
        write_records(within, folder / "front_within_noise.parquet", metadata=metadata)
        more = [folder / f"{name}.parquet" for name in ("references", "front_within_noise", "flips")]
        return self._write(study, front, more, finished=True)

    def _measured_again(self, study: optuna.Study, front: list[Row]) -> list[Row]:
        """Measure what is on the front and was not measured in quiet yet, until no row on it is new."""
        quiet: dict[str, Row] = dict(study.user_attrs.get(QUIET, {}))
        while new := [row for row in front if row["model_key"] not in quiet]:
            quiet |= self._on_worker(study, measure_again, new)
            study.set_user_attr(QUIET, quiet)
            front = front_of(collected_rows(study))
        return front

    def _with_test_figures(self, study: optuna.Study, rows: list[Row]) -> list[Row]:
        figures = self._on_worker(study, test_figures, rows)
        return [{**row, **figures[row["model_key"]]} for row in rows]

    def _within_noise(self, study: optuna.Study, rows: list[Row]) -> list[Row]:
        """The models that none of the front beats by more than the measurements can be wrong."""
        flags = self._on_worker(study, front_within_noise, rows)
        return [{**row, **flags[row["model_key"]]} for row in rows if row.get("model_key") in flags]

    def _on_worker(self, study: optuna.Study, function: Callable[..., Any], rows: list[Row]) -> Any:
        """What the function returns on a worker, told with each row its trial's settings, to rebuild what is gone."""
        trials, space = study.get_trials(deepcopy=False), Space(self.config)
        told = [
            row if row.get("trial") is None else {**row, PARAMS: space.suggest(FixedTrial(trials[row["trial"]].params))}
            for row in rows
        ]
        resources = self.config.resources  # of a trial: what has room for one has room for this
        needed: dict[str, Any] = {"num_cpus": resources.cpus_per_trial, "num_gpus": resources.gpus_per_trial}
        if self._node:
            needed["scheduling_strategy"] = NodeAffinitySchedulingStrategy(self._node, soft=True)
        arguments = (function, self.config, self.data_key, study.user_attrs.get(TEACHER_THREADS), told)
        found, self._node = run_task("the end of the study", with_bench, arguments, resources, **needed)
        return found

    def _write(self, study: optuna.Study, front: list[Row], more: list[Path], finished: bool = False) -> Outcome:
        """Write the Parquet files, and every table and figure from them."""
        ended = len(study.get_trials(False, ENDED))
        trials, best = self.files.write(collected_rows(study), front, ended)
        written = [trials, best, *more, *write_report(self.config.folder)]
        return Outcome(read_records(trials), read_records(best), written, finished)


def _counts(rows: list[Row]) -> str:
    """In words: different models, trials that brought new ones, failures."""
    models = [row for row in rows if row["status"] != "failed"]
    new = {row["trial"] for row in models} - {None}
    return f"{len(models)} different models measured, {len(new)} trials with new ones, {len(rows) - len(models)} failed"
