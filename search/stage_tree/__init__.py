"""A sampler that knows that trials share the beginnings of their chains."""

from search.stage_tree.sampler import StageTreeSampler

__all__ = ["StageTreeSampler"]
