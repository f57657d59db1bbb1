"""Between Ray Tune and Optuna: Tune asks here for trials, and what they return is told to the Optuna study here.

Ray's own `OptunaSearch` drops constraints, which makes an unsafe trial count as feasible, and leaves a trial whose
objective is NaN RUNNING for ever. Here every trial ends COMPLETE with its constraints set before its values, or FAILED
with its error, after its last attempt: Tune tells a searcher nothing of those before. One that lacks a speed which
another trial measures (`search/timings.py`) is RUNNING until that is known.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState
from ray.tune.search import Searcher

from search.attempts import Attempts, failed_for_now
from search.budget import Budget
from search.config import StudyConfig
from search.optuna_study import ENDED
from search.space import Space
from search.study_database import at_once
from search.study_keys import CURVES, ERROR, MAY_PASS, REFERENCES, ROWS, SEARCHED_SECONDS, WAITS
from search.tally import Tally
from search.telling import finish_trial
from search.timings import Timings, Untimed
from search.trial import Curve, Row
from search.trial_reports import TrialReports

NOT_TIMED = "its speed was to be measured with that of another model, and was not; run it again (--resume)"


@dataclass(frozen=True)
class _Open:
    """A trial that runs."""

    trial: Trial
    place: int
    """Among all that were suggested."""


class ParetoSearcher(Searcher):
    """Suggests an Optuna study's trials until it has `search.trials`; unfinished ones of an earlier run come first.

    Those that failed in an earlier run for a reason that may be gone are run again too, each under its own number.
    """

    def __init__(
        self, study: optuna.Study, config: StudyConfig, on_end: Callable[[FrozenTrial], None] = lambda trial: None
    ) -> None:
        """Take up the study; `on_end` is told each trial as it ends."""
        super().__init__()
        self._on_end = on_end
        self.study = study
        self._config = config
        self._space = Space(config)
        self._open: dict[str, _Open] = {}
        self._reports = TrialReports(config.resources)
        references = study.user_attrs.get(REFERENCES, [])
        teacher_f1 = next((row["f1_macro"] for row in references if row["stage"] == "baseline"), None)
        self._timings = Timings(teacher_f1, config.tradeoff_weights)
        self._hear_untimed: Callable[[FrozenTrial], None] | None = getattr(study.sampler, "hear", None)
        """Tells the sampler of a trial that lacks a speed; one that learns from ended trials alone is better served if
        the workers wait."""
        self._suggested = 0
        self._waiting: dict[int, Untimed] = {}
        """Trials that are run again, and wait for a speed: nobody of this study measures it."""
        self.attempts = Attempts()
        """To be told by Tune, as the first of its callbacks."""
        self.tally = Tally(config.search.objectives)
        self.ended = 0
        """Trials that have ended, those of an earlier run included that are not run again."""
        self._budget = Budget(config.search, study.user_attrs.get(SEARCHED_SECONDS, 0.0))
        self.tally.add(references)
        known = study.get_trials(deepcopy=False)
        for trial in known:
            if trial.state in ENDED:
                self.ended += not failed_for_now(trial)
                self._count(trial)
        self._begun = sum(trial.state != TrialState.WAITING for trial in known)
        self._unfinished = [trial._trial_id for trial in known if trial.state == TrialState.RUNNING]
        self._unfinished += [trial._trial_id for trial in known if failed_for_now(trial)]

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune stores its searcher to restore itself from, which we do from the database."""
        return {}

    @property
    def remaining(self) -> int:
        """Trials still to run: those that are unfinished, and new ones as long as the budget is not spent."""
        new = 0 if self.spent else max(0, self._config.search.trials - self._begun)
        return len(self._unfinished) + new

    @property
    def spent(self) -> str | None:
        """Why the search ends before it has had all its trials; None while it does not."""
        return self._budget.spent

    @property
    def idle(self) -> bool:
        """Whether no trial runs; where Tune was interrupted, some do."""
        return not self._open

    @property
    def sent_again(self) -> int:
        """Trials that are run once more, beyond those that remained when Tune began to count."""
        return len(self._waiting)

    def _count(self, trial: FrozenTrial) -> None:
        self.tally.add(trial.user_attrs.get(ROWS, []))
        if not failed_for_now(trial):  # it says nothing of the search, and is run again
            self._budget.trial_ended(self.tally.progress)

    def suggest(self, trial_id: str) -> dict[str, Any] | str:  # type: ignore[override]
        """Number and settings of the next trial, or that there is none."""
        if not self.remaining:
            return Searcher.FINISHED
        if self._unfinished:
            unfinished = self._unfinished.pop(0)
            if self.study._storage.get_trial(unfinished).state == TrialState.FAIL:
                self.study._storage.reopen_trial(unfinished)  # type: ignore[attr-defined]  # a StudyDatabase
            trial = Trial(self.study, unfinished)
            params = self._space.suggest(trial)
        else:
            with at_once(self.study):
                trial = self.study.ask()
                params = self._space.suggest(trial)
            self._begun += 1
        self._open[trial_id] = _Open(trial, self._suggested)
        self._suggested += 1
        waits = self._hear_untimed is None or trial._trial_id in self._waiting
        return {"number": trial.number, "attempt": self.attempts.number(trial.number), "params": params, WAITS: waits}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Keep the latest report: a trial that raises reports its error and the rows so far before it ends."""
        self._hear(self._reports.add(trial_id, self._attempt(trial_id), result))

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tell the Optuna study how the trial ended."""
        if trial_id not in self._open:
            return
        attempt = self._attempt(trial_id)
        report = {**self._reports.last(trial_id, attempt), **(result or {})}
        # `result` alone is not enough: Tune keeps less of the last report than came with it
        rows = list(report.get(ROWS) or [])
        problem, passing = report.get(ERROR), bool(report.get(MAY_PASS))
        if error and not problem:
            problem, passing = self._reports.death(trial_id, attempt, self.attempts.reason(trial_id)), True
        if problem:
            rows = max(rows, self._reports.rows(trial_id), key=len)
        self._hear(rows)
        self._end(trial_id, rows, list(report.get(CURVES) or []), problem, passing)
        oldest = next((one.place for one in self._open.values()), self._suggested)
        for untimed in self._timings.untold(oldest):
            self._unfinished.append(untimed.trial._trial_id)
            self._waiting[untimed.trial._trial_id] = untimed

    def _hear(self, rows: list[Row]) -> None:
        """End the trials that lacked nothing but a speed that is told here."""
        for untimed in self._timings.hear(rows):
            self._finish(untimed)

    def close(self) -> None:
        """The search is over: trials whose speed nobody has told have failed, for now."""
        not_run = [self._waiting[trial] for trial in self._unfinished if trial in self._waiting]
        self._unfinished = [trial for trial in self._unfinished if trial not in self._waiting]
        for untimed in [*self._timings.untold(), *not_run]:
            self._finish(untimed, NOT_TIMED, passing=True)
        self._note_time()

    def _note_time(self) -> None:
        """For a search that takes this one up, whether or not it has had a limit so far."""
        self.study.set_user_attr(SEARCHED_SECONDS, round(self._budget.seconds, 1))

    def take_back(self, reason: str) -> bool:
        """Tune's loop has ended with an error; keep the trials that it had for the next one.

        Those that the error names by their worker's process, else all, have had an attempt that failed.

        Returns:
            whether there were any: without, the same error would come again.
        """
        before = list(self._open)
        for trial_id in self._reports.named_in(reason, before) or before:
            attempt = self._attempt(trial_id)
            if attempt > self._config.resources.retries:
                death = self._reports.death(trial_id, attempt, reason)
                self._end(trial_id, self._reports.rows(trial_id), [], death, True)
            else:
                self.attempts.failed[self._open[trial_id].trial.number] += 1
        kept = [*(one.trial for one in self._open.values()), *(one.trial for one in self._timings.untold())]
        self._unfinished = [trial._trial_id for trial in kept] + self._unfinished
        self._reports.drop(before)
        self._open.clear()
        return bool(before)

    def problem(self, number: int) -> str | None:
        """Why a trial that has ended has failed; None if it has not."""
        storage = self.study._storage
        trial_id = storage.get_trial_id_from_study_id_trial_number(self.study._study_id, number)
        problem: str | None = storage.get_trial(trial_id).user_attrs.get(ERROR)
        return problem

    def _attempt(self, trial_id: str) -> int:
        return self.attempts.number(self._open[trial_id].trial.number) if trial_id in self._open else 1

    def _end(self, trial_id: str, rows: list[Row], curves: list[Curve], problem: str | None, passing: bool) -> None:
        attempt = self._attempt(trial_id)
        self._reports.drop([trial_id])
        ended = Untimed(self._open.pop(trial_id).trial, attempt, rows, curves, self._suggested)
        if not problem and self._timings.lacking(rows):
            self._timings.keep(ended)
            if self._hear_untimed:
                so_far = copy(self.study._storage.get_trial(ended.trial._trial_id))
                so_far.user_attrs = so_far.user_attrs | {ROWS: self._timings.told(rows)}
                self._hear_untimed(so_far)
        else:
            self._finish(ended, problem, passing)

    def _finish(self, ended: Untimed, problem: str | None = None, passing: bool = False) -> None:
        trial = ended.trial
        if problem and ended.attempt > 1:
            problem += f" (tried {ended.attempt} times)"
        with at_once(self.study):
            trial.set_user_attr(CURVES, ended.curves)
            if problem and passing:
                trial.set_user_attr(MAY_PASS, True)
            finish_trial(self.study, trial, self._config, self._timings.completed(ended.rows), problem)
            self._note_time()
        told = self.study._storage.get_trial(trial._trial_id)
        self.ended += 1
        self._count(told)
        self._on_end(told)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the Optuna study in its database is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the Optuna study in its database is the state."""
