"""Pretrained models as a study names them: a folder, or a hub id whose files lie in the Hugging Face cache."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.models import TextClassifier


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


def tokens_at_once(model: TextClassifier) -> float:
    """How many tokens an encoder can read at once; RoBERTa's positions begin after that of padding."""
    positions: int | None = getattr(model.config, "max_position_embeddings", None)
    if positions is None:
        return math.inf
    padding = getattr(getattr(model.encoder, "embeddings", None), "padding_idx", None)
    return positions if padding is None else positions - padding - 1
