"""What a training run minimises: the examples, the recipe, and the loss of one batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.config import PruneConfig, QuantizeConfig
from pipeline.losses import distillation_loss, focal_loss, hard_loss, soft_loss
from pipeline.models import Classifier
from pipeline.tokens import Tokens

LOSSES = ("total_loss", "soft_loss", "hard_loss", "matching_loss")
"""What a history entry has of an epoch, means over its comments."""


class Matching(nn.Module):
    """Answers for a student and says how far its inside is from the teacher's.

    `forward(student, input_ids, attention_mask)` gives the student's logits [batch, labels] and a weighted loss, a
    scalar.
    """


@dataclass(frozen=True)
class Examples:
    """What a model is trained or validated on; all arrays have the same first axis."""

    tokens: Tokens
    labels: NDArray[np.float32]
    """[comments, labels], 0.0 or 1.0."""
    teacher_logits: NDArray[np.float32] | None = None
    """[comments, labels], where a teacher teaches."""

    def select(self, rows: NDArray[np.int64]) -> Examples:
        """These rows alone, in this order."""
        lengths = self.tokens.lengths[rows]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        ids = np.concatenate([self.tokens.ids[self.tokens.offsets[r] : self.tokens.offsets[r + 1]] for r in rows])
        logits = None if self.teacher_logits is None else self.teacher_logits[rows]
        return Examples(Tokens(ids, offsets), self.labels[rows], logits)


@dataclass(frozen=True)
class Recipe:
    """Everything about a training run but the model and the examples."""

    epochs: int
    learning_rate: float
    batch_size: int
    seed: int
    head_learning_rate: float | None = None
    """Peak rate of the head; None takes the encoder's."""
    schedule: Literal["linear", "cosine"] = "linear"
    warmup_fraction: float = 0.1
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    alpha: float = 0.0
    """Weight of the soft loss; 0 trains on the labels alone."""
    temperature: float = 1.0
    loss: Literal["bce", "focal"] = "bce"
    focal_gamma: float = 2.0
    class_weights: bool = False
    """Whether each label's positives weigh as much in the hard loss as its negatives."""
    patience: int = 0
    """Epochs without a better validation macro F1 after which training stops; 0 never stops early."""


def student_recipe(config: PruneConfig | QuantizeConfig) -> Recipe:
    """How a model that was changed learns from the teacher to live with the change."""
    return Recipe(
        epochs=config.epochs,
        learning_rate=config.learning_rate,
        batch_size=config.batch_size,
        seed=config.seed,
        alpha=config.alpha,
        temperature=config.temperature,
    )


def padded(model: Classifier, tokens: Tokens, rows: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    """`input_ids` and `attention_mask` [rows, longest of them], where the model is."""
    input_ids, attention_mask = tokens.pad(rows, model.pad_id)
    place = model.head.weight.device
    return torch.from_numpy(input_ids).to(place), torch.from_numpy(attention_mask).to(place)


def device() -> torch.device:
    """Where models are trained: the GPU that this process was given, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Objective:
    """What a training run minimises, batch by batch."""

    def __init__(self, model: Classifier, examples: Examples, recipe: Recipe, matching: Matching | None) -> None:
        self.model, self.examples, self.recipe, self.matching = model, examples, recipe, matching
        self.positive_weight: Tensor | None = None
        if recipe.class_weights:
            share = examples.labels.mean(axis=0).clip(1e-6, 1 - 1e-6)
            self.positive_weight = torch.from_numpy((1.0 - share) / share).to(device())

    def __call__(self, rows: NDArray[np.int64]) -> Tensor:
        """The losses named in `LOSSES` on these comments, [4]; the first one has the gradient."""
        inputs = padded(self.model, self.examples.tokens, rows)
        if self.matching is None:
            logits, matched = self.model(*inputs), torch.zeros((), device=device())
        else:
            logits, matched = self.matching(self.model, *inputs)
        labels = torch.from_numpy(self.examples.labels[rows]).to(logits.device)
        if self.recipe.loss == "focal":
            hard = focal_loss(logits, labels, self.recipe.focal_gamma, self.positive_weight)
        else:
            hard = hard_loss(logits, labels, self.positive_weight)
        soft, task = torch.zeros_like(hard), hard
        if self.recipe.alpha > 0.0 and self.examples.teacher_logits is not None:
            teacher_logits = torch.from_numpy(self.examples.teacher_logits[rows]).to(logits.device)
            soft = soft_loss(logits, teacher_logits, self.recipe.temperature)
            task = distillation_loss(soft, hard, self.recipe.alpha)
        return torch.stack([task + matched, soft, hard, matched])
