"""Where the figures come from: the comments, and the machine and versions of the run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from evaluation.page.markup import table

_DATA_TITLES = {
    "source": "Source",
    "synthetic": "Synthetic",
    "notice": "Notice",
    "rows_read": "Rows read",
    "rows_drawn": "Rows drawn",
    "rows_used": "Different texts used",
    "duplicate_rows": "Repeated rows dropped",
    "conflicting_texts": "Texts whose copies had different labels",
    "mean_words": "Words a text, mean",
}


def data_section(data: Mapping[str, Any]) -> str:
    """The comments: what was read and dropped, and each split's positives by label; `data` may be empty."""
    if not data:
        return "<p>Not known: an earlier version wrote this study\u2019s files, and kept no summary of its data.</p>"
    rest = {name: value for name, value in data.items() if name != "splits" and value is not None}
    cells = [(_DATA_TITLES.get(name, name), _text(value)) for name, value in flat(rest)]
    return table(("", "Value"), cells, caption="Comments") + _splits(data.get("splits"))


def environment_section(environment: Mapping[str, Any]) -> str:
    """Versions and machine; `environment` may be empty."""
    if not environment:
        return "<p>Not known: an earlier version wrote this study\u2019s files, and kept no environment.</p>"
    cells = [(name, _text(value)) for name, value in flat(environment)]
    return table(("", "Value"), cells, caption="Machine and versions")


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested mappings as pairs of dotted names and plain values, lists joined by commas."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}.")
        elif isinstance(value, list | tuple):
            yield f"{prefix}{name}", ", ".join(map(_text, value))
        else:
            yield f"{prefix}{name}", value


def _splits(splits: Any) -> str:
    """Texts and positives of each split; nothing when they are not as `pipeline.data` reports them."""
    if not isinstance(splits, Mapping) or not all(isinstance(part, Mapping) for part in splits.values()):
        return ""
    positives = {name: part.get("positives") or {} for name, part in splits.items()}
    labels = dict.fromkeys(label for counts in positives.values() for label in counts)
    cells = [("all texts", *(_text(part.get("texts")) for part in splits.values()))]
    cells += [(label, *(_text(counts.get(label)) for counts in positives.values())) for label in labels]
    titles = [str(name) for name in splits]
    return table(("Positives of", *titles), cells, caption="Splits: texts, and positives of each label", numeric=titles)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int | float) else str(value)
