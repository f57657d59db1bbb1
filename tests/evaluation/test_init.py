"""What `evaluation` offers: importable by name, cheap to import, the same objects as in their modules."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import evaluation

NAMED_IN_THE_DESIGN = {
    "CompressionEvaluator",
    "CompressionStageMetrics",
    "compare_stages",
    "compute_tradeoff_score",
    "compute_safe_compression_score",
    "check_safety_thresholds",
    "export_metrics_to_csv",
    "export_metrics_to_json",
    "generate_latex_table",
    "run_full_evaluation",
}


def test_every_name_is_there_and_is_its_modules():
    assert set(evaluation.__all__) >= NAMED_IN_THE_DESIGN
    assert set(evaluation.__all__) <= set(dir(evaluation))
    for name in evaluation.__all__:
        found = getattr(evaluation, name)
        assert found.__name__ == name
        assert getattr(importlib.import_module(found.__module__), name) is found
    assert callable(evaluation.CompressionEvaluator.evaluate_model)


def test_the_type_checker_is_told_of_every_name():
    """It sees only the imports under `TYPE_CHECKING`, never runs them: they must be those that a user gets."""
    blocks = [node for node in ast.parse(Path(evaluation.__file__).read_text()).body if isinstance(node, ast.If)]
    [told] = [block for block in blocks if isinstance(block.test, ast.Name) and block.test.id == "TYPE_CHECKING"]
    homes = {alias.name: line.module for line in told.body for alias in line.names}
    assert homes == {name: getattr(evaluation, name).__module__ for name in evaluation.__all__}


def test_an_unknown_name_is_an_error():
    with pytest.raises(AttributeError, match="module 'evaluation' has no attribute 'front_row'"):
        _ = evaluation.front_row
    with pytest.raises(ImportError, match="front_row"):
        exec("from evaluation import front_row")


@pytest.mark.parametrize(
    ("statement", "heavy"),
    [
        ("import evaluation", "numpy pandas torch ray optuna mlflow matplotlib plotly sklearn pyarrow pydantic"),
        ("from evaluation import classification_metrics, knee", "pandas torch ray optuna mlflow matplotlib plotly"),
        ("from evaluation import run_full_evaluation, within_noise, label_flips", "pandas torch ray matplotlib"),
        ("from evaluation import *", "ray optuna mlflow matplotlib plotly"),
    ],
)
def test_imports_load_only_what_they_need(statement, heavy):
    program = f"{statement}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert set(heavy.split()) & set(done.stdout.split()) == set()
