"""Classification metrics against scikit-learn."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from evaluation.metrics import classification_metrics
from evaluation.stage_metrics import CompressionStageMetrics
from pipeline.thresholds import f1_macro

NAMES = ["bully", "sexual", "religious", "threat", "spam"]


@st.composite
def problems(draw):
    """Labels [n, L], probabilities with ties, thresholds [L]; empty and full labels, none and all predicted occur."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, label_count = draw(st.integers(1, 40)), draw(st.integers(1, 5))
    rates = rng.choice([0.0, 0.2, 0.6, 1.0], size=label_count)
    labels = (rng.random((n, label_count)) < rates).astype(int)
    probabilities = np.round(rng.random((n, label_count)), 1)
    return labels, probabilities, rng.choice([0.0, 0.3, 0.5, 1.0], size=label_count)


def corner(labels, predictions):
    """A problem with these labels and, at the threshold 0.5, these predictions."""
    labels, predictions = np.array(labels), np.array(predictions)
    return labels, np.where(predictions == 1, 0.7, 0.2), np.full(labels.shape[1], 0.5)


CORNERS = {
    "one label, all predicted": corner([[1], [0], [1]], [[1], [1], [1]]),
    "one label, none predicted": corner([[1], [0], [1]], [[0], [0], [0]]),
    "one label, no positives": corner([[0], [0], [0]], [[1], [0], [0]]),
    "one label, no positives, none predicted": corner([[0], [0]], [[0], [0]]),
    "one label, only positives, all predicted": corner([[1], [1]], [[1], [1]]),
    "many labels, all predicted": corner([[1, 0, 0], [0, 1, 0]], [[1, 1, 1], [1, 1, 1]]),
    "many labels, none predicted": corner([[1, 0, 0], [0, 1, 0]], [[0, 0, 0], [0, 0, 0]]),
    "a label without positives": corner([[1, 0], [0, 0], [1, 0]], [[1, 1], [0, 0], [0, 0]]),
    "a label without positives and predictions": corner([[1, 0], [0, 0]], [[1, 0], [1, 0]]),
    "no label has a positive, none predicted": corner([[0, 0], [0, 0]], [[0, 0], [0, 0]]),
    "one comment": corner([[1, 0, 1, 0, 1]], [[1, 1, 0, 0, 1]]),
}


def with_corners(test):
    """The test of random problems, run on each corner case as well."""
    for problem in CORNERS.values():
        test = example(problem)(test)
    return test


def both_classes(labels, predictions):
    """What scikit-learn is given: indicators [n, L], or for one label the class numbers [n]."""
    return (labels[:, 0], predictions[:, 0]) if labels.shape[1] == 1 else (labels, predictions)


@settings(max_examples=40, deadline=None)
@given(problems())
@with_corners
def test_averages_are_sklearns(problem):
    labels, probabilities, thresholds = problem
    predictions = (probabilities >= thresholds).astype(int)
    names = NAMES[: labels.shape[1]]
    result = classification_metrics(labels, probabilities, thresholds, names, names[0])
    actual, predicted = both_classes(labels, predictions)
    options = {"zero_division": 0}
    if labels.shape[1] == 1:
        options["labels"] = [0, 1]
    for average in ("macro", "weighted", "micro"):
        assert result[f"f1_{average}"] == pytest.approx(sk.f1_score(actual, predicted, average=average, **options))
    expected = sk.precision_score(actual, predicted, average="macro", **options)
    assert result["precision_macro"] == pytest.approx(expected)
    assert result["recall_macro"] == pytest.approx(sk.recall_score(actual, predicted, average="macro", **options))
    assert result["f1_macro"] == pytest.approx(f1_macro(labels, predictions))
    assert result["accuracy_exact"] == pytest.approx(sk.accuracy_score(actual, predicted))
    assert result["hamming"] == pytest.approx(sk.hamming_loss(actual, predicted))
    assert result["accuracy_per_label"] == pytest.approx(1 - result["hamming"])


@settings(max_examples=40, deadline=None)
@given(problems())
@with_corners
def test_labels_are_sklearns_or_undefined_with_a_reason(problem):
    labels, probabilities, thresholds = problem
    predictions = (probabilities >= thresholds).astype(int)
    names = NAMES[: labels.shape[1]]
    result = classification_metrics(labels, probabilities, thresholds, names, names[-1])
    areas, undefined = [], set()
    for i, name in enumerate(names):
        y, p = labels[:, i], predictions[:, i]
        assert result["confusion_matrices"][name] == sk.confusion_matrix(y, p, labels=[0, 1]).tolist()
        assert result["per_label_accuracy"][name] == pytest.approx((y == p).mean())
        assert result["thresholds"][name] == thresholds[i]
        for field, score, defined in (
            ("per_label_f1", sk.f1_score, y.any()),
            ("per_label_recall", sk.recall_score, y.any()),
            ("per_label_precision", sk.precision_score, p.any()),
        ):
            assert result[field][name] == (pytest.approx(score(y, p, zero_division=0)) if defined else None)
            if not defined:
                undefined.add(f"{field}.{name}")
        if 0 < y.sum() < len(y):
            areas.append(sk.roc_auc_score(y, probabilities[:, i]))
    assert result["roc_auc"] == (pytest.approx(np.mean(areas)) if areas else None)
    assert result["critical_f1"] == result["per_label_f1"][names[-1]]
    assert result["critical_recall"] == result["per_label_recall"][names[-1]]
    undefined |= {field for field in ("roc_auc", "critical_f1", "critical_recall") if result[field] is None}
    assert set(result["undefined"]) == undefined


def test_priorities_are_normalised_and_default_to_one():
    labels, probabilities = np.array([[1, 1], [0, 1], [1, 0]]), np.array([[0.9, 0.1], [0.1, 0.9], [0.9, 0.1]])

    def weighted(priorities):
        return classification_metrics(labels, probabilities, 0.5, ["a", "b"], "a", priorities)["priority_weighted_f1"]

    assert weighted(None) == pytest.approx((1 + 2 / 3) / 2)
    assert weighted({"a": 3}) == pytest.approx((3 * 1 + 2 / 3) / 4)
    assert weighted({"a": 0, "b": 7}) == pytest.approx(2 / 3)


@settings(max_examples=60, deadline=None)
@given(problems(), st.data())
def test_any_priorities_give_sklearns_f1s_averaged_by_them(problem, data):
    labels, probabilities, thresholds = problem
    names = NAMES[: labels.shape[1]]
    weight = st.floats(0, 1e6).map(lambda value: round(value, 3))
    priorities = data.draw(st.dictionaries(st.sampled_from(names), weight))
    weights = [priorities.get(name, 1.0) for name in names]
    if sum(weights) == 0:
        return
    result = classification_metrics(labels, probabilities, thresholds, names, names[0], priorities)
    each = [sk.f1_score(labels[:, i], probabilities[:, i] >= thresholds[i], zero_division=0) for i in range(len(names))]
    assert result["priority_weighted_f1"] == pytest.approx(np.average(each, weights=weights))


@pytest.mark.parametrize("weight", [1e308, 5e-324])
def test_priorities_of_any_size(weight):
    labels, probabilities = np.array([[1, 1], [0, 1]]), np.array([[0.9, 0.1], [0.1, 0.9]])
    priorities = {"a": weight, "b": weight}
    result = classification_metrics(labels, probabilities, 0.5, ["a", "b"], "a", priorities)
    assert result["priority_weighted_f1"] == pytest.approx((1 + 2 / 3) / 2)


def test_types_of_arrays_do_not_matter():
    labels, probabilities = np.array([[1, 0], [0, 1], [1, 1]]), np.array([[0.75, 0.5], [0.25, 0.5], [0.5, 0.0]])
    expected = classification_metrics(labels, probabilities, 0.5, ["a", "b"], "a")
    for kind in (bool, np.int8, np.float32):
        for other in (np.float16, np.float32):
            found = classification_metrics(labels.astype(kind), probabilities.astype(other), 0.5, ["a", "b"], "a")
            assert found == expected


def test_the_fields_are_those_of_the_stage_metrics():
    result = classification_metrics(np.array([[1], [0]]), np.array([[0.9], [0.2]]), 0.5, ["hate"], "hate")
    reasons = result.pop("undefined")
    stage = CompressionStageMetrics(stage="baseline", **result)
    assert reasons == {}
    assert (stage.f1_macro, stage.critical_f1, stage.roc_auc) == (1.0, 1.0, 1.0)
    assert stage.confusion_matrices == {"hate": [[1, 0], [0, 1]]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": np.array([[2, 0]])}, "labels: value 2"),
        ({"labels": np.array([[1, -1]])}, "labels: value -1"),
        ({"labels": np.array([[1, np.nan]])}, "labels: value nan"),
        ({"labels": np.array([[1, 0, 1]])}, "labels: shape"),
        ({"labels": np.array([1, 0])}, r"labels: shape \(2,\)"),
        ({"labels": np.array([[1, 0], [0, 1]])}, r"probabilities: shape \(1, 2\) differs from labels \(2, 2\)"),
        ({"probabilities": np.array([[0.5, -0.1]])}, r"such as -0\.1"),
        ({"probabilities": np.array([[0.5, np.inf]])}, "such as inf"),
        ({"labels": np.zeros((0, 2)), "probabilities": np.zeros((0, 2))}, "non-empty"),
        ({"probabilities": np.array([[0.5, np.nan]])}, "such as nan"),
        ({"probabilities": np.array([[0.5, 1.5]])}, r"such as 1\.5"),
        ({"probabilities": np.array([[0.5]])}, "probabilities: shape"),
        ({"thresholds": [0.5, 0.5, 0.5]}, "thresholds: shape"),
        ({"thresholds": [0.5, np.nan]}, "thresholds="),
        ({"label_names": ["a", "a"]}, "occurs twice"),
        ({"critical_label": "c"}, "critical_label='c'"),
        ({"priorities": {"c": 1.0}}, r"priorities\.c"),
        ({"priorities": {"a": 0.0, "b": 0.0}}, "not all 0"),
        ({"priorities": {"a": -1.0}}, "weights must be"),
        ({"priorities": {"a": np.nan}}, "weights must be"),
        ({"priorities": {"a": np.inf}}, "weights must be"),
    ],
)
def test_bad_input_is_named(change, message):
    arguments = {
        "labels": np.array([[1, 0]]),
        "probabilities": np.array([[0.5, 0.5]]),
        "thresholds": 0.5,
        "label_names": ["a", "b"],
        "critical_label": "a",
    } | change
    with pytest.raises(ValueError, match=message):
        classification_metrics(**arguments)
