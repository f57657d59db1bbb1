"""What Ray Tune need not do for each trial: keep what is kept elsewhere, and ask the cluster for what it knows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray.tune import Callback, registry

from search.study_keys import CURVES, ROWS, ROWS_SO_FAR

TRACEBACK = "traceback"


@contextmanager
def trainables_fetched_once() -> Iterator[None]:
    """Tune's trainables are fetched from the cluster when first asked for, not five times a trial (7 ms of 44).

    To be entered when they are registered: one that is registered anew meanwhile stays what it was.
    """
    known: dict[tuple[str, str], Any] = {}
    theirs: Any = registry._global_registry
    fetch, exists = theirs.get, theirs.contains

    def get(category: str, key: str) -> Any:
        if (category, key) not in known:
            known[category, key] = fetch(category, key)
        return known[category, key]

    def contains(category: str, key: str) -> bool:
        return (category, key) in known or bool(exists(category, key))

    theirs.get, theirs.contains = get, contains
    try:
        yield
    finally:
        del theirs.get, theirs.contains


class LeanTrials(Callback):
    """Takes from Tune's trials what is in the Optuna study, and statistics of their figures that nobody asks for.

    Tune holds all trials until the search ends. To be the last of the callbacks: those after it do not see the rows.
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
