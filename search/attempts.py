"""Attempts at a trial: counting them, what comes before the next one, and what Tune noted of the last one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState
from ray.tune import Callback

from search.study_keys import MAY_PASS


class Attempts(Callback):
    """Counts the attempts of each trial, and tells its worker which one it is (`attempt` in the trial's config).

    To be the first of the callbacks.
    """

    def __init__(self) -> None:
        self.failed: Counter[int] = Counter()
        """Attempts that failed and were followed by another, by the trial's number."""
        self._running: dict[str, Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune stores its callbacks to restore itself from, which we do from the database."""
        return {}

    def number(self, trial: int) -> int:
        """Of a trial's attempt that runs, or ran last, or is to come; from 1."""
        return 1 + self.failed[trial]

    def reason(self, trial_id: str) -> str:
        """What Tune, which has ids of its own for trials, noted when the attempt failed."""
        trial = self._running.get(trial_id)
        return last_failure(trial) if trial else ""

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A worker took the trial."""
        self._running[trial.trial_id] = trial

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """The attempt failed, and Tune will run the trial again: with what it finds in the config then."""
        number = trial.config["number"]
        self._running[trial.trial_id] = trial  # Tune starts none whose worker died before it was ready
        self.failed[number] += 1
        trial.config["attempt"] = self.number(number)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """The trial returned."""
        self._running.pop(trial.trial_id, None)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """The trial failed for good."""
        self._running.pop(trial.trial_id, None)


class BeforeRetry(Callback):
    """Does something before a trial whose attempt failed is run again: what the attempts need may have been damaged."""

    def __init__(self, action: Callable[[], None]) -> None:
        self._action = action

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune stores its callbacks to restore itself from, which we do from the database."""
        return {}

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """The attempt failed, and Tune will run the trial again."""
        self._action()


def last_failure(trial: Any) -> str:
    """What Tune noted when the latest attempt of a trial of its own failed, after a line with its number and time."""
    try:
        noted = Path(trial.error_file).read_text("utf-8", errors="replace") if trial.error_file else ""
    except OSError:
        return ""
    return noted.rpartition("Failure # ")[2]


def failed_for_now(trial: FrozenTrial) -> bool:
    """Whether a trial of an earlier run has failed for a reason that may be gone."""
    return trial.state == TrialState.FAIL and bool(trial.user_attrs.get(MAY_PASS))
