"""Measuring models and judging what was measured: metrics, safety, trade-off scores, the front, and their report."""

from evaluation.front import front_rows, hypervolume, knee, non_dominated
from evaluation.metrics import classification_metrics
from evaluation.safety import SafetyLimits, SafetyResult, check_safety_thresholds
from evaluation.stage_metrics import CompressionStageMetrics
from evaluation.tradeoff import compute_safe_compression_score, compute_tradeoff_score

__all__ = [
    "CompressionStageMetrics",
    "SafetyLimits",
    "SafetyResult",
    "check_safety_thresholds",
    "classification_metrics",
    "compute_safe_compression_score",
    "compute_tradeoff_score",
    "front_rows",
    "hypervolume",
    "knee",
    "non_dominated",
]
