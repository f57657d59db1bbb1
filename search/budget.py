"""When a search has had enough: trials are counted elsewhere, time and progress here."""

from __future__ import annotations

import time
from collections import deque

from search.sections import SearchConfig
from search.wording import duration


class Budget:
    """Time since the search began, and growth of what was found (`Tally.progress`) over the last trials."""

    def __init__(self, config: SearchConfig, before: float = 0.0) -> None:
        """Begin to count; `before` are the seconds of earlier runs."""
        self._config = config
        self._started = time.monotonic() - before
        self._progress: deque[float] = deque(maxlen=(config.patience or 0) + 1)

    def trial_ended(self, progress: float) -> None:
        """Note how far the search is after a trial, those of an earlier run included."""
        self._progress.append(progress)

    @property
    def seconds(self) -> float:
        """That the search has taken, earlier runs included, the time between them not."""
        return time.monotonic() - self._started

    @property
    def spent(self) -> str | None:
        """Why no further trial should start; None while one should."""
        limit = self._config.max_seconds
        if limit is not None and self.seconds >= limit:
            return f"search.max_seconds={limit:g} ({duration(limit)}) have passed"
        patience, growth = self._config.patience, self._config.min_growth_percent
        if patience is None or len(self._progress) <= patience:
            return None
        before, now = self._progress[0], self._progress[-1]
        if now > before and now - before >= growth / 100.0 * before:
            return None
        what = "the hypervolume" if len(self._config.objectives) > 1 else self._config.objectives[0]
        return f"{what} has not grown by {growth:g} % in the last {patience} trials (search.patience)"
