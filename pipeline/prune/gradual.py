"""Zeros that grow while the model is fine-tuned."""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.config import PruneConfig
from pipeline.descent import below
from pipeline.prune.masks import Granularity, Masks, drop_smallest, magnitude_scores, matrices_in


def gradual_sparsity(step: int, total: int, config: PruneConfig) -> float:
    """Sparsity after `step` of `total` steps of fine-tuning (Zhu and Gupta 2017, arXiv:1710.01878, equation 1).

    With p, from 0 to 1, the share of the way from the first gradual step to the last, initial sparsity i and final f:
    `linear` is f + (i - f)(1 - p), `cubic` f + (i - f)(1 - p)³; `exponential` takes the same share of the remaining
    weights in every step, 1 - (1 - i)((1 - f) / (1 - i))^p. It grows every `config.frequency` steps.

    Args:
        step: steps done, from 0 to `total`.
        total: steps of the fine-tuning, 1 or more.
        config: schedule, sparsities, begin, end and frequency.

    Returns:
        0 before the first gradual step, and exactly `config.sparsity` from the last one on.
    """
    begin = min(round(config.begin_fraction * total), total - 1)
    end = max(begin + 1, round(config.end_fraction * total))
    first, last = config.initial_sparsity, config.sparsity
    if step < begin:
        return 0.0
    if step >= end:
        return last
    progress = (step - begin) // config.frequency * config.frequency / (end - begin)
    if config.gradual_schedule == "linear":
        return last + (first - last) * (1.0 - progress)
    if config.gradual_schedule == "cubic":
        return last + (first - last) * (1.0 - progress) ** 3
    return float(1.0 - (1.0 - first) * ((1.0 - last) / (1.0 - first)) ** progress)


class Gradual:
    """Called after each step of the fine-tuning: drops more of the smallest weights, and holds all masks.

    What is dropped once never comes back.
    """

    def __init__(self, masks: Masks, config: PruneConfig, granularity: Granularity) -> None:
        self.masks, self.config, self.granularity = masks, config, granularity
        self.sparsity = 0.0
        self.last: dict[str, Tensor] = {}
        """The weights after the last step."""

    def __call__(self, done: int, total: int) -> None:
        sparsity = gradual_sparsity(done, total, self.config)
        if sparsity > self.sparsity:
            # A weight that has just been updated away from its zero must not be ranked by that update.
            self.masks.hold()
            scores = magnitude_scores(matrices_in(self.masks.model, self.config.scope))
            self.masks.add(drop_smallest(scores, sparsity, self.granularity))
            self.sparsity = sparsity
        else:
            self.masks.hold()
        if done == total:
            self.last = {name: tensor.clone() for name, tensor in self.masks.model.state_dict().items()}

    def state_dict(self) -> dict[str, Tensor]:
        """The masks, how much they are meant to drop, and the last weights, for a checkpoint of the fine-tuning."""
        dropped = {f"dropped/{name}": mask for name, mask in self.masks.dropped.items()}
        last = {f"last/{name}": weight for name, weight in self.last.items()}
        return {"sparsity": torch.tensor(self.sparsity, dtype=torch.float64), **dropped, **last}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over what `state_dict` gave."""
        self.sparsity = float(state["sparsity"])
        self.masks.dropped, self.last = below("dropped", state), below("last", state)

    def keep_full_sparsity(self) -> None:
        """Take the last epoch's weights if the epoch that was chosen had not yet the whole sparsity.

        The last epoch has it always, so the epoch that is kept has it; earlier ones are kept if they are the best.
        """
        if not self.masks.are_held():
            self.masks.model.load_state_dict(self.last)
