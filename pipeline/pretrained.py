"""Pretrained models as a study names them: a folder, or a hub id whose files lie in the Hugging Face cache."""

from __future__ import annotations

import re
from pathlib import Path


def model_folder(model: str) -> Path | None:
    """The folder of a model: as named, or its snapshot in the Hugging Face cache; never uses the network."""
    if model and Path(model).exists():
        return Path(model)
    if not is_hub_id(model):
        return None
    from huggingface_hub import try_to_load_from_cache

    try:
        cached = try_to_load_from_cache(model, "config.json")
    except ValueError:  # no valid hub id after all
        return None
    return Path(cached).parent if isinstance(cached, str) else None


def is_hub_id(model: str) -> bool:
    """Whether this may be the id of a model on the hub, by its form."""
    return re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?", model) is not None
