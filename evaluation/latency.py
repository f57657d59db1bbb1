"""How long a caller waits: text in, probabilities out, baseline and candidate in turns.

What one measures on a shared machine is mostly the neighbours. Four things keep them out of the ratio of two models:

- The clock is the calling thread's processor time when models have one thread: what a caller with a core of its own
  waits for. The wall clock also counts the scheduler's slices, which cut a request of 12 ms many times and one of 40 µs
  hardly ever: beside two busy processes it called a student 23 times as fast that is 13 times as fast.
- The same comments, at even steps of length, are answered in every round by every model, a few by one and then the same
  few by the next, so that neither the luck of the draw nor a slow moment falls on one model alone. A few and not one,
  and the first request of a turn is not timed, since a model in production has the processor's caches for itself: one
  of microseconds that follows one of 20 MB would be timed loading its own code and weights again.
- A round in which the baseline departs from its typical time, of this measurement or of earlier ones (`usual`), is
  thrown away and repeated.
- Disturbed requests are left out of the comparison (`speedup`).
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, perf_counter_ns, process_time, thread_time_ns

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from evaluation.speedup import steady_rounds, usual_rounds
from pipeline.runtime import Classifier, sigmoid

PANEL, BLOCK, BATCH = 12, 6, 32
TURNS_MS, MOST_REPEATS = 60.0, 100
FEWEST_ROUNDS = 3
LONGEST_WAIT = 20.0
MILLISECOND = 1e6
Answer = Callable[[Sequence[str]], object]
Clock = Callable[[], int]
Wall = Callable[[], float]


@dataclass(frozen=True)
class Rounds:
    """What a measurement in turns has left."""

    times_ms: dict[str, NDArray[np.float64]]
    """For each model [rounds, repeats, comments]; a fast model answers the panel several times in its turn."""
    repeated: int
    """Rounds that were thrown away."""
    waited: float
    """Share of the rounds' time, 0 to 1, in which the scheduler gave the core to others; 0 by the wall clock."""
    usual_ms: NDArray[np.float64]
    """What the baseline took in the rounds that were kept, [comments]."""
    changed: bool
    """Whether the machine stayed slower than `usual_ms` said for so long that its rounds were kept all the same."""


@contextmanager
def node_slot() -> Iterator[None]:
    """Held while measuring: one measurement at a time per machine, across studies too; freed if the holder dies."""
    with FileLock(Path(tempfile.gettempdir()) / f"pareto-latency-{os.getuid()}.lock"):
        yield


def answers(classifier: Classifier) -> Answer:
    """From texts to probabilities, as a caller would ask."""
    return lambda texts: sigmoid(classifier.predict_logits(texts, BATCH))


def clock(threads: int) -> Clock:
    """Nanoseconds: the calling thread's processor time for one thread; several wait for each other, by the wall."""
    return thread_time_ns if threads == 1 else perf_counter_ns


def panel(texts: Sequence[str], size: int = PANEL) -> list[str]:
    """`size` real comments at the middles of equal shares of `texts` by length, always the same."""
    order = np.argsort([len(text) for text in texts], kind="stable")
    return [texts[row] for row in order[((np.arange(size) + 0.5) / size * len(texts)).astype(np.int64)].tolist()]


def measure_latency(
    models: Mapping[str, Classifier],
    texts: Sequence[str],
    *,
    baseline: str,
    seconds: float,
    requests: int,
    now: Clock,
    seed: int,
    usual_ms: NDArray[np.float64] | None = None,
    longest_wait: float = LONGEST_WAIT,
    wall: Wall = perf_counter,
) -> Rounds:
    """Single requests in rounds: the panel of comments is answered by every model in turn, in an order that changes.

    Args:
        models: by name; all of them are in every round.
        texts: real comments, from which the panel is taken.
        baseline: the model whose departure from its typical time condemns a round.
        seconds: shortest time of the rounds together, by the wall clock; those slower than `usual_ms` do not count.
        requests: fewest requests to each model in rounds that are kept. After twice as many the measurement ends even
            so: on a machine that never rests most rounds are typical of it.
        now: the clock, in nanoseconds.
        seed: of the orders.
        usual_ms: what the baseline took on this machine before, [comments] (`evaluation.usual`).
        longest_wait: seconds of rounds slower than that, after which the machine counts as changed.
        wall: the clock of `seconds` and `longest_wait`, in seconds.
    """
    generator = np.random.default_rng(seed)
    comments = panel(texts)
    ask = {name: answers(model) for name, model in models.items()}
    warm = {name: _turn(answer, comments[::2], 2, now) for name, answer in ask.items()}
    repeats = {name: _repeats(times) for name, times in warm.items()}
    rounds: dict[str, list[NDArray[np.float64]]] = {name: [] for name in models}
    fewest = max(math.ceil(requests / PANEL), FEWEST_ROUNDS)
    started, computed = wall(), thread_time_ns()
    took: list[float] = []
    enough = changed = False
    while not enough:
        for name, times in _round(ask, comments, repeats, now, generator).items():
            rounds[name].append(times)
        elapsed = wall() - started
        took.append(elapsed - sum(took))
        baseline_ms = np.median(np.stack(rounds[baseline]), axis=1)
        usual = usual_rounds(baseline_ms, usual_ms)
        changed = bool(elapsed - usual @ took > longest_wait)
        if changed:
            usual[:] = True
        kept = usual.copy()
        kept[usual] = steady_rounds(baseline_ms[usual])
        enough = bool(usual @ took >= seconds and (kept.sum() >= fewest or usual.sum() >= 2 * fewest))
    waited = 1.0 - (thread_time_ns() - computed) / 1e9 / elapsed if now is thread_time_ns else 0.0
    return Rounds(
        {name: np.stack(all_)[kept] for name, all_ in rounds.items()},
        repeated=int((~kept).sum()),
        waited=max(waited, 0.0),
        usual_ms=np.median(baseline_ms[kept], axis=0),
        changed=changed,
    )


def single_requests(
    model: Classifier, texts: Sequence[str], *, seconds: float, requests: int, now: Clock, seed: int
) -> NDArray[np.float64]:
    """Times of single requests with comments drawn at random, with replacement, in milliseconds, [requests]."""
    generator = np.random.default_rng(seed)
    ask = answers(model)
    ask([texts[0]])
    times: list[int] = []
    started = perf_counter()
    while perf_counter() - started < seconds or len(times) < requests:
        times.append(_elapsed(ask, [texts[int(generator.integers(len(texts)))]], now))
    return np.array(times) / MILLISECOND


def throughput(model: Classifier, texts: Sequence[str], *, seconds: float, threads: int, seed: int) -> float:
    """Comments per second in batches of 32 real comments; of one core's time for one thread, else by the wall clock."""
    generator = np.random.default_rng(seed)
    ask = answers(model)
    now = process_time if threads == 1 else perf_counter  # the tokenizer splits a batch among threads of its own
    ask(list(texts[:BATCH]))
    answered, used, started = 0, 0.0, perf_counter()
    while perf_counter() - started < seconds:
        batch = [texts[i] for i in generator.choice(len(texts), size=BATCH).tolist()]
        begin = now()
        ask(batch)
        used += now() - begin
        answered += BATCH
    return answered / used


def _round(
    ask: Mapping[str, Answer],
    comments: Sequence[str],
    repeats: Mapping[str, int],
    now: Clock,
    generator: np.random.Generator,
) -> dict[str, NDArray[np.float64]]:
    """Times of every model on the whole panel, [repeats, comments], a block of comments after the other."""
    names = list(ask)
    times = {name: np.empty((repeats[name], len(comments))) for name in names}
    for block in generator.permutation(len(comments)).reshape(-1, BLOCK):
        asked = [comments[row] for row in block.tolist()]
        for index in generator.permutation(len(names)):
            name = names[index]
            times[name][:, block] = _turn(ask[name], asked, repeats[name], now)
    return times


def _turn(answer: Answer, comments: Sequence[str], repeats: int, now: Clock) -> NDArray[np.float64]:
    """Milliseconds of single requests, [repeats, comments], after one that reloads the caches."""
    times = np.empty((repeats, len(comments)))
    asked = [[comment] for comment in comments]
    answer(asked[-1])
    for repeat in range(repeats):
        for row, comment in enumerate(asked):
            times[repeat, row] = _elapsed(answer, comment, now)
    return times / MILLISECOND


def _elapsed(answer: Answer, comment: Sequence[str], now: Clock) -> int:
    """Nanoseconds of a request, which is made again where the clock stood still, as that of a virtual machine may."""
    for _ in range(MOST_REPEATS):
        begin = now()
        answer(comment)
        elapsed = now() - begin
        if elapsed > 0:
            return elapsed
    raise RuntimeError(f"the clock stood still during {MOST_REPEATS} requests; measure on a machine whose clock runs")


def _repeats(turn_ms: NDArray[np.float64]) -> int:
    """How often a model answers a comment in its turn, so that one of microseconds is timed for long enough."""
    return min(max(math.floor(TURNS_MS / (float(turn_ms.min(axis=0).mean()) * PANEL)), 1), MOST_REPEATS)
