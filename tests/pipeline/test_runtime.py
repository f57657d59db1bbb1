"""The one way to run a model: ONNX Runtime, eager PyTorch and the batches between agree."""

import numpy as np
import pytest

from pipeline.exported.onnx_encoder import OnnxEncoder
from pipeline.runtime import Deployment, EagerClassifier, OnnxClassifier, load_classifier, load_deployment, sigmoid


def test_onnx_and_eager_answer_alike_in_any_batch_and_order(tiny_teacher, tiny_comments):
    texts = [*tiny_comments.validation.texts[:60], "", "z" * 300, " ".join(["নদী"] * 200)]
    eager, deployed = EagerClassifier(tiny_teacher.path), OnnxClassifier(tiny_teacher.path)
    expected = np.concatenate([eager.predict_logits([text]) for text in texts])
    assert expected.shape == (63, 3)
    for classifier in (eager, deployed):
        for batch_size in (1, 7, 64):
            np.testing.assert_allclose(classifier.predict_logits(texts, batch_size), expected, atol=1e-4)
    order = np.random.default_rng(0).permutation(len(texts))
    shuffled = deployed.predict_logits([texts[i] for i in order])
    np.testing.assert_allclose(shuffled, expected[order], atol=1e-4)


def test_a_comment_longer_than_the_model_is_cut_there(tiny_teacher):
    deployed = OnnxClassifier(tiny_teacher.path)
    long, longer = " ".join(["নদী"] * 60), " ".join(["নদী"] * 90)
    np.testing.assert_array_equal(deployed.predict_logits([long]), deployed.predict_logits([longer]))


def test_int8_is_asked_to_be_exact_on_every_cpu(tiny_int8):
    """Pairs of products overflow on x64 without VNNI otherwise: the same model would answer otherwise there."""
    for session in (OnnxClassifier(tiny_int8.path).session, OnnxEncoder(tiny_int8.path).session):
        assert session.get_session_options().get_session_config_entry("session.x64quantprecision") == "1"


def test_sigmoid_is_exact_and_never_overflows():
    logits = np.array([[-1e30, -700.0, -2.0, 0.0, 3.0, 800.0]], dtype=np.float32)
    expected = [[0.0, 0.0, 1 / (1 + np.exp(2.0)), 0.5, 1 / (1 + np.exp(-3.0)), 1.0]]
    np.testing.assert_allclose(sigmoid(logits), expected, atol=1e-15)
    assert sigmoid(logits).dtype == np.float64


def test_a_deployment_survives_its_file(tmp_path):
    deployment = Deployment("onnxruntime", ("হুমকি", "b"), ("model.onnx",), 96, 1, batch_invariant=False)
    deployment.save(tmp_path)
    assert load_deployment(tmp_path) == deployment


@pytest.mark.parametrize("fixture", ["tiny_teacher", "tiny_pruned", "tiny_half", "tiny_int8", "tiny_classical"])
def test_load_classifier_runs_every_kind_of_model(request, fixture, tiny_comments):
    classifier = load_classifier(request.getfixturevalue(fixture).path, threads=2)
    logits = classifier.predict_logits(tiny_comments.test.texts[:5])
    assert logits.shape == (5, 3) and logits.dtype == np.float32 and np.isfinite(logits).all()
