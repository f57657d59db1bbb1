"""The only training loop: teacher, students and the fine-tuning of pruned models all run through it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.config import DistilConfig, PruneConfig
from pipeline.losses import distillation_loss, hard_loss, soft_loss
from pipeline.models import TextClassifier
from pipeline.runtime import sigmoid
from pipeline.thresholds import best_shared_threshold
from pipeline.tokens import Tokens, bucketed_batches, sorted_batches

History = list[dict[str, float]]
INFERENCE_BATCH = 64
CHECK_EVERY = 20
"""Steps between two looks at the loss: often enough to stop a diverged run, seldom enough not to hold up a GPU."""


class TrainingDiverged(ArithmeticError):
    """The loss became NaN or infinite."""


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


def student_recipe(config: DistilConfig | PruneConfig) -> Recipe:
    """How a model learns from the teacher, as a student or under the mask."""
    return Recipe(
        epochs=config.epochs,
        learning_rate=config.learning_rate,
        batch_size=config.batch_size,
        seed=config.seed,
        alpha=config.alpha,
        temperature=config.temperature,
    )


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Torch's random numbers as if the process had just begun with this seed; afterwards the old state comes back."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def train(
    model: TextClassifier,
    examples: Examples,
    validation: Examples,
    recipe: Recipe,
    after_step: Callable[[], None] | None = None,
) -> History:
    """Train in place, and leave the model with the weights of its best epoch by validation macro F1.

    Args:
        model: trained in place.
        examples: with teacher's logits if `recipe.alpha` > 0.
        validation: chooses the epoch; its shared threshold is explored anew in each.
        recipe: see `Recipe`.
        after_step: called after each optimiser step, to hold a mask.

    Returns:
        One entry an epoch: losses, validation figures (`val_*`), seconds.

    Raises:
        TrainingDiverged: the loss or a validation logit is no longer finite.
    """
    model.to(device())
    optimizer = _optimizer(model, recipe)
    generator = np.random.default_rng(recipe.seed)
    plan = [bucketed_batches(examples.tokens.lengths, recipe.batch_size, generator) for _ in range(recipe.epochs)]
    total_steps = sum(len(batches) for batches in plan)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, total_steps, recipe))
    history: History = []
    best: dict[str, Tensor] = {}
    for epoch, batches in enumerate(plan):
        started = perf_counter()
        model.train()
        sums = torch.zeros(3, device=device())
        for step, rows in enumerate(batches):
            losses = _losses(model, examples, rows, recipe)
            losses[0].backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            if after_step:
                after_step()
            sums += torch.stack(losses).detach() * len(rows)
            if (step % CHECK_EVERY == 0 or step == len(batches) - 1) and not torch.isfinite(sums).all():
                where = f"epoch {epoch + 1}, step {step + 1}"
                raise TrainingDiverged(f"the loss is not finite in {where}: lower the learning rate")
        total, soft, hard = (sums / len(examples.labels)).tolist()
        figures = {"epoch": epoch + 1, "total_loss": total, "soft_loss": soft, "hard_loss": hard}
        figures |= validate(model, validation) | {"seconds": perf_counter() - started}
        if not history or figures["val_macro_f1"] > max(entry["val_macro_f1"] for entry in history):
            best = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        history.append(figures)
    if best:
        model.load_state_dict(best)
    model.eval().cpu()
    return history


def validate(model: TextClassifier, validation: Examples) -> dict[str, float]:
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
def predict_logits(model: TextClassifier, tokens: Tokens) -> NDArray[np.float32]:
    """Logits [comments, labels] in the comments' order."""
    model.eval()
    logits = np.empty((len(tokens), model.head.out_features), dtype=np.float32)
    for rows in sorted_batches(tokens.lengths, INFERENCE_BATCH):
        logits[rows] = forward(model, tokens, rows).cpu().numpy()
    return logits


def forward(model: TextClassifier, tokens: Tokens, rows: NDArray[np.int64]) -> Tensor:
    """The model's logits [rows, labels] for these comments, padded to the longest of them."""
    input_ids, attention_mask = tokens.pad(rows, pad_token_id(model))
    place = model.head.weight.device
    logits: Tensor = model(torch.from_numpy(input_ids).to(place), torch.from_numpy(attention_mask).to(place))
    return logits


def device() -> torch.device:
    """Where models are trained: the GPU that this process was given, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def pad_token_id(model: TextClassifier) -> int:
    """The token id that fills a batch."""
    pad: Any = model.config.pad_token_id
    return int(pad) if pad is not None else 0


def _losses(
    model: TextClassifier, examples: Examples, rows: NDArray[np.int64], recipe: Recipe
) -> tuple[Tensor, Tensor, Tensor]:
    """Total, soft and hard loss of one batch."""
    logits = forward(model, examples.tokens, rows)
    hard = hard_loss(logits, torch.from_numpy(examples.labels[rows]).to(logits.device))
    if recipe.alpha == 0.0 or examples.teacher_logits is None:
        return hard, torch.zeros_like(hard), hard
    teacher_logits = torch.from_numpy(examples.teacher_logits[rows]).to(logits.device)
    soft = soft_loss(logits, teacher_logits, recipe.temperature)
    return distillation_loss(soft, hard, recipe.alpha), soft, hard


def _optimizer(model: TextClassifier, recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101); vectors and scalars do not decay."""
    head = {id(parameter) for parameter in model.head.parameters()}
    groups: dict[tuple[float, float], list[Tensor]] = {}
    for parameter in model.parameters():
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
