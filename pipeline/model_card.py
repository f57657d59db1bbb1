"""The model card of an exported folder: what the model is, how good, how safe, how fast, and what it is not for."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.card_figures import cost, quality, safety
from pipeline.card_text import markdown, table
from pipeline.chains import describe_chain
from pipeline.deployed import DECISIONS, SUMS, Decisions
from pipeline.intervals import confusion
from pipeline.model_rows import SHOWN_KEY, warnings
from pipeline.runtime import DEPLOY, Deployment

UNKNOWN = "unknown"


@dataclass(frozen=True)
class Answered:
    """What the model decides on a split."""

    labels: NDArray[np.int8]
    """0 or 1, [comments, labels]."""
    decisions: NDArray[np.int8]
    """The same, by the model."""


@dataclass(frozen=True)
class Card:
    """Everything that the card tells."""

    study: str
    row: Mapping[str, Any]
    """Of `trials.parquet`, with `test_*` columns where there are some."""
    why: str
    """Why this model was chosen."""
    decisions: Decisions
    deployment: Deployment
    answered: Mapping[str, Answered]
    """By split."""
    limits: Mapping[str, float]
    """The largest allowed drop by column."""
    confidence: float
    """Of the drops' upper bounds."""
    data: Mapping[str, Any]
    """What preparing the comments reported."""
    fingerprint: str
    """Of the comments: SHA-256, hex."""
    bases: Mapping[str, str]
    """Licence of each model that this one began from, or learnt from, by its name."""
    teacher: str
    """How the teacher came about that all is compared with."""
    environment: Mapping[str, str]
    """Processor and versions of the study's machine."""
    requirements: Sequence[str]
    sources: Sequence[str]
    """Names of the Python files in the folder."""
    no_huggingface: str | None
    """Why there is no `huggingface/`; None where there is."""
    pooling: str | None = None
    """What makes one vector of the tokens'; None for a model that is no transformer."""


def model_card(card: Card) -> str:
    """The card in Markdown, with the front matter of the Hugging Face hub; text of users is escaped."""
    text = "\n".join(
        [
            *_head(card),
            *_use(card),
            *quality(card),
            *safety(card),
            *cost(card),
            *_origin(card),
            *_limits_of_use(card),
            *_files(card),
            "",
        ]
    )
    return re.sub(r"\n{3,}", "\n\n", text)


def _head(card: Card) -> list[str]:
    licences = sorted(set(card.bases.values()))
    licence = licences[0] if len(licences) == 1 else UNKNOWN
    loud = "> **Warning: {}.** Do not deploy it without a review of your own."
    warned = [loud.format(markdown(line)) for line in _warned(card)]
    return [
        "---",
        f"license: {licence}",
        "pipeline_tag: text-classification",
        "tags: [text-classification, pareto-compression]",
        "---",
        "",
        f"# {markdown(card.study)}: model {card.row['model_key'][:SHOWN_KEY]}",
        "",
        *[line for text in warned for line in (text, ">")][:-1],
        *[""] * bool(warned),
        f"{markdown(describe_chain(card.row))}, with {_count(card)}. Why this one: {markdown(card.why)}.",
    ]


def _count(card: Card) -> str:
    count = len(card.decisions.labels)
    return "one label" if count == 1 else f"{count} labels"


def _warned(card: Card) -> list[str]:
    synthetic = ["the comments of the study were generated: the figures say nothing of real ones"]
    return warnings(card.row) + synthetic * bool(card.data.get("synthetic"))


def _use(card: Card) -> list[str]:
    batch = (
        ["", "The model scales its numbers by the batch, so that each comment is answered alone, as it was measured."]
        if not card.deployment.batch_invariant
        else []
    )
    thresholds = zip(card.decisions.labels, card.decisions.thresholds, strict=True)
    return [
        "",
        "## Use",
        "",
        "```",
        "python -m venv venv",
        f"venv/bin/pip install -r requirements.txt   # {', '.join(card.requirements)}",
        "venv/bin/python predict.py comments.txt    # one comment a line; a line of JSON for each",
        f"sha256sum --check {SUMS}               # is every file as it was exported?",
        "```",
        "",
        "A comment has a label if the label's probability is at least the threshold, which was tuned on validation:",
        *table(
            ["label", "threshold", ""],
            (
                [markdown(label), f"{threshold:.4g}", "critical" if label == card.decisions.critical_label else ""]
                for label, threshold in thresholds
            ),
        ),
        *batch,
    ]


def _origin(card: Card) -> list[str]:
    settings = [
        [f"`{name}`", markdown(value)]
        for name, value in card.row.items()
        if name.partition(".")[0] in ("distil", "prune", "quantize") and value is not None
    ]
    parts = card.data.get("splits", {})
    counts = ", ".join(f"{name} {part['texts']:,}" for name, part in parts.items())
    unnamed = f"{UNKNOWN}: neither its README.md nor its config.json names one"
    bases = [
        f"- {markdown(name)}: licence {unnamed if licence == UNKNOWN else markdown(licence)}"
        for name, licence in card.bases.items()
    ]
    versions = ", ".join(f"{name} {value}" for name, value in card.environment.items())
    return [
        "",
        "## How it was made",
        "",
        f"{markdown(describe_chain(card.row))}; model key `{card.row['model_key']}`.",
        *table(["setting", "value"], settings),
        f"Comments: {markdown(card.data.get('source', UNKNOWN))}, {card.data.get('rows_used', 0):,} different ones "
        f"({counts}; {card.data.get('duplicate_rows', 0):,} duplicate rows dropped); fingerprint `{card.fingerprint}`.",
        "",
        "It began from, or learnt from:",
        "",
        *(bases or ["- no other model: it was trained from nothing"]),
        "",
        f"The teacher that it is compared with: {markdown(card.teacher)}.",
        "",
        f"Environment of the study: {markdown(versions) or UNKNOWN}.",
    ]


def _limits_of_use(card: Card) -> list[str]:
    critical = card.decisions.labels.index(card.decisions.critical_label)
    _, _, missed, hit = confusion(card.answered["test"].labels, card.answered["test"].decisions)[critical].tolist()
    cut = [f"- Of a longer comment, only the first {card.deployment.max_tokens} tokens are read."]
    return [
        "",
        "## Limits of use",
        "",
        "- The figures hold for comments like those of the study, in their language and of their time. Measure on your "
        "own, newer ones before deploying: `python -m evaluation.gate`.",
        f"- Of {hit + missed:,} test comments with the label {markdown(card.decisions.critical_label)} it missed "
        f"{missed:,}. It misses some of every label and accuses some wrongly: let people decide what follows.",
        "- Labels with few positives have wide intervals. Groups of writers were not compared.",
        "- Safe means: not much worse than the teacher on these comments. It does not mean that the teacher is good.",
        *(cut if card.deployment.max_tokens else []),
    ]


def _files(card: Card) -> list[str]:
    described = {
        ", ".join(card.deployment.weight_files): "the weights",
        f"{DEPLOY}, {DECISIONS}": "how to run them; labels and thresholds",
        ", ".join(card.sources): "the program above; it imports nothing of the project that made it (Apache-2.0)",
        SUMS: "SHA-256 of every file",
    }
    lines = ["", "## Files", "", *(f"- `{name}`: {what}" for name, what in described.items())]
    if card.no_huggingface is not None:
        return [*lines, f"- no Hugging Face form: {card.no_huggingface}"]
    return [
        *lines,
        "- `huggingface/`: encoder and tokenizer in the `save_pretrained` form, for `AutoModel` and `AutoTokenizer`. "
        "No `AutoModelForSequenceClassification` has this head, so it stands beside them: "
        f"{card.pooling} pooling of `last_hidden_state`, padding left out, then the linear layer of `head.safetensors` "
        "(`weight`, `bias`), then a sigmoid. A remark on a newly initialised pooler can be ignored: it is not used.",
    ]
