"""A search in virtual time: the real searcher and sampler, with a table of outcomes in place of the stages.

Policies can so be compared in seconds. Workers share one store, as on a cluster: a stage that exists costs nothing, and
one that another worker is at is waited for. The speed of a shape that another times is waited for too, unless the
sampler learns from all else that is measured: then the trial's rows are completed later (`search/timings.py`).
"""

from __future__ import annotations

import heapq
import math
import time
from collections import defaultdict, deque
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count, islice
from typing import Any, Protocol

import numpy as np

from evaluation.records import SPEED
from evaluation.shape import TIMING
from search.config import STAGES, StudyConfig
from search.searcher import ParetoSearcher
from search.study_keys import ERROR, ROWS, ROWS_SO_FAR, WAITS
from search.trial import Row, far_from_safe

DIED = "the simulated worker died"
Path = tuple[tuple[str, Any], ...]


class Table(Protocol):
    """What stages bring and take."""

    def teacher(self) -> Row:
        """The teacher's row."""

    def row(self, stage: str, params: Mapping[str, Any]) -> Row | None:
        """The row of the model that this stage leaves, with its `stage_seconds`; None if it is left out.

        Args:
            stage: `distil`, `prune` or `quantize`.
            params: of the whole chain, as `Space.suggest` returns them.
        """


@dataclass(frozen=True)
class Cluster:
    """The machines of a simulation."""

    workers: int = 1
    """Trials at a time."""
    reuse: bool = True
    """Whether stages that exist are found; without it each trial runs its whole chain."""
    measure_seconds: float = 3.0
    """To measure each new model, its speed apart."""
    timing_seconds: float = 0.0
    """To measure the speed of a new model; with reuse, of the first of each shape alone (`evaluation/shape.py`)."""
    trial_seconds: float = 0.0
    """Of each trial beside its new models, and of one that has none: to start, to find what is there, to report."""
    driver_seconds: float = 0.0
    """Of each trial in the one process that hands out all: a worker waits for it while it is at another's."""
    suggestion_factor: float = 0.0
    """Seconds that process is held besides for each that the sampler really takes of a core to suggest; above 0, no two
    simulations are quite the same."""
    deaths_per_hour: float = 0.0
    """Deaths of a worker in an hour of its work; the trial fails, and its stages so far stay."""
    straggler_share: float = 0.0
    """Share of stages that take `straggler_factor` times as long."""
    straggler_factor: float = 5.0
    seed: int = 0


@dataclass
class History:
    """What a simulated search did."""

    models: list[tuple[float, Row]] = field(default_factory=list)
    """Each new model, with the virtual second at which it was measured."""
    work: list[tuple[float, float]] = field(default_factory=list)
    """Virtual start and length, in seconds, of all that workers did; waiting is none of it."""
    trials: int = 0
    failed: int = 0
    last_start: float = 0.0
    """Virtual second at which the last trial started."""

    @property
    def busy_seconds(self) -> float:
        """Computing of all workers."""
        return sum(length for _, length in self.work)

    def utilisation(self, workers: int) -> float:
        """Share of the workers' time that was computing, until the last trial started."""
        spans = np.array(self.work).reshape(-1, 2)
        within = np.clip(self.last_start - spans[:, 0], 0.0, spans[:, 1]).sum()
        return float(within / (workers * self.last_start)) if self.last_start else 1.0


def shape_in(row: Row) -> str:
    """Name of a model's shape: the model that was timed for it, or itself."""
    return str(row.get("timed_model") or row["model_key"])


class Simulation:
    """One search on a simulated cluster."""

    def __init__(self, searcher: ParetoSearcher, config: StudyConfig, table: Table, cluster: Cluster) -> None:
        self._searcher, self._config, self._table, self._cluster = searcher, config, table, cluster
        self._generator = np.random.default_rng(cluster.seed)
        self._ready: dict[Path, float] = {}
        self._times: dict[str, float] = {}
        """When it is known how fast a shape is; of those that are timed, or were."""
        self._untimed: defaultdict[str, list[Row]] = defaultdict(list)
        """New models that await that."""
        self._ids = count()
        self._now, self._driver_is_busy = 0.0, False
        self.history = History()

    def run(
        self,
        seconds: float = float("inf"),
        busy_seconds: float = float("inf"),
        enough: Callable[[History], bool] = lambda history: False,
    ) -> History:
        """Until the searcher has no more trials; none starts after so many virtual, or so many computing seconds.

        Args:
            seconds: virtual.
            busy_seconds: of all workers.
            enough: asked whenever a worker has done something; the search ends there when it says so.
        """
        order = count()
        waiting = [(0.0, next(order), self._worker(seconds, busy_seconds)) for _ in range(self._cluster.workers)]
        queue: deque[Iterator[float | None]] = deque()
        while waiting and not enough(self.history):
            self._now, _, worker = heapq.heappop(waiting)
            for pause in islice(worker, 1):
                if pause is None:
                    queue.append(worker)
                else:
                    heapq.heappush(waiting, (self._now + pause, next(order), worker))
            if queue and not self._driver_is_busy:
                heapq.heappush(waiting, (self._now, -next(order), queue.popleft()))  # before all that come now
        return self.history

    def _worker(self, seconds: float, busy_seconds: float) -> Iterator[float | None]:
        """Trial after trial; each pause is handed to the clock, none to the driver's queue."""
        done = 0.0
        while True:
            if self._driver_is_busy:
                yield None
            if self._now >= seconds or done * self._cluster.workers >= busy_seconds:
                return
            trial_id = str(next(self._ids))
            suggested = yield from self._suggested(trial_id)
            if not isinstance(suggested, dict) or "params" not in suggested:
                return
            self.history.trials += 1
            self.history.last_start = self._now
            for pause, busy in self._trial(trial_id, suggested["params"], suggested[WAITS]):
                if busy:
                    self.history.work.append((self._now, pause))
                    done += pause
                yield pause

    def _suggested(self, trial_id: str) -> Generator[float, None, Any]:
        """What the driver hands out, which is busy with it."""
        cluster = self._cluster
        self._driver_is_busy = bool(cluster.driver_seconds or cluster.suggestion_factor)
        if cluster.driver_seconds:
            yield cluster.driver_seconds
        began = time.process_time()
        suggested = self._searcher.suggest(trial_id)
        if cluster.suggestion_factor:
            yield cluster.suggestion_factor * (time.process_time() - began)
        self._driver_is_busy = False
        return suggested

    def _trial(self, trial_id: str, params: Mapping[str, Any], waits: bool) -> Iterator[tuple[float, bool]]:
        """The chain, stage by stage, with or without waits for speeds; yields each pause and whether it is work."""
        rows: list[Row] = []
        path: Path = ()
        if self._cluster.trial_seconds:
            yield self._cluster.trial_seconds, True
        for stage in STAGES:
            path += tuple(item for item in params.items() if item[0].startswith(f"{stage}."))
            row = self._table.row(stage, params)
            if row is None:
                continue
            timed_model = shape_in(row)
            shape = timed_model if self._cluster.reuse else f"{trial_id} {stage}"
            if not ((yield from self._built(path, shape, row)) and (yield from self._timed(shape, waits))):
                self.history.failed += 1
                self._searcher.on_trial_complete(trial_id, {ROWS: rows, ERROR: DIED}, error=True)
                return
            if self._is_known(shape):
                rows.append(row | {"timed_model": timed_model, TIMING: shape})
                self._searcher.on_trial_result(trial_id, {ROWS_SO_FAR: rows})
            else:
                rows.append({name: row[name] for name in row if name not in SPEED} | {TIMING: shape})
            if stage == "distil" and far_from_safe(row, self._config):
                rows[-1] = rows[-1] | {"status": "stopped_unsafe"}
                break
        self._searcher.on_trial_complete(trial_id, {ROWS: rows or [self._table.teacher()]})

    def _built(self, path: Path, shape: str, row: Row) -> Generator[tuple[float, bool], None, bool]:
        """Build the model and measure it but for its speed, or find it; whether the worker lives."""
        reuse = self._cluster.reuse
        while reuse and self._ready.get(path, 0.0) > self._now:
            yield self._ready[path] - self._now, False
        if reuse and path in self._ready:
            return True
        length, dies = self._length(float(row["stage_seconds"]) + self._cluster.measure_seconds)
        self._ready[path] = self._now + length
        yield length, True
        if dies:
            del self._ready[path]
        else:
            self._untimed[shape].append(row)
        return not dies

    def _timed(self, shape: str, waits: bool) -> Generator[tuple[float, bool], None, bool]:
        """Time the shape unless another worker does or has, and wait for that or not; whether the worker lives."""
        while shape not in self._times or (waits and not self._is_known(shape)):
            if shape in self._times:
                yield self._times[shape] - self._now, False
                continue
            length, dies = self._length(self._cluster.timing_seconds)
            self._times[shape] = self._now + length
            if length:
                yield length, True
            if dies:
                del self._times[shape]
                return False
        if self._is_known(shape):
            self.history.models += [(self._now, row) for row in self._untimed.pop(shape, [])]
        return True

    def _is_known(self, shape: str) -> bool:
        return self._times.get(shape, math.inf) <= self._now

    def _length(self, seconds: float) -> tuple[float, bool]:
        """How long work goes on, and whether the worker dies of it."""
        cluster = self._cluster
        if cluster.straggler_share and self._generator.random() < cluster.straggler_share:
            seconds *= cluster.straggler_factor
        if cluster.deaths_per_hour:
            life = float(self._generator.exponential(3600.0 / cluster.deaths_per_hour))
            return min(life, seconds), life < seconds
        return seconds, False
