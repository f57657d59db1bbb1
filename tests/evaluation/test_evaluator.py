"""A tiny real chain, measured: every field, against scikit-learn and against what the deployed folder answers."""

import dataclasses
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from filelock import FileLock
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, hamming_loss, recall_score, roc_auc_score

from evaluation.environment import machine
from evaluation.evaluator import CompressionEvaluator
from evaluation.measuring import LatencyConfig, measure_speed
from evaluation.records import SPEED, read_records, write_records
from evaluation.safety import SafetyLimits
from evaluation.shape import TIMING, shape_of
from evaluation.stage_metrics import SCALAR_FIELDS, CompressionStageMetrics
from pipeline.cache import artifact_key
from pipeline.config import PruneConfig
from pipeline.runtime import EagerClassifier, load_classifier
from pipeline.stages import prune

STAGES = {
    "tiny_teacher": "baseline",
    "tiny_pruned": "after_pruning",
    "tiny_int8": "after_quantization",
    "tiny_classical": "classical",
}
ABSENT = {
    "tiny_int8": {"num_trainable_params"},
    "tiny_classical": {"num_trainable_params", "prunable_sparsity_percent"},
}


@pytest.fixture(scope="module")
def evaluator(tiny_store, tiny_data, tiny_teacher):
    return CompressionEvaluator(
        store=tiny_store,
        data=tiny_data,
        teacher=tiny_teacher,
        limits=SafetyLimits("threat"),
        priorities={"threat": 3.0},
        latency=LatencyConfig(seconds=0.2, requests=40),
        bootstrap_rounds=500,
    )


@pytest.fixture(scope="module")
def measured(evaluator, request):
    return {
        fixture: evaluator.evaluate_model(request.getfixturevalue(fixture), stage) for fixture, stage in STAGES.items()
    }


def probabilities_of(artifact, texts):
    """What a caller gets who asks for one comment at a time."""
    classifier = load_classifier(artifact.path)
    logits = np.concatenate([classifier.predict_logits([text]) for text in texts]).astype(np.float64)
    return 1 / (1 + np.exp(-logits))


def tuned(labels, probabilities):
    """The threshold of best F1 of each label, on a grid of 0.05, by trying all."""
    chosen = []
    for truth, column in zip(labels.T, probabilities.T, strict=True):
        scores = [(f1_score(truth, column >= t / 20, zero_division=0), -abs(t - 10), -t) for t in range(1, 20)]
        chosen.append((1 + scores.index(max(scores))) / 20)
    return np.array(chosen)


@pytest.mark.parametrize("fixture", STAGES)
def test_every_field_is_filled(measured, fixture):
    metrics = measured[fixture]
    empty = {field.name for field in dataclasses.fields(metrics) if getattr(metrics, field.name) is None}
    assert empty == ABSENT.get(fixture, set())
    assert metrics.stage == STAGES[fixture]
    assert timedelta(0) <= datetime.now(UTC) - datetime.fromisoformat(metrics.timestamp) < timedelta(minutes=10)
    assert 0 < metrics.latency_p50_ms <= metrics.latency_p95_ms <= metrics.latency_p99_ms < 1000
    assert 0 < metrics.speedup_low <= metrics.speedup_factor <= metrics.speedup_high
    assert metrics.throughput_samples_per_sec > 0 and metrics.speedup_vs_eager > 0
    assert CompressionStageMetrics.from_flat_dict(metrics.to_flat_dict()) == metrics


def test_the_teacher_is_the_measure_of_itself(measured, evaluator, tiny_teacher):
    metrics = measured["tiny_teacher"]
    assert (metrics.speedup_factor, metrics.speedup_low, metrics.speedup_high) == (1.0, 1.0, 1.0)
    assert metrics.size_compression_ratio == 1.0
    for split in ("validation", "test"):
        result = evaluator.safety(tiny_teacher, split)
        assert result.safety_verdict == "safe" and result.safe_for_deployment
        assert (result.f1_drop, result.critical_f1_drop, result.critical_recall_drop_upper) == (0.0, 0.0, 0.0)
    scores = evaluator.scores(metrics.f1_macro, metrics.critical_f1, 1.0, 1.0)
    assert scores == pytest.approx({"tradeoff_score": 0.5 + 0.3 / 10 + 0.2 / 5, "safe_compression_score": 1.0})


def test_the_deployed_runtime_is_faster_than_eager_pytorch(measured):
    # ONNX Runtime needs a fifth of eager's time for so small a model: the two columns cannot have been mixed up.
    teacher = measured["tiny_teacher"].speedup_vs_eager
    assert teacher > 1.5
    for metrics in measured.values():
        assert metrics.speedup_vs_eager == pytest.approx(metrics.speedup_factor * teacher)


def test_int8_is_smaller_in_the_ratio_of_the_files(measured, tiny_teacher, tiny_int8):
    files = [artifact.path / "model.onnx" for artifact in (tiny_teacher, tiny_int8)]
    ratio = files[0].stat().st_size / files[1].stat().st_size
    assert measured["tiny_int8"].size_compression_ratio == pytest.approx(ratio) and ratio > 1.3
    assert measured["tiny_pruned"].prunable_sparsity_percent == 50.0


@pytest.mark.parametrize("split", ["validation", "test"])
@pytest.mark.parametrize("fixture", STAGES)
def test_classification_is_scikit_learns_on_what_the_folder_answers(request, evaluator, tiny_comments, fixture, split):
    artifact = request.getfixturevalue(fixture)
    validation, asked = tiny_comments.validation, getattr(tiny_comments, split)
    thresholds = tuned(validation.labels, probabilities_of(artifact, validation.texts))
    probabilities = probabilities_of(artifact, asked.texts)
    truth, predicted = asked.labels, probabilities >= thresholds
    found = evaluator.classification(artifact, split)
    assert list(found["thresholds"].values()) == pytest.approx(thresholds.tolist()), "tuned on validation for any split"
    expected = {
        "f1_macro": f1_score(truth, predicted, average="macro", zero_division=0),
        "f1_micro": f1_score(truth, predicted, average="micro", zero_division=0),
        "f1_weighted": f1_score(truth, predicted, average="weighted", zero_division=0),
        "accuracy_exact": accuracy_score(truth, predicted),
        "hamming": hamming_loss(truth, predicted),
        "roc_auc": roc_auc_score(truth, probabilities, average="macro"),
        "critical_f1": f1_score(truth[:, 2], predicted[:, 2], zero_division=0),
        "critical_recall": recall_score(truth[:, 2], predicted[:, 2], zero_division=0),
        "priority_weighted_f1": np.average(
            f1_score(truth, predicted, average=None, zero_division=0), weights=[1, 1, 3]
        ),
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    for i, label in enumerate(("bully", "sexual", "threat")):
        assert found["confusion_matrices"][label] == confusion_matrix(truth[:, i], predicted[:, i]).tolist()


def test_the_metrics_are_those_of_validation(measured, evaluator, tiny_int8):
    fields = evaluator.classification(tiny_int8, "validation")
    del fields["undefined"]
    found = {name: getattr(measured["tiny_int8"], name) for name in fields}
    assert found == fields
    assert evaluator.classification(tiny_int8, "test")["roc_auc"] != fields["roc_auc"]
    flat = evaluator.quality(tiny_int8, "validation")
    assert flat["f1_macro"] == fields["f1_macro"] and flat["thresholds.threat"] == fields["thresholds"]["threat"]
    assert "model_size_mb" not in flat and "stage" not in flat


def test_probabilities_are_those_of_the_eager_model_too(evaluator, tiny_teacher, tiny_comments):
    logits = EagerClassifier(tiny_teacher.path).predict_logits(tiny_comments.test.texts).astype(np.float64)
    found = evaluator.probabilities(tiny_teacher, "test")
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-logits)), atol=1e-4)


def test_safety_compares_both_models_at_their_own_thresholds(request, evaluator, tiny_teacher, tiny_comments):
    for fixture in ("tiny_pruned", "tiny_classical"):
        candidate = request.getfixturevalue(fixture)
        for split in ("validation", "test"):
            truth = getattr(tiny_comments, split).labels
            predictions = []
            for artifact in (tiny_teacher, candidate):
                thresholds = tuned(
                    tiny_comments.validation.labels, probabilities_of(artifact, tiny_comments.validation.texts)
                )
                predictions.append(probabilities_of(artifact, getattr(tiny_comments, split).texts) >= thresholds)
            macro = [f1_score(truth, predicted, average="macro", zero_division=0) for predicted in predictions]
            recall = [recall_score(truth[:, 2], predicted[:, 2], zero_division=0) for predicted in predictions]
            result = evaluator.safety(candidate, split)
            assert result.f1_drop == pytest.approx(macro[0] - macro[1])
            assert result.critical_recall_drop == pytest.approx(recall[0] - recall[1])
            assert result.safety_verdict != "safe", "some 20 positives cannot show that no 3 % are lost"


def test_scores_follow_the_formula(measured, evaluator):
    teacher, compact = measured["tiny_teacher"], measured["tiny_int8"]
    scores = evaluator.scores(compact.f1_macro, compact.critical_f1, 4.0, 20.0)
    assert scores["tradeoff_score"] == pytest.approx(0.5 * compact.f1_macro / teacher.f1_macro + 0.3 * 0.4 + 0.2)
    retention = compact.critical_f1 / teacher.critical_f1
    assert scores["safe_compression_score"] == pytest.approx(4.0 * retention**2)


def test_a_model_is_measured_once_a_session(measured, evaluator, tiny_pruned):
    before = {path for path in evaluator.store.root.glob("latency/*")}
    again = evaluator.evaluate_model(tiny_pruned, "after_pruning")
    assert dataclasses.replace(again, timestamp=measured["tiny_pruned"].timestamp) == measured["tiny_pruned"]
    assert {path for path in evaluator.store.root.glob("latency/*")} == before
    quiet = evaluator.speed(tiny_pruned, "quiet")
    assert quiet["latency_mean_ms"] != again.latency_mean_ms and quiet.keys() == evaluator.speed(tiny_pruned).keys()
    assert len(list(evaluator.store.root.glob("latency/*"))) == len(before) + 2, "the model, and the teacher before it"


def test_of_models_of_one_shape_one_is_timed_in_the_search_and_each_in_the_quiet_session(
    measured, evaluator, tiny_store, tiny_data, tiny_teacher, tiny_pruned
):
    config = PruneConfig(method="wanda", learning_rate=2e-3)
    alike = tiny_store.run(prune, config, tiny_data, tiny_pruned, tiny_teacher)
    known, before = evaluator.speed(tiny_pruned), set(evaluator.store.root.glob("latency/*"))
    assert evaluator.speed(alike) == known and set(evaluator.store.root.glob("latency/*")) == before
    assert known["timed_model"] != tiny_teacher.key == evaluator.speed(tiny_teacher)["timed_model"]
    quiet = evaluator.speed(alike, "quiet")
    assert quiet["timed_model"] == alike.key and quiet["latency_mean_ms"] != known["latency_mean_ms"]


def test_who_does_not_wait_is_told_which_timing_it_lacks(evaluator, tiny_store, tiny_data, tiny_teacher, tiny_pruned):
    evaluator = dataclasses.replace(evaluator, latency=LatencyConfig(seconds=0.11, requests=20))  # not timed so far
    protocol = evaluator.latency.model_copy(update={"machine": machine(1), "session": "search"})
    key = artifact_key(measure_speed, protocol, [shape_of(tiny_pruned.path), tiny_teacher.key], tiny_data.key)
    with FileLock(tiny_store.root / ".locks" / f"{key}.lock"):  # as the process has that times another of the shape
        lacking = evaluator.speed(tiny_pruned, wait=False)
        assert lacking == {TIMING: key}
        metrics = evaluator.evaluate_model(tiny_pruned, "after_pruning", lacking)
        assert metrics.speedup_factor is None and metrics.latency_mean_ms is None and metrics.f1_macro is not None
    timed = evaluator.speed(tiny_pruned, wait=False)
    assert set(timed) == {*SPEED, TIMING} and timed[TIMING] == key
    assert evaluator.speed(tiny_pruned) == {name: timed[name] for name in SPEED}


def test_figures_are_bound_to_the_machine(measured, evaluator, tiny_int8, tmp_path):
    about = {name: value for name, value in evaluator.speed(tiny_int8).items() if name not in SCALAR_FIELDS}
    assert about.keys() == {"machine", "timed_model", "rounds_repeated", "waited_percent"}
    assert about["machine"] == machine(1) and 0 <= about["waited_percent"] < 100
    assert isinstance(about["rounds_repeated"], int) and about["rounds_repeated"] >= 0
    rows = [{"stage": "after_quantization", "status": "ok", **measured["tiny_int8"].to_flat_dict(), **about}]
    write_records(rows, tmp_path / "trials.parquet")
    stored = read_records(tmp_path / "trials.parquet").iloc[0]
    assert stored["machine"] == machine(1) and stored["rounds_repeated"] == about["rounds_repeated"]


def test_another_machine_or_number_of_threads_is_another_measurement():
    settings = [{"machine": machine(1)}, {"machine": machine(4)}, {"machine": "another"}]
    keys = {artifact_key(measure_speed, LatencyConfig(**each), ["model", "teacher"], "data") for each in settings}
    assert len(keys) == 3


@pytest.mark.parametrize(
    ("session", "seconds", "wait"),
    [("search", 1.0, 8.0), ("search", 30.0, 8.0), ("search", 0.25, 2.0), ("quiet", 1.0, 20.0), ("quiet", 0.05, 1.0)],
)
def test_a_short_measurement_does_not_wait_long_for_the_machine(session, seconds, wait):
    assert LatencyConfig(session=session, seconds=seconds).longest_wait == pytest.approx(wait)
