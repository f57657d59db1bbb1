"""Metrics of one model or several as CSV and JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from evaluation.escape import write_csv, write_json


class FlatMetrics(Protocol):
    """Metrics that know their columns, as `CompressionStageMetrics` does."""

    def to_flat_dict(self) -> Mapping[str, Any]: ...


Metrics = Mapping[str, Any] | FlatMetrics


def export_metrics_to_csv(metrics: Metrics | Sequence[Metrics], path: Path) -> None:
    """One CSV line per model, columns in order of appearance; null is empty, text that starts a formula is defused."""
    rows = _flat_rows(metrics)
    write_csv(path, list(dict.fromkeys(name for row in rows for name in row)), rows)


def export_metrics_to_json(metrics: Metrics | Sequence[Metrics], path: Path) -> None:
    """One JSON object for one model, a list of them for several; null for what is not defined, matrices as lists."""
    rows = [{name: _parsed(name, value) for name, value in row.items()} for row in _flat_rows(metrics)]
    write_json(path, rows if isinstance(metrics, Sequence) else rows[0])


def _flat_rows(metrics: Metrics | Sequence[Metrics]) -> list[Mapping[str, Any]]:
    several = metrics if isinstance(metrics, Sequence) else [metrics]
    return [item if isinstance(item, Mapping) else item.to_flat_dict() for item in several]


def _parsed(name: str, value: Any) -> Any:
    return json.loads(value) if name.startswith("confusion_matrices.") and isinstance(value, str) else value
