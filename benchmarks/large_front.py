"""How long the front of many rows takes, and whether it is the one that the definition gives.

    python benchmarks/large_front.py [--rows N] [--json FILE]

Three objectives: independent ones (a small front), trade-offs beside noise, and a sphere, where every row is on the
front. Of each kind, samples of 2,000 rows are compared with all pairs.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from evaluation.front import FloatArray, non_dominated

SAMPLES, SAMPLE_ROWS = 5, 2_000


def main() -> None:
    """Print a row for each kind of table."""
    arguments = parsed()
    figures = [measured(kind, arguments.rows) for kind in ("independent", "trade-off", "sphere")]
    table = Table("objectives", "rows", "on the front", "seconds", "equal to all pairs")
    for one in figures:
        equal = f"{one['equal_samples']} of {SAMPLES} samples"
        table.add_row(one["kind"], f"{one['rows']:,}", f"{one['front']:,}", f"{one['seconds']:.2f}", equal)
    Console().print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1), encoding="utf-8")


def measured(kind: str, rows: int) -> dict[str, Any]:
    """Seconds of the whole table, and samples of it compared."""
    rng = np.random.default_rng(0)
    losses = losses_of(kind, rows, rng)
    began = time.perf_counter()
    front = int(non_dominated(losses).sum())
    seconds = time.perf_counter() - began
    samples = [losses[rng.integers(rows, size=SAMPLE_ROWS)] for _ in range(SAMPLES)]
    equal = sum(bool((non_dominated(sample) == by_all_pairs(sample)).all()) for sample in samples)
    return {"kind": kind, "rows": rows, "front": front, "seconds": seconds, "equal_samples": equal}


def losses_of(kind: str, rows: int, rng: np.random.Generator) -> FloatArray:
    """[rows, 3] of this kind."""
    if kind == "independent":
        return rng.random((rows, 3))
    sphere = -np.abs(rng.normal(size=(rows, 3)))
    sphere /= np.linalg.norm(sphere, axis=1, keepdims=True)
    return sphere + rng.exponential(0.01, (rows, 1)) if kind == "trade-off" else sphere


def by_all_pairs(losses: FloatArray) -> np.ndarray:
    """Which rows [n] none dominates, from the definition."""
    return np.array([not ((losses <= row).all(axis=1) & (losses < row).any(axis=1)).any() for row in losses])


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    return parser.parse_args()


if __name__ == "__main__":
    main()
