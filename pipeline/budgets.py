"""What a model may cost its user."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pipeline.model_rows import Row, number


@dataclass(frozen=True)
class Budgets:
    """What a model may cost at most; None for no limit."""

    max_size_mb: float | None = None
    max_latency_ms: float | None = None
    """Of one comment, text in, probabilities out, on the machine of the study."""
    min_speedup: float | None = None
    """Times the teacher's speed."""

    def excess(self, row: Row) -> float:
        """The worst ratio of cost to budget: 1 or less is within all of them; infinite where a figure is unknown."""
        ratios = [0.0]
        for column, limit in (("model_size_mb", self.max_size_mb), ("latency_mean_ms", self.max_latency_ms)):
            if limit is not None:
                ratios.append(_ratio(number(row, column), limit))
        if self.min_speedup is not None:
            ratios.append(_ratio(self.min_speedup, number(row, "speedup_factor") or 0.0))
        return max(ratios)

    def __str__(self) -> str:
        limits = (
            ("at most {:g} MB", self.max_size_mb),
            ("at most {:g} ms", self.max_latency_ms),
            ("at least {:g} times the teacher's speed", self.min_speedup),
        )
        return ", ".join(text.format(limit) for text, limit in limits if limit is not None)


def _ratio(cost: float | None, budget: float) -> float:
    return math.inf if cost is None or budget <= 0 else cost / budget
