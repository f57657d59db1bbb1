"""Between Ray Tune and Optuna: Tune asks here for trials, and what they return is told to the Optuna study here.

Ray's own `OptunaSearch` drops constraints, which makes an unsafe trial count as feasible, and leaves a trial whose
objective is NaN RUNNING for ever. Here every trial ends COMPLETE with its constraints set before its values, or FAILED
with its error, after its last attempt: Tune tells a searcher nothing of those before.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState
from ray.tune.search import Searcher

from search.attempts import Attempts, failed_for_now
from search.budget import Budget
from search.config import StudyConfig
from search.faults import death_text
from search.optuna_study import ENDED
from search.space import Space
from search.study_database import at_once
from search.study_keys import CURVES, ERROR, MAY_PASS, REFERENCES, ROWS, ROWS_SO_FAR
from search.tally import Tally
from search.trial import Curve, Row, constraints, objectives


@dataclass(frozen=True)
class _Report:
    """What a trial said last."""

    content: dict[str, Any]
    attempt: int
    at: float
    """By the monotonic clock."""


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
        self._open: dict[str, Trial] = {}
        self._last: dict[str, _Report] = {}
        self._rows: dict[str, list[Row]] = {}
        self.attempts = Attempts()
        """To be told by Tune, as the first of its callbacks."""
        self.tally = Tally()
        self.ended = 0
        """Trials that have ended, those of an earlier run included that are not run again."""
        self._budget = Budget(config.search)
        self.tally.add(study.user_attrs.get(REFERENCES, []))
        known = study.get_trials(deepcopy=False)
        for trial in known:
            if trial.state in ENDED:
                self.ended += not failed_for_now(trial)
                self._count(trial.user_attrs.get(ROWS, []))
        self._begun = sum(trial.state != TrialState.WAITING for trial in known)
        self._unfinished = [trial._trial_id for trial in known if trial.state == TrialState.RUNNING]
        self._unfinished += [trial._trial_id for trial in known if failed_for_now(trial)]

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune stores its searcher to restore itself from, which we do from the database."""
        return {}

    @property
    def remaining(self) -> int:
        """Trials still to run: those an earlier run left unfinished, and new ones; none when the budget is spent."""
        if self.spent:
            return 0
        return len(self._unfinished) + max(0, self._config.search.trials - self._begun)

    @property
    def spent(self) -> str | None:
        """Why the search ends before it has had all its trials; None while it does not."""
        return self._budget.spent

    def _count(self, rows: list[Row]) -> None:
        self.tally.add(rows)
        self._budget.trial_ended(self.tally.hypervolume)

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
        self._open[trial_id] = trial
        return {"number": trial.number, "attempt": self.attempts.number(trial.number), "params": params}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Keep the latest report: a trial that raises reports its error and the rows so far before it ends."""
        self._last[trial_id] = _Report(result, self._attempt(trial_id), time.monotonic())
        rows = result.get(ROWS) or result.get(ROWS_SO_FAR) or []
        if len(rows) >= len(self._rows.get(trial_id, [])):  # an attempt may die before it comes as far as the last
            self._rows[trial_id] = list(rows)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tell the Optuna study how the trial ended."""
        if trial_id not in self._open:
            return
        last = self._last.get(trial_id)
        report = (last.content if last and last.attempt == self._attempt(trial_id) else {}) | (result or {})
        # `result` alone is not enough: Tune keeps less of the last report than came with it
        rows = list(report.get(ROWS) or [])
        problem, passing = report.get(ERROR), bool(report.get(MAY_PASS))
        if error and not problem:
            problem, passing = self._death(trial_id, self.attempts.reason(trial_id)), True
        if problem:
            rows = max(rows, self._rows.get(trial_id, []), key=len)
        self._end(trial_id, rows, list(report.get(CURVES) or []), problem, passing)

    def take_back(self, reason: str) -> bool:
        """Tune's loop has ended with an error; keep the trials that it had for the next one.

        Those that the error names by their worker's process, else all, have had an attempt that failed.

        Returns:
            whether there were any: without, the same error would come again.
        """
        before = list(self._open)
        pids = {trial_id: last.content.get("pid") for trial_id, last in self._last.items()}
        named = [trial_id for trial_id in before if re.search(rf"\bpid={pids.get(trial_id)}\b", reason)]
        for trial_id in named or before:
            if self._attempt(trial_id) > self._config.resources.retries:
                self._end(trial_id, self._rows.get(trial_id, []), [], self._death(trial_id, reason), True)
            else:
                self.attempts.failed[self._open[trial_id].number] += 1
        self._unfinished = [trial._trial_id for trial in self._open.values()] + self._unfinished
        for kept in (self._open, self._last, self._rows):
            kept.clear()
        return bool(before)

    def problem(self, number: int) -> str | None:
        """Why a trial that has ended has failed; None if it has not."""
        storage = self.study._storage
        trial_id = storage.get_trial_id_from_study_id_trial_number(self.study._study_id, number)
        problem: str | None = storage.get_trial(trial_id).user_attrs.get(ERROR)
        return problem

    def _attempt(self, trial_id: str) -> int:
        return self.attempts.number(self._open[trial_id].number) if trial_id in self._open else 1

    def _death(self, trial_id: str, reason: str) -> str:
        last = self._last.get(trial_id)
        if last is None or last.attempt != self._attempt(trial_id):
            return death_text("its start", 0.0, reason, self._config.resources)
        stage, seconds = last.content.get("at_stage", "its start"), time.monotonic() - last.at
        return death_text(stage, seconds, reason, self._config.resources)

    def _end(self, trial_id: str, rows: list[Row], curves: list[Curve], problem: str | None, passing: bool) -> None:
        attempt = self._attempt(trial_id)
        if problem and attempt > 1:
            problem += f" (tried {attempt} times)"
        for kept in (self._last, self._rows):
            kept.pop(trial_id, None)
        trial = self._open.pop(trial_id)
        with at_once(self.study):
            trial.set_user_attr(CURVES, curves)
            if problem and passing:
                trial.set_user_attr(MAY_PASS, True)
            finish_trial(self.study, trial, self._config, rows, problem)
        ended = self.study._storage.get_trial(trial._trial_id)
        self.ended += 1
        self._count(ended.user_attrs.get(ROWS, []))
        self._on_end(ended)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the Optuna study in its database is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the Optuna study in its database is the state."""


def finish_trial(study: optuna.Study, trial: Trial, config: StudyConfig, rows: list[Row], problem: str | None) -> None:
    """End a trial: FAILED with its error, or COMPLETE with constraints and objectives of its last model."""
    names = config.search.objectives
    values = objectives(rows[-1], names) if rows else []
    if not problem and not rows:
        problem = "the trial returned no measured model"
    if not problem and not all(math.isfinite(value) for value in values):
        wrong = ", ".join(
            f"{name}={value}" for name, value in zip(names, values, strict=True) if not math.isfinite(value)
        )
        problem = f"objective is not finite: {wrong}"
    if problem:
        last = rows[-1] if rows else {}
        settings = {name: value for name, value in trial.params.items() if "." in name}
        failed = {
            "study": config.study,
            "stage": last.get("stage", "baseline"),
            "status": "failed",
            ERROR: problem,
            **settings,
        }
        kept = [row for row in rows if row.get("model_key") and math.isfinite(objectives(row, ("f1_macro",))[0])]
        trial.set_user_attr(ROWS, [*(row for row in kept if row.get("status") == "ok"), failed])
        trial.set_user_attr(ERROR, problem)
        study.tell(trial, state=TrialState.FAIL)
        return
    for name, value in constraints(rows[-1], config).items():
        trial.set_constraint(name, value)
    trial.set_user_attr(ROWS, rows)
    study.tell(trial, values)
