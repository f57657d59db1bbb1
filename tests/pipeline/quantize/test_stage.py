"""Every format made by the stage from the same pruned model: size, answers, what the folder says of itself."""

import json
import logging

import numpy as np
import pytest
import torch

from pipeline.artifact import Artifact
from pipeline.config import QuantizeConfig
from pipeline.models import load_model
from pipeline.onnx_model import stored_weights
from pipeline.runtime import load_classifier, load_deployment
from pipeline.stages import quantize

FORMATS = {
    "fp16": {"method": "fp16"},
    "dynamic": {"method": "int8_dynamic"},
    "dynamic by column": {"method": "int8_dynamic", "per_channel": True},
    "minmax": {"method": "int8_static"},
    "minmax by column": {"method": "int8_static", "per_channel": True},
    "entropy": {"method": "int8_static", "calibration": "entropy"},
    "percentile": {"method": "int8_static", "calibration": "percentile", "calibration_rows": 64},
    "qat": {"method": "int8_qat", "learning_rate": 1e-6},
    "int4": {"method": "int4", "block_size": 32},
}
LIMITS = {"fp16": 0.005, "entropy": 0.5, "int4": 1.0}
"""Largest difference of a logit; 0.3 where nothing is said."""


@pytest.mark.parametrize("form", FORMATS)
def test_quantized_folders_answer_nearly_as_before(quantized, tiny_pruned, tiny_comments, form):
    artifact = quantized(**FORMATS[form])
    texts = tiny_comments.validation.texts
    before = load_classifier(tiny_pruned.path).predict_logits(texts, 1)
    after = load_classifier(artifact.path).predict_logits(texts, 1)
    assert before.shape == after.shape == (len(texts), 3)
    assert 0 < np.abs(after - before).max() < LIMITS.get(form, 0.3)
    assert np.corrcoef(before.ravel(), after.ravel())[0, 1] > 0.98
    assert (artifact.path / "tokenizer.json").read_bytes() == (tiny_pruned.path / "tokenizer.json").read_bytes()
    assert load_deployment(artifact.path).labels == ("bully", "sexual", "threat")
    assert {file.name for file in artifact.path.iterdir()} <= {
        "model.onnx",
        "tokenizer.json",
        "deploy.json",
        "manifest.json",
    }


@pytest.mark.parametrize("form", FORMATS)
def test_every_weight_is_counted_once_and_pruned_ones_are_zero(quantized, tiny_pruned, form):
    model = load_model(tiny_pruned.path)
    weights = list(stored_weights(quantized(**FORMATS[form]).path / "model.onnx"))
    assert sum(weight.values.size for weight in weights) == sum(weight.numel() for weight in model.parameters())
    inside = [weight.values for weight in weights if weight.in_linear_layer]
    assert sum(values.size for values in inside) == 2 * (4 * 32 * 32 + 2 * 32 * 128)
    assert 0.5 <= np.mean(np.concatenate([values.ravel() for values in inside]) == 0) < 0.75


@pytest.mark.parametrize("form", FORMATS)
def test_a_folder_says_whether_a_comments_answer_depends_on_its_batch(quantized, tiny_comments, form):
    artifact = quantized(**FORMATS[form])
    texts = tiny_comments.validation.texts
    classifier = load_classifier(artifact.path)
    alone, together = classifier.predict_logits(texts, 1), classifier.predict_logits(texts, 64)
    difference = np.abs(alone - together)
    assert load_deployment(artifact.path).batch_invariant == ("dynamic" not in form)
    if "dynamic" in form:
        assert difference.max() > 1e-3
    else:
        # An activation at the edge of two steps may fall to either side with the order of a sum, in a comment or two.
        assert np.median(difference) < 1e-6 and np.quantile(difference, 0.95) < 1e-4


def test_smaller_formats_are_smaller_files(quantized, tiny_pruned):
    sizes = {name: (quantized(**s).path / "model.onnx").stat().st_size for name, s in FORMATS.items()}
    full = (tiny_pruned.path / "model.onnx").stat().st_size
    assert full > sizes["fp16"] > sizes["dynamic"] > sizes["int4"]
    assert sizes["fp16"] < 0.65 * full and sizes["minmax"] < 0.5 * full


def test_the_same_seed_gives_the_same_bytes_and_another_other_rows(tmp_path, tiny_data, tiny_pruned, tiny_teacher):
    def written(name, **settings):
        folder = tmp_path / name
        folder.mkdir()
        torch.manual_seed(len(name))
        quantize(QuantizeConfig(**settings), folder, tiny_data, tiny_pruned, tiny_teacher)
        return (folder / "model.onnx").read_bytes()

    for method in ("int8_static", "int8_qat"):
        settings = {"method": method, "calibration_rows": 16, "learning_rate": 1e-4}
        first = written(f"{method}-a", seed=1, **settings)
        assert first == written(f"{method}-bb", seed=1, **settings)
        assert first != written(f"{method}-ccc", seed=2, **settings)


def test_nothing_is_said_on_any_logger(tmp_path, tiny_data, tiny_pruned, tiny_teacher, caplog, capfd):
    root = logging.getLogger()
    state = root.level, list(root.handlers)
    with caplog.at_level(logging.INFO):
        for number, settings in enumerate(FORMATS.values()):
            (tmp_path / str(number)).mkdir()
            quantize(QuantizeConfig(**settings), tmp_path / str(number), tiny_data, tiny_pruned, tiny_teacher)
    assert caplog.records == []
    assert capfd.readouterr() == ("", "")
    assert (root.level, list(root.handlers)) == state


@pytest.mark.parametrize("method", ["int8_static", "int8_qat"])
def test_an_ngram_model_has_no_activations_to_scale(tmp_path, tiny_data, tiny_teacher, method):
    facts = {"runtime": "ngram", "labels": ["bully"], "weight_files": ["bag.safetensors"]}
    (tmp_path / "deploy.json").write_text(json.dumps(facts), encoding="utf-8")
    bag = Artifact("0" * 64, "distil", tmp_path, {})
    target = tmp_path / "target"
    target.mkdir()
    with pytest.raises(ValueError, match=rf"quantize.method='{method}'.*activations.*use fp16, int8_dynamic or int4"):
        quantize(QuantizeConfig(method=method), target, tiny_data, bag, tiny_teacher)
    assert list(target.iterdir()) == []


def test_none_has_nothing_to_write(tmp_path, tiny_data, tiny_pruned, tiny_teacher):
    with pytest.raises(ValueError, match="deploy the parent"):
        quantize(QuantizeConfig(), tmp_path, tiny_data, tiny_pruned, tiny_teacher)


def test_an_impossible_block_size_leaves_nothing_behind(tmp_path, tiny_data, tiny_pruned, tiny_teacher):
    with pytest.raises(ValueError, match="quantize.block_size=64"):
        quantize(QuantizeConfig(method="int4", block_size=64), tmp_path, tiny_data, tiny_pruned, tiny_teacher)
    assert list(tmp_path.iterdir()) == []


def test_the_root_folder_of_a_missing_file_is_named(tmp_path, tiny_data, tiny_pruned, tiny_teacher):
    missing = Artifact("0" * 64, "prune", tmp_path / "absent", {})
    with pytest.raises(FileNotFoundError, match="absent"):
        quantize(QuantizeConfig(method="fp16"), tmp_path, tiny_data, missing, tiny_teacher)
