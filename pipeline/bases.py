"""The models that a study's own were made from, and under what licence."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.model_card import UNKNOWN
from pipeline.study_results import StudyResults


def bases_of(results: StudyResults, row: Mapping[str, Any]) -> dict[str, str]:
    """Licence of teacher and student encoder by name; nothing of what was trained from nothing, or on labels alone."""
    models = [] if row["stage"] == "classical" else [teacher_model(results)]
    if row.get("distil.student") == "encoder" and row.get("distil.model"):
        models.append(str(row["distil.model"]))
    return {shown(model): licence_of(model) for model in models if model != "scratch"}


def teacher_model(results: StudyResults) -> str:
    """What the teacher began from: a folder, a hub id, or `scratch`."""
    return str((results.settings.get("teacher") or {}).get("model", "scratch"))


def shown(model: str) -> str:
    """Of a folder its name only: where it lies on this machine is nobody's concern."""
    return Path(model).name if Path(model).is_absolute() or Path(model).is_dir() else model


def licence_of(model: str) -> str:
    """The licence that a model's README or config names, as the hub writes it; `unknown` where they do not.

    Args:
        model: a folder, or a hub id that is looked for in the local cache.
    """
    texts = {name: _text_of_model(model, name) for name in ("README.md", "config.json")}
    matter = re.match(r"---\r?\n(.*?)\r?\n---", texts["README.md"], re.DOTALL)
    found = re.search(r"^license:\s*[\"']?([\w.+-]+)", matter[1], re.MULTILINE) if matter else None
    found = found or re.search(r'"license"\s*:\s*"([\w.+-]+)"', texts["config.json"])
    return found[1] if found else UNKNOWN


def _text_of_model(model: str, name: str) -> str:
    file: Any = Path(model, name)
    if not Path(model).is_dir():
        from huggingface_hub import try_to_load_from_cache

        try:
            file = try_to_load_from_cache(model, name)
        except ValueError:  # no valid hub id
            return ""
    is_file = isinstance(file, str | Path) and Path(file).is_file()
    return Path(file).read_text(encoding="utf-8", errors="replace") if is_file else ""
