"""One model judged against another on the same comments: the verdict of each check, as a table and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from evaluation.metrics import classification_metrics
from evaluation.safety import ROUNDING, SafetyLimits, SafetyResult, check_safety_thresholds

if TYPE_CHECKING:
    from rich.table import Table

METRICS: Final = {"f1": "f1_macro", "critical_f1": "critical_f1", "critical_recall": "critical_recall"}
"""The checks, and the metric that each compares; `SafetyLimits` has `max_<check>_drop`."""
CheckVerdict: TypeAlias = Literal["safe", "inconclusive", "unsafe", "not computed"]


@dataclass(frozen=True)
class Check:
    """One metric of both models and what the candidate loses; None where it is not defined."""

    name: str
    """`f1` (macro), `critical_f1` or `critical_recall`."""
    baseline: float | None
    candidate: float | None
    drop: float | None
    """Baseline less candidate, absolute."""
    upper: float | None
    """One-sided upper bound of the drop."""
    limit: float
    verdict: CheckVerdict


@dataclass(frozen=True)
class GateResult:
    """The verdict, with what it rests on."""

    safety: SafetyResult
    checks: tuple[Check, ...]
    limits: SafetyLimits
    comments: int
    critical_positives: int

    @property
    def why(self) -> str:
        """The verdict and its reason in one line."""
        safety = self.safety
        needed = safety.positives_needed
        more = f"; {needed:,} critical positives would decide" if needed is not None else ""
        return f"{safety.safety_verdict}: {safety.reason}{more}"

    def as_table(self) -> Table:
        """Both models, what is lost, and what may be."""
        from rich.box import SIMPLE_HEAD
        from rich.markup import escape
        from rich.table import Table

        critical = escape(repr(self.limits.critical_label))
        titles = {"f1": "macro F1", "critical_f1": f"F1 of {critical}", "critical_recall": f"recall of {critical}"}
        table = Table(box=SIMPLE_HEAD, pad_edge=False)
        table.add_column("check", overflow="fold")
        for title in ("baseline", "model", "drop", "at most", "limit"):
            table.add_column(title, justify="right", no_wrap=True)
        table.add_column("verdict", no_wrap=True)
        for check in self.checks:
            values = (check.baseline, check.candidate, check.drop, check.upper)
            table.add_row(titles[check.name], *map(_shown, values), f"{check.limit:g}", check.verdict)
        return table

    def as_json(self) -> dict[str, Any]:
        """The same as plain JSON types, undefined values as null."""
        return {
            "verdict": self.safety.safety_verdict,
            "safe_for_deployment": self.safety.safe_for_deployment,
            "reason": self.safety.reason,
            "positives_needed": self.safety.positives_needed,
            "critical_label": self.limits.critical_label,
            "confidence": self.limits.confidence,
            "comments": self.comments,
            "critical_positives": self.critical_positives,
            "checks": [asdict(check) for check in self.checks],
        }


def gate(
    labels: npt.NDArray[Any],
    baseline_predictions: npt.NDArray[Any],
    candidate_predictions: npt.NDArray[Any],
    label_names: Sequence[str],
    limits: SafetyLimits,
    rounds: int = 10_000,
) -> GateResult:
    """Judge the candidate against the baseline on the same comments, check by check.

    Args:
        labels: 0/1, shape [n, L], n at least 1.
        baseline_predictions: 0/1, shape [n, L].
        candidate_predictions: 0/1, shape [n, L].
        label_names: L names, in the order of the columns.
        limits: what may be lost, and the critical label.
        rounds: of the bootstrap, at least 100.

    Raises:
        ValueError: as `check_safety_thresholds` does.
    """
    safety = check_safety_thresholds(
        labels, baseline_predictions, candidate_predictions, label_names, limits, rounds=rounds
    )
    critical = limits.critical_label
    baseline, candidate = (
        classification_metrics(labels, np.asarray(predictions, dtype=np.float64), 0.5, label_names, critical)
        for predictions in (baseline_predictions, candidate_predictions)
    )
    checks = tuple(
        _check(name, baseline[metric], candidate[metric], safety, getattr(limits, f"max_{name}_drop"))
        for name, metric in METRICS.items()
    )
    positives = int(labels[:, list(label_names).index(critical)].sum())
    return GateResult(safety, checks, limits, len(labels), positives)


def _check(name: str, baseline: float | None, candidate: float | None, safety: SafetyResult, limit: float) -> Check:
    drop, upper = getattr(safety, f"{name}_drop"), getattr(safety, f"{name}_drop_upper")
    if drop is None or upper is None:
        return Check(name, baseline, candidate, drop, upper, limit, "not computed")
    verdict: CheckVerdict = (
        "unsafe" if drop > limit + ROUNDING else "safe" if upper <= limit + ROUNDING else "inconclusive"
    )
    return Check(name, baseline, candidate, drop, upper, limit, verdict)


def _shown(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"
