"""What the terminal shows while a study runs: a live table where there is a terminal, a line a trial elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray.tune import Callback
from rich.console import Console
from rich.live import Live
from rich.table import Table

from pipeline.chains import describe_chain
from search.searcher import ParetoSearcher
from search.study_keys import ROWS
from search.timings import is_untimed
from search.trial import Row
from search.wording import duration

MOST_SHOWN = 8
"""Running trials in the live table."""


class Progress(Callback):
    """Trials done, safe models, front size, what runs now, and the time left."""

    def __init__(self, searcher: ParetoSearcher, total: int, console: Console) -> None:
        self._searcher = searcher
        self._total = total
        self._remaining = searcher.remaining
        self._console = console
        self._started = time.monotonic()
        self._ended = self._failed = 0
        self._running: dict[str, tuple[str, str]] = {}
        self._last_row: dict[str, Row] = {}
        self._live = Live(console=console, refresh_per_second=1, get_renderable=self._table, transient=True)

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune stores its callbacks to restore itself from, which we do from the database."""
        return {}

    @contextmanager
    def shown(self) -> Iterator[None]:
        """The live table while the block runs."""
        if not self._console.is_terminal:
            yield
            return
        with self._live:
            yield

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A worker took the trial."""
        self._running[trial.trial_id] = (str(trial), "starting")

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """The trial reached its next stage, or reports all its rows."""
        if rows := result.get(ROWS):
            self._last_row[trial.trial_id] = rows[-1]
        if result.get("at_stage"):
            self._running[trial.trial_id] = (str(trial), result["at_stage"])

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """The attempt failed, and Tune runs the trial again."""
        self._running.pop(trial.trial_id, None)
        self._say(f"           trial {trial.config['number']}: an attempt failed, it is run again")

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """The trial returned, with its rows, or with an error that would come again."""
        self._end(trial, self._searcher.problem(trial.config["number"]))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """The trial raised, or its worker died, at its last attempt."""
        self._end(trial, self._searcher.problem(trial.config["number"]) or "its worker died")

    def _end(self, trial: Any, error: str | None) -> None:
        self._running.pop(trial.trial_id, None)
        self._ended += 1
        self._failed += error is not None
        row = self._last_row.pop(trial.trial_id, None)
        told = f"failed: {error.splitlines()[-1]}" if error else in_words(row) if row else "no model"
        self._say(f"{self._done:>4}/{self._total}  trial {trial.config['number']}: {told}")
        if not self._console.is_terminal:
            tally = self._searcher.tally
            safe = f"{tally.safe} of {tally.models} models safe, front {tally.front}"
            self._say(f"           {safe}, {self._time_left()} left")

    def _say(self, line: str) -> None:
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    @property
    def _done(self) -> int:
        return self._total - self._remaining + self._ended

    def _time_left(self) -> str:
        if not self._ended:
            return "unknown time"
        return "about " + duration((time.monotonic() - self._started) / self._ended * (self._remaining - self._ended))

    def _table(self) -> Table:
        tally = self._searcher.tally
        table = Table.grid(padding=(0, 2))
        failed = f", {self._failed} failed" if self._failed else ""
        table.add_row("[bold]trials", f"{self._done} of {self._total}{failed}")
        table.add_row("[bold]models", f"{tally.models} measured, {tally.safe} safe")
        table.add_row("[bold]front", f"{tally.front} models")
        table.add_row("[bold]now", self._at_work() or "waiting for a worker")
        table.add_row("[bold]time", f"{duration(time.monotonic() - self._started)} so far, {self._time_left()} left")
        return table

    def _at_work(self) -> str:
        """Names and stages of the trials that run, the first ones a line each."""
        lines = [f"{name}: {stage}" for name, stage in sorted(self._running.values())]
        return "\n".join(lines[:MOST_SHOWN] + ([f"and {len(lines) - MOST_SHOWN} more"] if lines[MOST_SHOWN:] else []))


def in_words(row: Row) -> str:
    """A measured model on a line: its chain, macro F1, size, speed-up and verdict, as far as they are known."""
    f1, size, speedup = (row.get(name) for name in ("f1_macro", "model_size_mb", "speedup_factor"))
    figures = [
        "" if f1 is None else f"F1 {f1:.3f}",
        "" if size is None else f"{size:.2f} MB",
        "its shape is being timed" if is_untimed(row) else "" if speedup is None else f"×{speedup:.1f}",
    ]
    return "  ".join([describe_chain(row), *filter(None, figures), str(row.get("safety_verdict"))])
