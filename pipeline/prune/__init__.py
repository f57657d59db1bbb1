"""Take out of a model what it needs least: single weights, heads and neurons, tokens."""

from pipeline.prune.stage import prune

__all__ = ["prune"]
