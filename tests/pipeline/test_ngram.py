"""n-gram hashing against plain Python, and the NumPy classifier against the torch model and exact arithmetic."""

import json
import subprocess
import sys
from zlib import crc32

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from pipeline.config import DistilConfig, QuantizeConfig
from pipeline.ngram import HASHING, WEIGHTS, Hashing, NgramClassifier, quantize_ngram
from pipeline.ngram_student import NgramBag
from pipeline.runtime import load_classifier, load_deployment

TEXTS = st.text(st.characters(codec="utf-8"), max_size=30)
TEXT = "তুই একটা 😀 Fool! তোকে দেখে নেব"
CONFIG = DistilConfig(
    method="logit", student="ngram", buckets=512, dimension=8, hidden_width=6, ngram_epochs=6, alpha=0.7
)


def rows_in_python(text, hashing):
    """The definition, one n-gram at a time, in Python's own integers."""
    text = f" {text.lower()} "
    codes = [ord(character) * 0x85EBCA6B % 2**32 for character in text]

    def polynomial(values):
        total = 0
        for value in values:
            total = (total * 0x9E3779B1 + value) % 2**32
        return total

    hashes = []
    for length in range(hashing.smallest, hashing.longest + 1):
        hashes += [polynomial(codes[i : i + length]) for i in range(len(codes) - length + 1)]
    words = [crc32(word) for word in text.encode("utf-8").split()]
    for length in range(1, hashing.words + 1):
        hashes += [polynomial(words[i : i + length]) for i in range(len(words) - length + 1)]
    mixed = [(value ^ value >> 15) * 0x85EBCA6B % 2**32 for value in hashes]
    return sorted(value >> 32 - (hashing.buckets.bit_length() - 1) for value in mixed)


@settings(max_examples=150, deadline=None)
@given(TEXTS, st.integers(1, 4), st.integers(0, 3), st.integers(0, 3), st.integers(8, 20))
def test_hashing_is_its_definition(text, smallest, more, words, bits):
    hashing = Hashing(2**bits, smallest, smallest + more, words)
    rows = hashing(text)
    expected = rows_in_python(text, hashing)
    assert sorted(rows.tolist()) == expected or (not expected and len(rows) == len(text) + 2)
    assert rows.max() < 2**bits


def test_hashing_is_the_same_in_every_process_and_on_every_platform():
    """The numbers are part of the file format: a stored table is useless to a hash that gives others."""
    expected = [203, 219, 248, 210, 48, 2, 218, 122, 183, 145, 242]
    hashing = Hashing(256, 2, 3, 1)
    assert hashing("ab খ").tolist() == expected
    program = "from pipeline.ngram import Hashing; print(Hashing(256, 2, 3, 1)('ab \\u0996').tolist())"
    for seed in ("0", "77"):
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": seed}
        )
        assert json.loads(done.stdout) == expected


@pytest.mark.parametrize("text", ["", " ", "x", "\ud800", "a" * 100_000])
def test_every_text_has_a_row(text):
    rows = Hashing(1024, 3, 5, 0)(text)
    assert len(rows) >= 1 and rows.max() < 1024


def test_tokens_are_the_rows_of_each_text():
    hashing = Hashing(1024, 2, 4, 1)
    tokens = hashing.tokens([TEXT, "", "ok"])
    for i, text in enumerate([TEXT, "", "ok"]):
        assert tokens.ids[tokens.offsets[i] : tokens.offsets[i + 1]].tolist() == hashing(text).tolist()


@pytest.fixture(scope="module")
def student(tiny_store, tiny_data, tiny_teacher):
    from pipeline.stages import distil

    return tiny_store.run(distil, CONFIG, tiny_data, tiny_teacher)


def stored_model(folder):
    model = NgramBag(CONFIG, 3).eval()
    weights = {
        name.replace("table", "table.weight") if name == "table" else name: torch.from_numpy(values)
        for name, values in load_file(folder / WEIGHTS).items()
    }
    model.load_state_dict(weights)
    return model


def test_the_student_learns_and_answers_as_the_torch_model_does(student, tiny_comments):
    history = student.notes["history"]
    assert history[-1]["total_loss"] < 0.9 * history[0]["total_loss"]
    assert max(entry["val_macro_f1"] for entry in history) > 0.35
    classifier = load_classifier(student.path)
    assert isinstance(classifier, NgramClassifier) and load_deployment(student.path).batch_invariant
    texts = tiny_comments.validation.texts
    tokens = classifier.hashing.tokens(texts)
    ids, mask = (torch.from_numpy(part) for part in tokens.pad(np.arange(len(texts)), 0))
    with torch.inference_mode():
        expected = stored_model(student.path)(ids, mask).numpy()
    answered = classifier.predict_logits(texts)
    np.testing.assert_allclose(answered, expected, atol=1e-5)
    alone = np.concatenate([classifier.predict_logits([text]) for text in texts[:20]])
    np.testing.assert_allclose(alone, answered[:20], atol=1e-6)


def test_the_same_seed_gives_the_same_student(student, tiny_data, tiny_teacher, tmp_path):
    from pipeline.stages import distil

    distil(CONFIG, tmp_path, tiny_data, tiny_teacher)
    assert (tmp_path / WEIGHTS).read_bytes() == (student.path / WEIGHTS).read_bytes()


def test_dropout_of_ngrams_changes_training_alone():
    ids, mask = torch.randint(0, 512, (4, 50)), torch.ones(4, 50, dtype=torch.int64)
    model = NgramBag(CONFIG, 3)
    assert not torch.equal(model(ids, mask), model(ids, mask))
    model.eval()
    torch.testing.assert_close(model(ids, mask), model(ids, mask))
    padded = torch.cat([ids, torch.zeros(4, 9, dtype=torch.int64)], 1)
    torch.testing.assert_close(model(padded, torch.cat([mask, torch.zeros_like(padded[:, 50:])], 1)), model(ids, mask))


def dequantized(folder):
    """The table that the stored one stands for, by plain loops."""
    weights = load_file(folder / WEIGHTS)
    table, scale = weights["table"], weights.get("scale")
    if table.dtype == np.uint8:
        values = np.zeros((len(table), 2 * table.shape[1]))
        block = values.shape[1] // scale.shape[1]
        for row in range(len(values)):
            for column in range(values.shape[1]):
                nibble = int(table[row, column // 2]) >> 4 * (column % 2) & 15
                values[row, column] = (nibble - 8) * float(scale[row, column // block])
        return values
    return table.astype(np.float64) * (1.0 if scale is None else scale)


@pytest.mark.parametrize(("method", "block_size"), [("fp16", 0), ("int8_dynamic", 0), ("int4", 4), ("int4", 8)])
def test_quantized_tables_answer_as_their_dequantized_values(student, tiny_comments, method, block_size, tmp_path):
    quantize_ngram(method, block_size, student.path, tmp_path)
    stored, full = load_file(tmp_path / WEIGHTS), load_file(student.path / WEIGHTS)
    values = dequantized(tmp_path)
    step = {"fp16": 2**-10 * np.abs(full["table"]), "int8_dynamic": np.abs(full["table"]).max(0) / 127 / 2}.get(method)
    if step is None:  # blocks: half a step of an eighth of the largest, plus the scale's own rounding, clipped at 7/8
        largest = np.abs(full["table"].reshape(512, -1, block_size)).max(-1).repeat(block_size, axis=1)
        step = largest / 8 * 1.01
    assert (np.abs(values - full["table"]) <= step + 1e-7).all()
    assert json.loads((tmp_path / HASHING).read_text()) == json.loads((student.path / HASHING).read_text())

    hashing = Hashing(**json.loads((tmp_path / HASHING).read_text()))
    texts = tiny_comments.validation.texts[:50]
    bags = np.stack([values[hashing(text)].sum(0) / np.sqrt(len(hashing(text))) for text in texts])
    weights = {name: array.astype(np.float64) for name, array in stored.items()}
    hidden = np.maximum(bags @ weights["hidden.weight"].T + weights["hidden.bias"], 0)
    expected = hidden @ weights["head.weight"].T + weights["head.bias"]
    tolerance = 2e-2 if method == "fp16" else 1e-4
    np.testing.assert_allclose(load_classifier(tmp_path).predict_logits(texts), expected, atol=tolerance)


def test_the_stage_quantizes_a_bag_to_a_quarter_and_an_eighth(student, tiny_store, tiny_data, tiny_teacher):
    from pipeline.stages import quantize

    sizes = {}
    for config in (QuantizeConfig(method="int8_dynamic"), QuantizeConfig(method="int4", block_size=8)):
        artifact = tiny_store.run(quantize, config, tiny_data, student, tiny_teacher)
        sizes[config.method] = load_file(artifact.path / WEIGHTS)["table"].nbytes
    table = load_file(student.path / WEIGHTS)["table"].nbytes
    assert sizes == {"int8_dynamic": table // 4, "int4": table // 8}


def test_what_a_bag_cannot_be_is_refused(student, tmp_path):
    with pytest.raises(ValueError, match=r"quantize\.block_size=3: does not divide distil\.dimension=8"):
        quantize_ngram("int4", 3, student.path, tmp_path)
    with pytest.raises(ValueError, match="int8_static.*fp16, int8_dynamic or int4"):
        quantize_ngram("int8_static", 32, student.path, tmp_path)
