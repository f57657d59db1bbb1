"""Free workers on a real Ray Tune: one that takes long to start gets to its first trial, however short the others'."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cluster.session import session
from search.placing import WaitingFirst

TRIALS = 30
SLOW_START_SECONDS, TRIAL_SECONDS = 3.0, 0.3
"""Of every worker but the first; the first alone would need thrice the start of another for all trials."""


def numbers() -> Any:
    """A searcher of trials that are numbered, one asked for at a time."""
    from ray.tune.search import Searcher

    class Numbers(Searcher):
        def __init__(self) -> None:
            super().__init__("value", "max")
            self._asked = 0

        def suggest(self, trial_id: str) -> dict[str, Any]:
            self._asked += 1
            return {"number": self._asked}

        def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
            pass

        def save(self, checkpoint_path: str) -> None:
            pass

        def restore(self, checkpoint_path: str) -> None:
            pass

    return Numbers()


def short_trial(notes: Path) -> type:
    """A trial of no work, in a worker that takes long to start unless it is the first; local, so pickled by value."""
    slow, short = SLOW_START_SECONDS, TRIAL_SECONDS

    from ray.tune import Trainable

    class Short(Trainable):  # type: ignore[misc]
        def setup(self, config: dict[str, Any]) -> None:
            import os
            import time

            try:
                os.close(os.open(notes / "first", os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                time.sleep(slow)

        def step(self) -> dict[str, Any]:
            import os
            import time

            time.sleep(short)
            (notes / f"trial-{self.config['number']}").write_text(str(os.getpid()))
            return {"value": 1.0, "done": True}

        def save_checkpoint(self, checkpoint_dir: str) -> None:
            pass

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self.config = new_config
            return True

    return Short


@pytest.mark.e2e
def test_a_slow_start_is_not_given_up_for_trials_that_end_meanwhile(tmp_path: Path) -> None:
    from ray import tune

    with session("local"):
        tune.Tuner(
            tune.with_resources(short_trial(tmp_path), {"cpu": 1}),
            tune_config=tune.TuneConfig(
                search_alg=numbers(), scheduler=WaitingFirst(), num_samples=TRIALS, reuse_actors=True
            ),
            run_config=tune.RunConfig(storage_path=str(tmp_path / "tune"), verbose=0),
        ).fit()
    ran = [note.read_text() for note in tmp_path.glob("trial-*")]
    assert len(ran) == TRIALS
    assert len(set(ran)) == 2, "as many workers as processors, each started once"
