"""Which trial a free worker gets, so that workers which are starting get to their first one."""

from __future__ import annotations

from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler


class WaitingFirst(FIFOScheduler):
    """In the order of submission, but a worker that is starting keeps the trial that it starts for.

    Tune keeps one trial beyond those that run. When another trial ends, its worker gets that one, and the worker
    started for it is stopped, however near it is to being up. Where trials end more often than a worker takes to start
    (seconds of imports), a node that joins would never run anything. So one more trial is asked for while workers are
    starting: the one that waits for a worker gets the next that is free.
    """

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """The pending trial that has waited longest and has no worker of its own; None where there is none."""
        tune = tune_controller._tune_controller  # what Tune shows of itself does not tell which workers are starting
        waiting = [trial for trial in tune._pending_trials if not self._is_starting(tune, trial)]
        tune.update_max_pending_trials(1 + len(tune._pending_trials) - len(waiting))
        return min(waiting, key=lambda trial: int(trial.config["number"]), default=None)

    @staticmethod
    def _is_starting(tune: Any, trial: Trial) -> bool:
        actor = tune._trial_to_actor.get(trial)
        return actor is not None and tune._actor_manager.is_actor_started(actor)
