"""Which models answer equally fast: those that differ in the values of their weights alone."""

from __future__ import annotations

import hashlib
from pathlib import Path

from pipeline.manifest import MANIFEST

TIMING = "timing"
"""Name under which a model tells the store's key of the timing of its shape."""


def shape_of(folder: Path) -> str:
    """SHA-256 (64 hex digits) of all in a model's folder that decides how long it takes: of weights names and sizes.

    Settings (`*.json`) count by their whole text, so two models of one shape have the same layers, widths, formats and
    words. Weights that are stored compressed or sparse differ in size, and so in shape, where they differ in zeros.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    parts = [(path.relative_to(folder).as_posix(), path.stat().st_size, _text(path)) for path in files]
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _text(path: Path) -> str:
    return path.read_text("utf-8") if path.suffix == ".json" else ""
