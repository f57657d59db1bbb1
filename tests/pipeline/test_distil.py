"""The student end to end: where it starts, what it learns from, what it leaves behind."""

import numpy as np
import pytest
from safetensors.numpy import load_file

from pipeline.config import DistilConfig
from pipeline.distil import distil
from pipeline.models import keep_layers, load_model
from pipeline.runtime import EagerClassifier, load_classifier
from pipeline.tokens import load_tokens
from pipeline.training import predict_logits


@pytest.fixture(scope="module")
def run_distil(tiny_store, tiny_data, tiny_teacher):
    def run(**settings):
        return tiny_store.run(distil, DistilConfig(method="logit", **settings), tiny_data, tiny_teacher)

    return run


def distance(model_folder, teacher, name="train"):
    """Mean squared difference from the teacher's stored logits."""
    taught = np.load(teacher.path / f"logits_{name}.npy", allow_pickle=False)
    return float(np.square(predict_logits(load_model(model_folder), load_tokens(teacher.path, name)) - taught).mean())


def test_the_student_starts_as_the_teachers_layers(run_distil, tiny_teacher):
    untouched = run_distil(layers=1, epochs=1, learning_rate=1e-30)
    student, part = load_model(untouched.path), keep_layers(load_model(tiny_teacher.path), 1)
    assert student.config.num_hidden_layers == 1
    for (name, ours), (_, theirs) in zip(student.named_parameters(), part.named_parameters(), strict=True):
        np.testing.assert_allclose(ours.detach().numpy(), theirs.detach().numpy(), atol=1e-12, err_msg=name)


def test_the_soft_loss_brings_the_student_to_the_teacher(run_distil, tiny_teacher):
    untouched = run_distil(layers=1, epochs=1, learning_rate=1e-30)
    taught = run_distil(layers=1, epochs=4, learning_rate=2e-3, alpha=1.0)
    assert distance(taught.path, tiny_teacher) < 0.5 * distance(untouched.path, tiny_teacher)
    assert distance(taught.path, tiny_teacher, "validation") < distance(untouched.path, tiny_teacher, "validation")


def test_the_history_tells_the_weighted_losses(run_distil):
    history = run_distil(layers=1, epochs=2, alpha=0.7, temperature=3.0).notes["history"]
    assert [entry["epoch"] for entry in history] == [1, 2]
    for entry in history:
        assert entry["total_loss"] == pytest.approx(0.7 * entry["soft_loss"] + 0.3 * entry["hard_loss"], rel=1e-5)


def test_the_student_is_deployed_with_its_parents_tokenizer(run_distil, tiny_teacher, tiny_comments):
    student = run_distil(layers=1, epochs=1)
    names = {path.name for path in student.path.iterdir()}
    assert names == {
        "tokenizer.json",
        "model.safetensors",
        "config.json",
        "classifier.json",
        "model.onnx",
        "deploy.json",
        "manifest.json",
    }
    assert (student.path / "tokenizer.json").read_bytes() == (tiny_teacher.path / "tokenizer.json").read_bytes()
    assert student.parent_key == tiny_teacher.key
    assert (student.path / "model.onnx").stat().st_size < (tiny_teacher.path / "model.onnx").stat().st_size
    texts = tiny_comments.test.texts
    deployed, eager = load_classifier(student.path), EagerClassifier(student.path)
    np.testing.assert_allclose(deployed.predict_logits(texts), eager.predict_logits(texts), atol=1e-4)


def test_the_same_settings_give_the_same_student(run_distil, tiny_data, tiny_teacher, tmp_path):
    settings = {"layers": 1, "epochs": 1, "batch_size": 48}
    student = run_distil(**settings)
    distil(DistilConfig(method="logit", **settings), tmp_path, tiny_data, tiny_teacher)
    ours, again = load_file(student.path / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    assert all(np.array_equal(ours[name], again[name]) for name in ours)


def test_more_layers_than_the_teacher_has_is_an_error_that_is_not_stored(run_distil, tiny_store):
    before = set(tiny_store.root.rglob("manifest.json"))
    with pytest.raises(ValueError, match=r"distil\.layers=3: the teacher has 2 layers"):
        run_distil(layers=3)
    assert set(tiny_store.root.rglob("manifest.json")) == before
