"""A whole evaluation from arrays against scikit-learn, and the files that it writes."""

import csv
import doctest
import json
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score, recall_score

import evaluation.full_evaluation
from evaluation.full_evaluation import run_full_evaluation
from evaluation.safety import SafetyLimits

NAMES = ["threat", "spam & <script>"]
STAGES = ("teacher", "small", "_50% & #1$")


def noisy(labels, rng, noise):
    return np.clip(0.5 + (labels - 0.5) * 0.6 + rng.normal(0, noise, labels.shape), 0, 1)


@pytest.fixture
def arrays():
    """Labels and probabilities of three models, each noisier than the one before, on 300 and 200 comments."""
    rng = np.random.default_rng(0)
    labels, test_labels = ((rng.random((n, 2)) < 0.4).astype(int) for n in (300, 200))
    probabilities, test_probabilities = (
        {stage: noisy(truth, rng, noise) for stage, noise in zip(STAGES, (0.1, 0.3, 0.6), strict=True)}
        for truth in (labels, test_labels)
    )
    return {
        "labels": labels,
        "probabilities": probabilities,
        "test_labels": test_labels,
        "test_probabilities": test_probabilities,
    }


def best_thresholds(labels, probabilities):
    """By trying all; of equal ones the nearest to 0.5, then the lowest."""
    grid = sorted((t / 20 for t in range(1, 20)), key=lambda t: (round(abs(t - 0.5), 9), t))
    return [max(grid, key=lambda t: f1_score(labels[:, j], probabilities[:, j] >= t)) for j in range(labels.shape[1])]


def test_the_example_of_the_documentation():
    result = doctest.testmod(evaluation.full_evaluation)
    assert result.attempted > 5 and result.failed == 0


def test_metrics_are_sklearns_at_thresholds_of_validation(arrays):
    result = run_full_evaluation(**arrays, label_names=NAMES, critical_label="threat", rounds=200)
    assert list(result.metrics) == list(result.safety) == ["validation", "test"]
    for stage in STAGES:
        thresholds = best_thresholds(arrays["labels"], arrays["probabilities"][stage])
        for split, prefix in (("validation", ""), ("test", "test_")):
            truth = arrays[f"{prefix}labels"]
            predicted = arrays[f"{prefix}probabilities"][stage] >= thresholds
            found = result.metrics[split][stage]
            assert found.stage == stage
            assert list(found.thresholds.values()) == pytest.approx(thresholds)
            assert found.f1_macro == pytest.approx(f1_score(truth, predicted, average="macro"))
            assert found.critical_recall == pytest.approx(recall_score(truth[:, 0], predicted[:, 0]))
            assert (found.model_size_mb, found.latency_mean_ms) == (None, None)
    table = result.comparison.set_index("stage")
    assert table["f1_retention"].iloc[0] == 1.0 and table["f1_retention"].is_monotonic_decreasing
    assert table["test_f1_macro"].tolist() == [result.metrics["test"][stage].f1_macro for stage in STAGES]
    assert table[["size_compression", "speedup", "tradeoff_score"]].isna().all(axis=None)


def test_safety_is_against_the_baseline(arrays):
    result = run_full_evaluation(**arrays, label_names=NAMES, critical_label="threat", rounds=200)
    assert [result.safety["validation"][stage].safety_verdict for stage in STAGES] == ["safe", "unsafe", "unsafe"]
    scores = [result.metrics["test"][stage].critical_f1 for stage in STAGES]
    drops = [result.safety["test"][stage].critical_f1_drop for stage in STAGES]
    assert drops == pytest.approx([scores[0] - score for score in scores])
    other = run_full_evaluation(**arrays, label_names=NAMES, critical_label="threat", baseline="small", rounds=200)
    assert other.comparison["f1_retention"].iloc[1] == 1.0
    assert other.safety["validation"]["teacher"].f1_drop < 0
    lenient = SafetyLimits("threat", max_f1_drop=1, max_critical_f1_drop=1, max_critical_recall_drop=1)
    allowed = run_full_evaluation(
        **arrays, label_names=NAMES, critical_label="threat", limits=lenient, rounds=200, priorities={"threat": 1e308}
    )
    assert set(allowed.comparison["safety_verdict"]) == {"safe"}


def test_one_binary_label_without_test(arrays):
    labels = arrays["labels"][:, :1]
    probabilities = {stage: values[:, :1] for stage, values in arrays["probabilities"].items()}
    result = run_full_evaluation(
        labels, probabilities, ["hate"], "hate", rounds=200, sizes_mb={"teacher": 4, "small": 1}
    )
    assert list(result.metrics) == ["validation"] and "test_f1_macro" not in result.comparison
    found = result.metrics["validation"]["small"]
    predicted = probabilities["small"] >= found.thresholds["hate"]
    assert found.f1_macro == pytest.approx(f1_score(labels[:, 0], predicted[:, 0], average="macro"))
    sizes = result.comparison["size_compression"].tolist()
    assert sizes[:2] == [1.0, 4.0] and np.isnan(sizes[2])


def test_the_files(arrays, tmp_path):
    known = {"sizes_mb": dict(zip(STAGES, (40.0, 8.0, 2.0), strict=True)), "latencies_ms": dict.fromkeys(STAGES, 2.0)}
    result = run_full_evaluation(
        **arrays, **known, label_names=NAMES, critical_label="threat", rounds=200, folder=tmp_path / "new"
    )
    files = {path.name for path in (tmp_path / "new").iterdir()}
    stems = ("teacher", "small", "_50_1_")
    expected = {f"{split}metrics_{stem}.{end}" for split in ("", "test_") for stem in stems for end in ("csv", "json")}
    expected |= {f"{split}safety_{stem}.json" for split in ("", "test_") for stem in stems}
    assert files == expected | {"comparison.csv", "comparison.tex"}
    read = pd.read_csv(tmp_path / "new" / "comparison.csv")
    pd.testing.assert_frame_equal(read, result.comparison, check_dtype=False)
    with (tmp_path / "new" / "test_metrics_small.csv").open(encoding="utf-8") as file:
        [line] = csv.DictReader(file)
    assert float(line["f1_macro"]) == result.metrics["test"]["small"].f1_macro
    assert float(line["per_label_f1.spam & <script>"]) > 0.5
    safety = json.loads((tmp_path / "new" / "safety__50_1_.json").read_text(encoding="utf-8"))
    assert (safety["stage"], safety["split"], safety["safe_for_deployment"]) == (STAGES[2], "validation", False)
    assert safety["reason"].startswith("beyond the limit")


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex here")
def test_the_latex_table_compiles(arrays, tmp_path):
    run_full_evaluation(**arrays, label_names=NAMES, critical_label="threat", rounds=200, folder=tmp_path)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-jobname=table", "comparison.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert (tmp_path / "table.pdf").is_file() and "Warning" not in done.stdout


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": [[1, 0], [0, 2]]}, r"probabilities\['a'\] with labels: labels: value 2"),
        ({"labels": [1, 0]}, r"labels: shape \(2,\) for 2 label names"),
        ({"probabilities": {"a": [[0.5, 0.5]]}}, r"probabilities: shape \(1, 2\) differs from labels \(2, 2\)"),
        ({"probabilities": {"a": [[0.5, 0.5], [0.5, 1.5]]}}, r"probabilities\['a'\] with labels: .*such as 1\.5"),
        ({"probabilities": {"a": [[0.5, 0.5], [0.5, np.nan]]}}, "such as nan"),
        ({"probabilities": {"a": [["x", "y"], ["z", "w"]]}}, r"probabilities\['a'\] .*could not convert"),
        ({"probabilities": {}}, "probabilities: no stage"),
        ({"critical_label": "thread"}, r"critical_label='thread': no such label"),
        ({"limits": SafetyLimits("spam")}, "critical_label='threat': limits have 'spam'"),
        ({"priorities": {"thread": 2.0}}, r"priorities\.thread: no such label"),
        ({"baseline": "b"}, "baseline='b': no such stage"),
        ({"sizes_mb": {"b": 1.0}}, r"sizes_mb\['b'\]: no such stage"),
        ({"latencies_ms": {"a": 0.0}}, r"latencies_ms\['a'\]=0.0: give a finite number above 0"),
        ({"test_labels": [[1, 0]]}, "one without the other"),
        ({"test_labels": [[1, 0]], "test_probabilities": {"b": [[0.5, 0.5]]}}, "test_probabilities: of b"),
        ({"test_labels": [[1, 3]], "test_probabilities": {"a": [[0.5, 0.5]]}}, "with test_labels: labels: value 3"),
    ],
)
def test_bad_input_is_named(change, message):
    arguments = {
        "labels": [[1, 0], [0, 1]],
        "probabilities": {"a": [[0.9, 0.1], [0.1, 0.9]]},
        "label_names": ["threat", "spam"],
        "critical_label": "threat",
    } | change
    with pytest.raises(ValueError, match=message):
        run_full_evaluation(**arguments)
