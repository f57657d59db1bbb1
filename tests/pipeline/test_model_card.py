"""The card, rendered by a Markdown parser where there is one to hand, and its figures against scikit-learn."""

import html
import re

import numpy as np
import pytest
import yaml
from markdown_it import MarkdownIt
from sklearn.metrics import f1_score, precision_score, recall_score

from pipeline.card_text import markdown, table, teacher_text
from pipeline.deployed import Decisions
from pipeline.model_card import Answered, Card, model_card
from pipeline.runtime import Deployment

NASTY = "a|b <script>alert(1)</script> `x` *y* _z_ [l](u) \n# t"
LABELS = ("bully", NASTY, "threat")
RENDER = MarkdownIt("commonmark").enable("table")
KEY = "c0ffee" * 10 + "0123"


def answered(seed, comments=300):
    rng = np.random.default_rng(seed)
    labels = (rng.random((comments, 3)) < 0.3).astype(np.int8)
    return Answered(labels, np.where(rng.random(labels.shape) < 0.15, 1 - labels, labels).astype(np.int8))


def card(**changes):
    row = {
        "model_key": KEY,
        "stage": "after_quantization",
        "safety_verdict": "safe",
        "test_safety_verdict": "inconclusive",
        "quantize.method": "int8_dynamic",
        "quantize.block_size": None,
        "model_size_mb": 2.0,
        "num_parameters": 1_234_567,
        "latency_mean_ms": 0.25,
        "speedup_factor": 33.3,
        "speedup_low": 30.0,
        "speedup_high": 36.0,
        "machine": "a machine",
        "critical_recall_drop": 0.0123,
        "critical_recall_drop_upper": 0.0288,
        "test_critical_recall_drop": 0.0199,
        "test_critical_recall_drop_upper": 0.0456,
        **changes.pop("row", {}),
    }
    facts = {
        "study": NASTY,
        "row": row,
        "why": "the smallest of 3 models",
        "decisions": Decisions(LABELS, (0.5, 0.25, 0.4), "threat"),
        "deployment": Deployment("onnxruntime", LABELS, ("model.onnx",), max_tokens=96, batch_invariant=False),
        "answered": {"validation": answered(0), "test": answered(1)},
        "limits": {"f1_drop": 0.05, "critical_f1_drop": 0.03, "critical_recall_drop": 0.03},
        "confidence": 0.95,
        "data": {"source": NASTY, "rows_used": 1500, "duplicate_rows": 7, "splits": {"test": {"texts": 300}}},
        "fingerprint": "f" * 64,
        "bases": {"e5-small-bn": "mit"},
        "teacher": NASTY,
        "environment": {"onnxruntime": "1.2"},
        "requirements": ("onnxruntime>=1",),
        "sources": ("predict.py", "onnx_encoder.py"),
        "no_huggingface": "a quantized model exists for ONNX Runtime alone",
    }
    return model_card(Card(**{**facts, **changes}))


def cells(page, section, row):
    """Cells of the first table row of a section whose first cell holds these words."""
    part = page.split(f"<h2>{section}</h2>")[1]
    rows = [re.findall(r"<t[dh]>(.*?)</t[dh]>", one, re.DOTALL) for one in re.findall(r"<tr>.*?</tr>", part, re.DOTALL)]
    return next(found for found in rows if row in found[0])


def rendered(text):
    """Front matter, and the HTML of the rest."""
    _, matter, body = text.split("---\n", 2)
    return yaml.safe_load(matter), RENDER.render(body)


def test_text_of_users_is_text_in_the_page():
    matter, page = rendered(card())
    plain = " ".join(NASTY.split())
    assert matter["license"] == "mit" and matter["pipeline_tag"] == "text-classification"
    assert "<script" not in page and "<em>" not in page and 'href="u"' not in page
    assert html.unescape(re.search(r"<h1>(.*?)</h1>", page)[1]) == f"{plain}: model c0ffeec0"
    threshold = cells(page, "Use", "a|b")
    assert html.unescape(threshold[0]) == plain and threshold[1] == "0.25"
    assert len(cells(page, "Quality", "a|b")) == 5


@pytest.mark.parametrize(
    "text", ["| a | b |", "<b>", "`code`", "a\nb", "1. x", "\\|", "&lt;", "![x](y)", "$x$", "~~a~~"]
)
def test_any_text_in_a_cell_comes_back_as_it_was(text):
    page = RENDER.render("\n".join(table(["name"], [[markdown(text)], ["next"]])))
    first, second = re.findall(r"<td>(.*?)</td>", page, re.DOTALL)
    assert html.unescape(first) == " ".join(text.split()) and second == "next"


def test_figures_are_scikit_learn_s():
    _, page = rendered(card())
    test = page.split("<strong>Test</strong>")[1]
    found = answered(1)
    assert f"macro F1 {f1_score(found.labels, found.decisions, average='macro'):.4f} [" in test
    for index, name in ((0, "bully"), (2, "threat")):
        row = re.search(rf"<td>{name}</td>\s*<td>(\d+)</td>\s*<td>(.*?)</td>\s*<td>(.*?)</td>\s*<td>(.*?)</td>", test)
        actual, said = found.labels[:, index], found.decisions[:, index]
        assert int(row[1]) == actual.sum()
        assert float(row[2].split(" [")[0]) == pytest.approx(precision_score(actual, said), abs=6e-5)
        assert float(row[3].split(" [")[0]) == pytest.approx(recall_score(actual, said), abs=6e-5)
        assert float(row[4]) == pytest.approx(f1_score(actual, said), abs=6e-5)
    missed = int((found.labels[:, 2] > found.decisions[:, 2]).sum())
    assert f"Of {found.labels[:, 2].sum()} test comments with the label threat it missed {missed}." in page


def test_safety_cost_and_origin_are_told():
    text = card()
    assert "- validation: safe: with 95 % confidence no loss" in text and "- test: inconclusive" in text
    assert "| critical recall drop | 0.03 | +0.0123, at most 0.0288 | +0.0199, at most 0.0456 |" in text
    assert "| macro F1 drop | 0.05 | not measured | not measured |" in text
    assert "| times the teacher's speed | 33.3 [30, 36] |" in text and "1,234,567" in text
    assert "| size of the weights, tokenizer left out | " in text
    assert "| size of the weights | " in card(deployment=Deployment("ngram", LABELS, ("bag.safetensors",)))
    assert f"`{'f' * 64}`" in text and "1,500 different ones" in text and "e5-small-bn: licence mit" in text
    assert "| `quantize.method` | int8\\_dynamic |" in text and "quantize.block" not in text
    assert "answered alone" in text and "first 96 tokens" in text and "no Hugging Face form: a quantized" in text
    assert "Warning" not in text


def test_warnings_stand_first_and_unknown_is_said():
    text = card(row={"safety_verdict": "inconclusive", "test_safety_verdict": "unsafe"}, bases={"x": "unknown"})
    head = text.split("## Use")[0]
    assert "> **Warning: the model is inconclusive on validation.**" in head
    assert "> **Warning: the model is unsafe on test.**" in head
    assert "license: unknown" in text and "neither its README.md nor its config.json names one" in text
    assert "were generated" in card(data={"synthetic": True}).split("## Use")[0]
    nothing = card(bases={}, row={"test_safety_verdict": None}, no_huggingface=None, pooling="mean")
    assert "trained from nothing" in nothing and "- test: not judged" in nothing and "mean pooling" in nothing


def test_a_label_without_positives_is_undefined():
    none = np.zeros((20, 3), dtype=np.int8)
    text = card(answered={"validation": Answered(none, none), "test": Answered(none, none)})
    assert "| threat | 0 | undefined | undefined | undefined |" in text


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, "e5, fine-tuned"),
        (
            {"ensemble": ["folds", "classical"]},
            "e5, fine-tuned; it teaches together with its folds and the classical floor",
        ),
        ({"generations": 1}, "e5, fine-tuned, then born again: trained once more on what it says"),
        (
            {"generations": 2, "ensemble": ["classical"]},
            "e5, fine-tuned, then born again: trained 2 times more on what it and the classical floor say together",
        ),
    ],
)
def test_a_card_says_how_its_teacher_came_about(settings, expected):
    assert teacher_text("e5", settings) == expected
    assert f"compared with: {expected}." in card(teacher=teacher_text("e5", settings))
    assert teacher_text("scratch", {}) == "an encoder trained from nothing"
