"""What Ray Tune need not keep of each trial: it holds all of them until the search ends."""

from __future__ import annotations

from typing import Any

from ray.tune import Callback

from search.optuna_study import CURVES, ROWS, ROWS_SO_FAR

TRACEBACK = "traceback"


class LeanTrials(Callback):
    """Takes from Tune's trials what is in the Optuna study, and statistics of their figures that nobody asks for.

    To be the last of the callbacks: those after it do not see the rows.
    """

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Shorten the result that Tune will keep; it lets callbacks do so."""
        for name in (ROWS, ROWS_SO_FAR, CURVES, TRACEBACK):
            result.pop(name, None)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """The trial returned."""
        self._forget(trial)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """The trial raised, or its worker died."""
        self._forget(trial)

    def _forget(self, trial: Any) -> None:
        # Largest, smallest and last values of every figure: 30 KB a trial.
        trial.run_metadata.metric_analysis = {}
        trial.run_metadata.metric_n_steps = {}
