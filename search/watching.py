"""Watching a search: Ray metrics for Prometheus and Grafana, and a log for each trial, from what Tune's loop sees.

- `cluster/grafana.json`, imported into Grafana, shows the metrics (`cluster/metrics.py`) of every study of a cluster.
- `results/STUDY/logs/trial_0012.log` tells what a trial did, stage by stage; what its worker printed is in Ray's logs.
- `optuna-dashboard sqlite:///results/STUDY/study.db` (`pip install optuna-dashboard`; it listens on the loopback
  interface) shows the trials with their settings and objectives, during a search and after it. Look only: a note or a
  trial that is made there is written into the study.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

from optuna.trial import TrialState
from ray.tune import Callback

from cluster.metrics import StudyMetrics
from pipeline.study_results import STORED_AS
from search.attempts import failed_for_now, last_failure
from search.optuna_study import ENDED
from search.searcher import ParetoSearcher
from search.study_keys import ROWS, ROWS_SO_FAR
from search.trial_logs import TrialLogs

TELL_SECONDS = 1.0
"""How often the gauges are set: Ray exports one only if it was set since the last export, and soon drops it if not."""


class Watching(Callback):
    """Tells metrics and logs what happens to the trials. To stand before `LeanTrials`, which takes the rows away."""

    def __init__(self, searcher: ParetoSearcher, metrics: StudyMetrics, logs: TrialLogs) -> None:
        """Watch the trials that the searcher suggests; those of an earlier run are counted."""
        self._searcher, self._metrics, self._logs = searcher, metrics, logs
        ended = searcher.study.get_trials(deepcopy=False, states=ENDED)
        self._ended = Counter(trial.state for trial in ended if not failed_for_now(trial))
        self._ended_now = 0
        self._running: dict[str, int] = {}
        """How many rows of each trial that runs have been told."""
        self._due = 0.0

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune stores its callbacks to restore itself from, which we do from the database."""
        return {}

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Tune's loop comes here at least ten times a second."""
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + TELL_SECONDS
            self._tell(trials)

    def on_experiment_end(self, trials: list[Any], **info: Any) -> None:
        """The search is over."""
        self._tell(trials)

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A worker took the trial, for the first time or after an attempt that failed."""
        self._running[trial.trial_id] = 0
        self._logs.begins(trial.config["number"], str(trial), trial.config["params"])

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """The trial reached its next stage, has measured a model, or reports all its rows."""
        rows = result.get(ROWS) or result.get(ROWS_SO_FAR) or []
        fresh = rows[self._running.get(trial.trial_id, 0) :]
        self._running[trial.trial_id] = len(rows)
        self._logs.reports(trial.config["number"], result, fresh)
        for row in fresh:
            if row.get("model_key") and row.get("stage_seconds") is not None:
                self._metrics.stage(STORED_AS[row["stage"]], float(row["stage_seconds"]), bool(row.get("cache_hit")))

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """The trial's attempt failed, and it will be run again."""
        self._running.pop(trial.trial_id, None)
        self._logs.breaks_off(trial.config["number"], last_failure(trial).partition("\n")[2])

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """The trial returned."""
        self._end(trial)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """The trial raised, or its worker died, and it will not be run again."""
        self._logs.breaks_off(trial.config["number"], last_failure(trial).partition("\n")[2])
        self._end(trial)

    def _end(self, trial: Any) -> None:
        """Tune has told the searcher before: the Optuna study knows whether the trial is complete."""
        self._running.pop(trial.trial_id, None)
        self._ended_now += 1
        number = trial.config["number"]
        problem = self._searcher.problem(number)
        self._ended[TrialState.FAIL if problem else TrialState.COMPLETE] += 1
        self._logs.ends(number, f"failed: {problem.splitlines()[-1]}" if problem else "complete")

    def _tell(self, trials: list[Any]) -> None:
        """Set the gauges; `trials` are all that Tune has asked for so far."""
        taken = len(self._running) + self._ended_now
        self._metrics.trials(
            {
                "waiting": self._searcher.remaining + max(0, len(trials) - taken),
                "running": len(self._running),
                "complete": self._ended[TrialState.COMPLETE],
                "failed": self._ended[TrialState.FAIL],
            }
        )
        tally = self._searcher.tally
        self._metrics.found(float(tally.hypervolume), tally.models, tally.safe)
