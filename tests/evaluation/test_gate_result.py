"""The verdict check by check: it adds up to the verdict of `check_safety_thresholds`, and to JSON without NaN."""

import io
import json

import numpy as np
import pytest
from rich.console import Console

from evaluation.gate_result import gate
from evaluation.safety import SafetyLimits, check_safety_thresholds

NAMES = ("[bold]হুমকি", "spam")


def answers(comments, missed, seed=0):
    """Labels [n, 2], a perfect baseline, and a candidate that misses some positives of the first label."""
    labels = (np.random.default_rng(seed).random((comments, 2)) < 0.5).astype(np.int8)
    candidate = labels.copy()
    candidate[np.flatnonzero(labels[:, 0])[:missed], 0] = 0
    return labels, labels.copy(), candidate


@pytest.mark.parametrize(("comments", "missed"), [(2000, 0), (2000, 30), (2000, 400), (60, 0), (60, 1)])
def test_the_verdict_is_the_worst_of_the_checks(comments, missed):
    labels, baseline, candidate = answers(comments, missed)
    limits = SafetyLimits(NAMES[0])
    result = gate(labels, baseline, candidate, NAMES, limits, rounds=500)
    assert result.safety == check_safety_thresholds(labels, baseline, candidate, NAMES, limits, rounds=500)
    order = ["safe", "inconclusive", "unsafe"]
    assert max((check.verdict for check in result.checks), key=order.index) == result.safety.safety_verdict
    positives = int(labels[:, 0].sum())
    assert result.critical_positives == positives
    recall = result.checks[2]
    assert (recall.baseline, recall.candidate) == (1.0, pytest.approx(1 - missed / positives))
    assert recall.drop == pytest.approx(missed / positives)


def test_what_cannot_be_computed_is_named_in_table_and_json():
    labels = np.array([[0, 1], [0, 0]], dtype=np.int8)
    result = gate(labels, labels, labels, NAMES, SafetyLimits(NAMES[0]), rounds=100)
    assert [check.verdict for check in result.checks] == ["inconclusive", "not computed", "not computed"]
    told = json.loads(json.dumps(result.as_json(), allow_nan=False))
    assert told["verdict"] == "inconclusive" and told["checks"][1]["upper"] is None
    console = Console(width=120, file=io.StringIO())
    console.print(result.as_table())
    assert "[bold]হুমকি" in console.file.getvalue(), "labels are no markup"
