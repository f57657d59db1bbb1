"""The only training loop: teacher, students and the fine-tuning of pruned models all run through it."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.checkpoints import Checkpoint, next_place
from pipeline.descent import AfterStep, Descent, TrainingDiverged, below
from pipeline.losses import hard_loss
from pipeline.models import Classifier
from pipeline.objective import Examples, Matching, Recipe, device, padded, student_recipe
from pipeline.runtime import sigmoid
from pipeline.thresholds import best_shared_threshold
from pipeline.tokens import Tokens, bucketed_batches, sorted_batches

__all__ = [
    "INFERENCE_BATCH",
    "Examples",
    "History",
    "Matching",
    "Recipe",
    "TrainingDiverged",
    "device",
    "padded",
    "predict_logits",
    "seeded",
    "student_recipe",
    "train",
    "validate",
]

History = list[dict[str, float]]
INFERENCE_BATCH = 64
INFERENCE_TOKENS = 2**19
"""Tokens of a batch at most, padding included: 64 comments of some 2,000 characters as n-grams, which are never cut."""
CHECKPOINT_FORMAT = 1
"""Raised when checkpoints of before can no longer be read."""

log = logging.getLogger(__name__)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Torch's random numbers as if the process had just begun with this seed; afterwards the old state comes back."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def train(
    model: Classifier,
    examples: Examples,
    validation: Examples,
    recipe: Recipe,
    after_step: AfterStep | None = None,
    matching: Matching | None = None,
) -> History:
    """Train in place, and leave the model with the weights of its best epoch by validation macro F1.

    Inside of `pipeline.checkpoints.checkpointing` it goes on after the last epoch that was kept there, to the same end.

    Args:
        model: trained in place; parameters that require no gradient stay as they are.
        examples: with teacher's logits if `recipe.alpha` > 0.
        validation: chooses the epoch; its shared threshold is explored anew in each.
        recipe: see `Recipe`.
        after_step: called after each optimiser step with the steps done and all steps, to hold a mask; what changes in
            it on the way must be `pipeline.descent.Stateful`.
        matching: answers in the model's stead and adds a loss of its own; its parameters are trained too.

    Returns:
        One entry an epoch: losses, validation figures (`val_*`), seconds.

    Raises:
        TrainingDiverged: the loss or a validation logit is no longer finite.
    """
    generator = np.random.default_rng(recipe.seed)
    plan = [bucketed_batches(examples.tokens.lengths, recipe.batch_size, generator) for _ in range(recipe.epochs)]
    descent = Descent(model, examples, recipe, matching, sum(map(len, plan)), after_step)
    progress = _Progress(model, recipe)
    place = next_place()
    identity = _identity(descent, recipe, examples, validation, after_step) if place else ""
    if place and (checkpoint := place.load(identity)):
        progress.go_on(checkpoint, descent)
        log.info("training %d goes on after epoch %d of %d", place.number, len(progress.history), len(plan))
    while not progress.finished:
        started = perf_counter()
        epoch = len(progress.history)
        figures = {"epoch": epoch + 1, **descent.epoch(plan[epoch], epoch + 1)}
        figures |= validate(model, validation) | {"seconds": perf_counter() - started}
        progress.add(figures)
        if place and place.is_due(progress.finished):
            place.save(progress.checkpoint(descent), identity)
    model.load_state_dict(progress.best)
    model.eval().cpu()
    return progress.history


class _Progress:
    """What a training has come to: its history and its best weights."""

    def __init__(self, model: Classifier, recipe: Recipe) -> None:
        self._model, self._recipe = model, recipe
        self.history: History = []
        self.best: dict[str, Tensor] = {}
        self._best_epoch = 0
        """Counted from 0."""

    @property
    def finished(self) -> bool:
        """Whether the last epoch is done, or none has been better for as long as the recipe waits."""
        done, patience = len(self.history), self._recipe.patience
        return done == self._recipe.epochs or (patience > 0 and done - 1 - self._best_epoch >= patience)

    def add(self, figures: dict[str, float]) -> None:
        """Note an epoch, and keep the model's weights if they are the best so far."""
        if not self.history or figures["val_macro_f1"] > max(entry["val_macro_f1"] for entry in self.history):
            self._keep_as_best(len(self.history))
        self.history.append(figures)

    def _keep_as_best(self, epoch: int) -> None:
        self.best, self._best_epoch = {name: one.clone() for name, one in self._model.state_dict().items()}, epoch

    def checkpoint(self, descent: Descent) -> Checkpoint:
        """All that the next epoch depends on; of a finished training, what it leaves behind."""
        facts: dict[str, Any] = {"history": self.history, "best_epoch": self._best_epoch}
        if self.finished:
            tensors = descent.result()
        else:
            facts["descent"], tensors = descent.state()
        if self.finished or self._best_epoch < len(self.history) - 1:  # else the best weights are the model's own
            tensors |= {f"best/{name}": tensor for name, tensor in self.best.items()}
        return Checkpoint(facts, tensors)

    def go_on(self, checkpoint: Checkpoint, descent: Descent) -> None:
        """Bring all to where it was when the checkpoint was made."""
        facts, best = checkpoint.facts, below("best", checkpoint.tensors)
        if "descent" in facts:
            descent.load_state(facts["descent"], checkpoint.tensors)
        else:
            descent.load_result(checkpoint.tensors)
        self.history, self.best, self._best_epoch = facts["history"], best, facts["best_epoch"]
        if not best:
            self._keep_as_best(self._best_epoch)


def _identity(
    descent: Descent, recipe: Recipe, examples: Examples, validation: Examples, after_step: AfterStep | None
) -> str:
    """What a checkpoint must be of to be this training's: 64 hex digits."""
    facts = {
        "format": CHECKPOINT_FORMAT,
        "recipe": asdict(recipe),
        "comments": [len(examples.labels), len(validation.labels)],
        "tokens": [len(examples.tokens.ids), len(validation.tokens.ids)],
        "after_step": type(after_step).__name__,
        **descent.shapes(),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def validate(model: Classifier, validation: Examples) -> dict[str, float]:
    """Loss, exact-match accuracy, macro F1 and its best shared threshold, micro F1.

    Raises:
        TrainingDiverged: a logit is not finite.
    """
    logits = predict_logits(model, validation.tokens)
    if not np.isfinite(logits).all():
        raise TrainingDiverged("the validation logits are not finite: lower the learning rate")
    probabilities = sigmoid(logits)
    truth = validation.labels.astype(bool)
    threshold, macro = best_shared_threshold(truth.astype(np.int8), probabilities)
    predicted = probabilities >= threshold
    agreed, claimed = (predicted & truth).sum(), predicted.sum() + truth.sum()
    loss = hard_loss(torch.from_numpy(logits), torch.from_numpy(validation.labels))
    return {
        "val_loss": float(loss),
        "val_accuracy": float((predicted == truth).all(axis=1).mean()),
        "val_macro_f1": float(macro),
        "val_f1": float(2 * agreed / claimed) if claimed else 0.0,
        "val_best_threshold": float(threshold),
    }


@torch.inference_mode()
def predict_logits(model: Classifier, tokens: Tokens) -> NDArray[np.float32]:
    """Logits [comments, labels] in the comments' order."""
    model.eval()
    logits = np.empty((len(tokens), model.head.out_features), dtype=np.float32)
    for rows in sorted_batches(tokens.lengths, INFERENCE_BATCH, INFERENCE_TOKENS):
        logits[rows] = forward(model, tokens, rows).cpu().numpy()
    return logits


def forward(model: Classifier, tokens: Tokens, rows: NDArray[np.int64]) -> Tensor:
    """The model's logits [rows, labels] for these comments, padded to the longest of them."""
    logits: Tensor = model(*padded(model, tokens, rows))
    return logits
