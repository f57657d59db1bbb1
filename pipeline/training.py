"""The only training loop: teacher, students and the fine-tuning of pruned models all run through it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.losses import hard_loss
from pipeline.models import Classifier
from pipeline.objective import LOSSES, Examples, Matching, Objective, Recipe, device, padded, student_recipe
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
AfterStep = Callable[[int, int], None]
INFERENCE_BATCH = 64
CHECK_EVERY = 20
"""Steps between two looks at the loss: often enough to stop a diverged run, seldom enough not to hold up a GPU."""


class TrainingDiverged(ArithmeticError):
    """The loss became NaN or infinite."""


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

    Args:
        model: trained in place; parameters that require no gradient stay as they are.
        examples: with teacher's logits if `recipe.alpha` > 0.
        validation: chooses the epoch; its shared threshold is explored anew in each.
        recipe: see `Recipe`.
        after_step: called after each optimiser step with the steps done and all steps, to hold a mask.
        matching: answers in the model's stead and adds a loss of its own; its parameters are trained too.

    Returns:
        One entry an epoch: losses, validation figures (`val_*`), seconds.

    Raises:
        TrainingDiverged: the loss or a validation logit is no longer finite.
    """
    generator = np.random.default_rng(recipe.seed)
    plan = [bucketed_batches(examples.tokens.lengths, recipe.batch_size, generator) for _ in range(recipe.epochs)]
    descent = _Descent(model, examples, recipe, matching, sum(map(len, plan)), after_step)
    history: History = []
    best: dict[str, Tensor] = {}
    best_epoch = 0
    for epoch, batches in enumerate(plan):
        started = perf_counter()
        figures = {"epoch": epoch + 1, **descent.epoch(batches, epoch + 1)}
        figures |= validate(model, validation) | {"seconds": perf_counter() - started}
        if not history or figures["val_macro_f1"] > max(entry["val_macro_f1"] for entry in history):
            best, best_epoch = {name: tensor.clone() for name, tensor in model.state_dict().items()}, epoch
        history.append(figures)
        if recipe.patience and epoch - best_epoch >= recipe.patience:
            break
    model.load_state_dict(best)
    model.eval().cpu()
    return history


class _Descent:
    """Objective, optimiser and schedule of one training, a step at a time."""

    def __init__(
        self,
        model: Classifier,
        examples: Examples,
        recipe: Recipe,
        matching: Matching | None,
        total_steps: int,
        after_step: AfterStep | None,
    ) -> None:
        self._model = model.to(device())
        if matching is not None:
            matching.to(device())
        self._optimizer = _optimizer(model, recipe, matching)
        self._trained = [parameter for group in self._optimizer.param_groups for parameter in group["params"]]
        self._schedule = torch.optim.lr_scheduler.LambdaLR(
            self._optimizer, lambda step: _rate(step, total_steps, recipe)
        )
        self._objective = Objective(model, examples, recipe, matching)
        self._comments, self._clip_norm = len(examples.labels), recipe.clip_norm
        self._after_step, self._done, self._total = after_step, 0, total_steps

    def epoch(self, batches: Sequence[NDArray[np.int64]], number: int) -> dict[str, float]:
        """The mean losses over one pass; looks at the loss now and then, so that a GPU is not held up."""
        self._model.train()
        sums = torch.zeros(len(LOSSES), device=device())
        for step, rows in enumerate(batches):
            sums += self._step(rows) * len(rows)
            if (step % CHECK_EVERY == 0 or step == len(batches) - 1) and not torch.isfinite(sums).all():
                where = f"epoch {number}, step {step + 1}"
                raise TrainingDiverged(f"the loss is not finite in {where}: lower the learning rate")
        return dict(zip(LOSSES, (sums / self._comments).tolist(), strict=True))

    def _step(self, rows: NDArray[np.int64]) -> Tensor:
        """One step on these comments; their losses, as `LOSSES` names them."""
        losses = self._objective(rows)
        losses[0].backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._trained, self._clip_norm)
        self._optimizer.step()
        self._optimizer.zero_grad()
        self._schedule.step()
        self._done += 1
        if self._after_step:
            self._after_step(self._done, self._total)
        return losses.detach()


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
    for rows in sorted_batches(tokens.lengths, INFERENCE_BATCH):
        logits[rows] = forward(model, tokens, rows).cpu().numpy()
    return logits


def forward(model: Classifier, tokens: Tokens, rows: NDArray[np.int64]) -> Tensor:
    """The model's logits [rows, labels] for these comments, padded to the longest of them."""
    logits: Tensor = model(*padded(model, tokens, rows))
    return logits


def _optimizer(model: Classifier, recipe: Recipe, matching: nn.Module | None = None) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101); vectors and scalars do not decay."""
    head = {id(parameter) for parameter in model.head.parameters()}
    groups: dict[tuple[float, float], list[Tensor]] = {}
    for parameter in [*model.parameters(), *(matching.parameters() if matching is not None else ())]:
        if not parameter.requires_grad:
            continue
        rate = (recipe.head_learning_rate if id(parameter) in head else None) or recipe.learning_rate
        decay = recipe.weight_decay if parameter.ndim > 1 else 0.0
        groups.setdefault((rate, decay), []).append(parameter)
    settings = [{"params": members, "lr": rate, "weight_decay": decay} for (rate, decay), members in groups.items()]
    return torch.optim.AdamW(settings, fused=True)


def _rate(step: int, total: int, recipe: Recipe) -> float:
    """Share of the peak learning rate at a step: linear warm-up, then linear or cosine fall to zero."""
    warmup = max(1, round(recipe.warmup_fraction * total))
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, total - warmup)
    return 1.0 - progress if recipe.schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * progress))
