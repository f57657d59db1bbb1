"""How long a caller waits: text in, probabilities out, baseline and candidate in turns.

Absolute times drift with the machine's mood; the ratio of two requests on the same comment in the same moment hardly
does. So a few comments are answered by one model, the same ones at once by the next, and the speed-up is the median of
the ratios, comment by comment. A few and not one, since a model in production has the processor's caches for itself: a
model of microseconds that follows one of 20 MB in every request would be timed loading its own code again.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from time import perf_counter, perf_counter_ns

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from scipy.stats import binom

from pipeline.runtime import Classifier, sigmoid

WARM_UP, BATCH, BLOCK = 10, 32, 10
MILLISECOND = 1e6
Answer = Callable[[Sequence[str]], object]


@contextmanager
def node_slot() -> Iterator[None]:
    """Held while measuring: one measurement at a time per machine, across studies too; freed if the holder dies."""
    with FileLock(Path(tempfile.gettempdir()) / f"pareto-latency-{os.getuid()}.lock"):
        yield


@cache
def machine() -> str:
    """Processor and cores: what a latency figure is bound to."""
    model = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
    return f"{model}, {os.cpu_count()} cores"


def answers(classifier: Classifier) -> Answer:
    """From texts to probabilities, as a caller would ask."""
    return lambda texts: sigmoid(classifier.predict_logits(texts, BATCH))


def measure_latency(
    models: dict[str, Classifier], texts: Sequence[str], *, seconds: float, requests: int, seed: int
) -> dict[str, NDArray[np.float64]]:
    """Single requests in rounds: the same few comments are answered by every model in turn, in an order that changes.

    Args:
        models: by name; all of them are in every round.
        texts: real comments, drawn at random with replacement, `BLOCK` for each round.
        seconds: shortest time that the rounds take together.
        requests: fewest requests to each model.
        seed: of the draw and the orders.

    Returns:
        For each model its times in milliseconds, [requests]; the same index is the same comment.
    """
    generator = np.random.default_rng(seed)
    ask = {name: answers(model) for name, model in models.items()}
    names = list(models)
    for text in generator.choice(len(texts), size=WARM_UP):
        for name in names:
            ask[name]([texts[text]])
    times: dict[str, list[int]] = {name: [] for name in names}
    started = perf_counter()
    while perf_counter() - started < seconds or len(times[names[0]]) < requests:
        comments = [[texts[row]] for row in generator.choice(len(texts), size=BLOCK)]
        for index in generator.permutation(len(names)):
            name = names[index]
            answer, measured = ask[name], times[name]
            for comment in comments:
                begin = perf_counter_ns()
                answer(comment)
                measured.append(perf_counter_ns() - begin)
    return {name: np.array(values) / MILLISECOND for name, values in times.items()}


def throughput(model: Classifier, texts: Sequence[str], seconds: float, seed: int) -> float:
    """Comments per second in batches of 32 real comments."""
    generator = np.random.default_rng(seed)
    ask = answers(model)
    ask(list(texts[:BATCH]))
    answered, started = 0, perf_counter()
    while (elapsed := perf_counter() - started) < seconds:
        ask([texts[i] for i in generator.choice(len(texts), size=BATCH)])
        answered += BATCH
    return answered / elapsed


def paired_speedup(
    baseline_ms: NDArray[np.float64], candidate_ms: NDArray[np.float64], confidence: float = 0.95
) -> tuple[float, float, float]:
    """Median ratio baseline / candidate over neighbouring requests, with its interval.

    The interval is the distribution-free one of a median: the order statistics whose ranks a binomial(n, 1/2) leaves
    out with probability 1 - confidence (Conover 1999, Practical Nonparametric Statistics, section 3.2).

    Args:
        baseline_ms: [rounds].
        candidate_ms: [rounds], of the same comments.
        confidence: of the two-sided interval.

    Returns:
        Median, lower and upper bound.
    """
    ratios = np.sort(np.log(baseline_ms) - np.log(candidate_ms))
    rank = max(int(binom.ppf((1.0 - confidence) / 2.0, len(ratios), 0.5)), 1)
    values = np.exp([np.median(ratios), ratios[rank - 1], ratios[len(ratios) - rank]])
    return float(values[0]), float(values[1]), float(values[2])


def summarise(times_ms: NDArray[np.float64]) -> dict[str, float]:
    """Mean and percentiles of single requests, in milliseconds."""
    p50, p95, p99 = np.percentile(times_ms, [50, 95, 99])
    return {
        "latency_mean_ms": float(times_ms.mean()),
        "latency_p50_ms": float(p50),
        "latency_p95_ms": float(p95),
        "latency_p99_ms": float(p99),
    }


def peak_memory_mb(folder: Path, texts: Sequence[str], threads: int) -> float:
    """Peak resident set of a fresh process that loads the model and answers `texts`, above the size before it, MiB."""
    program = Path(__file__).with_name("memory_probe.py")
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(program), str(folder), str(threads)],
        input="\0".join(texts),
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])},
    )
    if done.returncode:
        raise RuntimeError(f"peak memory of {folder} could not be measured: {done.stderr.strip()[-500:]}")
    return float(done.stdout.split()[-1])
