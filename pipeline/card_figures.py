"""What a model card says in figures: quality with intervals, safety, size and speed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pipeline.card_text import markdown, table
from pipeline.intervals import confusion, macro_f1, macro_f1_interval, wilson
from pipeline.model_rows import DROPS, number

if TYPE_CHECKING:
    from pipeline.model_card import Card

VERDICTS = {
    "safe": "safe: with {confidence} confidence no loss against the teacher is beyond its limit",
    "inconclusive": "inconclusive: no measured loss is beyond its limit, but a larger one cannot be ruled out",
    "unsafe": "**unsafe**: at least one loss against the teacher is beyond its limit",
}
PREFIX = {"validation": "", "test": "test_"}
"""Of the columns of a split."""
SPLITS = tuple(PREFIX)


def quality(card: Card) -> list[str]:
    """Precision, recall and F1 of each label, and macro F1, on validation and on test."""
    lines = [
        "",
        "## Quality",
        "",
        "Thresholds and model were chosen on validation; test chose nothing. In brackets: 95 % intervals (Wilson's for "
        "precision and recall, percentile bootstrap over comments for macro F1).",
    ]
    for split in SPLITS:
        answered = card.answered[split]
        low, high = macro_f1_interval(answered.labels, answered.decisions)
        macro = f"{macro_f1(answered.labels, answered.decisions):.4f} [{low:.4f}, {high:.4f}]"
        counts = confusion(answered.labels, answered.decisions).tolist()
        cells = [
            [
                markdown(label),
                f"{hit + missed:,}",
                _rate(hit, hit + false),
                _rate(hit, hit + missed),
                _f1(hit, false, missed),
            ]
            for label, (_, false, missed, hit) in zip(card.decisions.labels, counts, strict=True)
        ]
        lines += ["", f"**{split.capitalize()}**: {len(answered.labels):,} comments, macro F1 {macro}"]
        lines += table(["label", "positives", "precision", "recall", "F1"], cells)
    return lines


def safety(card: Card) -> list[str]:
    """The verdicts in words, and the drops behind them beside their limits."""
    share = f"{100 * card.confidence:g} %"
    told = [
        f"- {split}: {VERDICTS.get(str(card.row.get(PREFIX[split] + 'safety_verdict')), 'not judged')}"
        for split in SPLITS
    ]
    cells = [
        [f"{what} drop", f"{card.limits[name]:g}", *(_drop(card.row, PREFIX[split] + name) for split in SPLITS)]
        for name, what in DROPS.items()
    ]
    return [
        "",
        "## Safety",
        "",
        f"Against the teacher, with `critical` being the label {markdown(card.decisions.critical_label)}:",
        "",
        *(line.format(confidence=share) for line in told),
        "",
        f"The drop, and its one-sided {share} upper bound (paired bootstrap over comments):",
        *table(["", "limit", *SPLITS], cells),
    ]


def _drop(row: Mapping[str, Any], name: str) -> str:
    drop, upper = number(row, name), number(row, f"{name}_upper")
    return "not measured" if drop is None or upper is None else f"{drop:+.4f}, at most {upper:.4f}"


def cost(card: Card) -> list[str]:
    """Size, latency and throughput, and the machine that they hold for."""
    row = card.row
    low, high = (number(row, f"speedup_{end}") for end in ("low", "high"))
    interval = f" [{low:.4g}, {high:.4g}]" if low is not None and high is not None else ""
    counted = "size of the weights" + (", tokenizer left out" if card.deployment.runtime == "onnxruntime" else "")
    figures = {
        counted: _figure(row, "model_size_mb", "MB"),
        "the same after zstd": _figure(row, "download_size_mb", "MB"),
        "stored weights": _figure(row, "num_parameters", "", "{:,.0f}"),
        "latency of one comment, mean": _figure(row, "latency_mean_ms", "ms"),
        "latency, 95th percentile": _figure(row, "latency_p95_ms", "ms"),
        "comments a second, in batches": _figure(row, "throughput_samples_per_sec", "", "{:,.0f}"),
        "times the teacher's speed": _figure(row, "speedup_factor", "") + interval,
    }
    machine = row.get("machine") or "unknown"
    return [
        "",
        "## Size and speed",
        *table(["", ""], ([name, value] for name, value in figures.items())),
        f"Latency is what a caller waits, text in, probabilities out, on this machine: {markdown(machine)}.",
    ]


def _figure(row: Mapping[str, Any], name: str, unit: str, shown: str = "{:.3g}") -> str:
    value = number(row, name)
    return "not measured" if value is None else f"{shown.format(value)} {unit}".rstrip()


def _rate(successes: int, trials: int) -> str:
    interval = wilson(successes, trials)
    return "undefined" if interval is None else f"{successes / trials:.4f} [{interval[0]:.4f}, {interval[1]:.4f}]"


def _f1(hit: int, false: int, missed: int) -> str:
    return f"{2 * hit / (2 * hit + false + missed):.4f}" if hit + false + missed else "undefined"
