"""Measuring models and judging what was measured: metrics, safety, trade-off scores, the front, and their report.

Everything named here works without Ray, and all but `CompressionEvaluator` on arrays and tables of any model. A name is
looked up when it is used, so that `import evaluation` costs nothing and pandas or torch are loaded only where needed.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evaluation.comparison import compare_stages
    from evaluation.evaluator import CompressionEvaluator
    from evaluation.flips import count_flips, label_flips
    from evaluation.front import front_rows, hypervolume, non_dominated
    from evaluation.full_evaluation import FullEvaluation, run_full_evaluation
    from evaluation.metric_files import export_metrics_to_csv, export_metrics_to_json
    from evaluation.metrics import classification_metrics
    from evaluation.noise import macro_f1_draws, within_noise
    from evaluation.safety import SafetyLimits, SafetyResult, check_safety_thresholds
    from evaluation.selection import winners_curse
    from evaluation.stage_metrics import CompressionStageMetrics
    from evaluation.tables import generate_latex_table
    from evaluation.tradeoff import compute_safe_compression_score, compute_tradeoff_score
    from pipeline.choice import knee

__all__ = [
    "CompressionEvaluator",
    "CompressionStageMetrics",
    "FullEvaluation",
    "SafetyLimits",
    "SafetyResult",
    "check_safety_thresholds",
    "classification_metrics",
    "compare_stages",
    "compute_safe_compression_score",
    "compute_tradeoff_score",
    "count_flips",
    "export_metrics_to_csv",
    "export_metrics_to_json",
    "front_rows",
    "generate_latex_table",
    "hypervolume",
    "knee",
    "label_flips",
    "macro_f1_draws",
    "non_dominated",
    "run_full_evaluation",
    "winners_curse",
    "within_noise",
]

_MODULES = {
    "comparison": ("compare_stages",),
    "evaluator": ("CompressionEvaluator",),
    "flips": ("count_flips", "label_flips"),
    "front": ("front_rows", "hypervolume", "knee", "non_dominated"),
    "full_evaluation": ("FullEvaluation", "run_full_evaluation"),
    "metric_files": ("export_metrics_to_csv", "export_metrics_to_json"),
    "metrics": ("classification_metrics",),
    "noise": ("macro_f1_draws", "within_noise"),
    "safety": ("SafetyLimits", "SafetyResult", "check_safety_thresholds"),
    "selection": ("winners_curse",),
    "stage_metrics": ("CompressionStageMetrics",),
    "tables": ("generate_latex_table",),
    "tradeoff": ("compute_safe_compression_score", "compute_tradeoff_score"),
}
_HOME = {name: f"evaluation.{module}" for module, names in _MODULES.items() for name in names}

# Hidden from the type checker, which would otherwise take every name for one of this package.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name not in _HOME:
            raise AttributeError(f"module 'evaluation' has no attribute {name!r}")
        return getattr(import_module(_HOME[name]), name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
