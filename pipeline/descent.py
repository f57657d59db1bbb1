"""Objective, optimiser and learning rate of one training, a step at a time."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.models import Classifier
from pipeline.objective import LOSSES, Examples, Matching, Objective, Recipe, device

AfterStep = Callable[[int, int], None]
CHECK_EVERY = 20
"""Steps between two looks at the loss: often enough to stop a diverged run, seldom enough not to hold up a GPU."""
Tensors = dict[str, Tensor]


class TrainingDiverged(ArithmeticError):
    """The loss became NaN or infinite."""


@runtime_checkable
class Stateful(Protocol):
    """What `after_step` is when it changes while the model is trained: a checkpoint has its state too."""

    def state_dict(self) -> Tensors:
        """All that changes, in tensors."""

    def load_state_dict(self, state: Tensors) -> None:
        """Take over what `state_dict` gave."""


class Descent:
    """A training's way down: the model, what moves it, and how far it has come."""

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
        self._matching = matching
        self._optimizer = adamw(model, recipe, matching)
        self._trained = [parameter for group in self._optimizer.param_groups for parameter in group["params"]]
        self._schedule = torch.optim.lr_scheduler.LambdaLR(
            self._optimizer, lambda step: rate(step, total_steps, recipe)
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

    def result(self) -> Tensors:
        """What a training leaves behind beside the model: of `matching` and `after_step`, and the random numbers."""
        tensors = _under("random", random_states()) | _under("matching", self._matched())
        if isinstance(self._after_step, Stateful):
            tensors |= _under("after_step", self._after_step.state_dict())
        return tensors

    def load_result(self, tensors: Tensors) -> None:
        """Take over what `result` gave."""
        set_random_states(below("random", tensors))
        given = below("matching", tensors)
        with torch.no_grad():
            for name, parameter in self._matched().items():
                parameter.copy_(given[name])
        if isinstance(self._after_step, Stateful):
            self._after_step.load_state_dict(below("after_step", tensors))

    def state(self) -> tuple[dict[str, Any], Tensors]:
        """All that the next step depends on: facts of JSON types, and tensors, `result` among them."""
        optimizer = self._optimizer.state_dict()
        moments = {f"{i}.{name}": value for i, one in optimizer["state"].items() for name, value in one.items()}
        facts = {"steps": self._done, "rates": [group["lr"] for group in optimizer["param_groups"]]}
        return facts, _under("model", self._model.state_dict()) | _under("optimizer", moments) | self.result()

    def load_state(self, facts: Mapping[str, Any], tensors: Tensors) -> None:
        """Go on from what `state` gave."""
        self._model.load_state_dict(below("model", tensors))
        moments: defaultdict[int, Tensors] = defaultdict(dict)
        for place, value in below("optimizer", tensors).items():
            index, name = place.split(".")
            moments[int(index)][name] = value
        groups = self._optimizer.state_dict()["param_groups"]
        groups = [group | {"lr": lr} for group, lr in zip(groups, facts["rates"], strict=True)]
        self._optimizer.load_state_dict({"state": dict(moments), "param_groups": groups})
        self._done = facts["steps"]
        came = {"last_epoch": self._done, "_step_count": self._done + 1, "_last_lr": list(facts["rates"])}
        self._schedule.load_state_dict(self._schedule.state_dict() | came)
        self.load_result(tensors)

    def shapes(self) -> dict[str, Any]:
        """Type and shape of every weight, and the shapes of those that are trained, as JSON types."""
        weights = _under("model", self._model.state_dict()) | _under("matching", self._matched())
        return {
            "weights": {name: [str(tensor.dtype), *tensor.shape] for name, tensor in weights.items()},
            "trained": [list(parameter.shape) for parameter in self._trained],
            "steps": self._total,
        }

    def _matched(self) -> Tensors:
        """The trained parameters of `matching`: the teacher in it stays what it is."""
        if self._matching is None:
            return {}
        return {name: one.detach() for name, one in self._matching.named_parameters() if one.requires_grad}


def adamw(model: Classifier, recipe: Recipe, matching: nn.Module | None = None) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101); vectors and scalars do not decay."""
    head = {id(parameter) for parameter in model.head.parameters()}
    groups: dict[tuple[float, float], list[Tensor]] = {}
    for parameter in [*model.parameters(), *(matching.parameters() if matching is not None else ())]:
        if not parameter.requires_grad:
            continue
        peak = (recipe.head_learning_rate if id(parameter) in head else None) or recipe.learning_rate
        decay = recipe.weight_decay if parameter.ndim > 1 else 0.0
        groups.setdefault((peak, decay), []).append(parameter)
    settings = [{"params": members, "lr": peak, "weight_decay": decay} for (peak, decay), members in groups.items()]
    return torch.optim.AdamW(settings, fused=True)


def rate(step: int, total: int, recipe: Recipe) -> float:
    """Share of the peak learning rate at a step: linear warm-up, then linear or cosine fall to zero."""
    warmup = max(1, round(recipe.warmup_fraction * total))
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, total - warmup)
    return 1.0 - progress if recipe.schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * progress))


def random_states() -> Tensors:
    """The states of the generators that a training draws from, uint8: the CPU's, and that of the GPU it runs on."""
    states = {"cpu": torch.get_rng_state()}
    if device().type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def set_random_states(states: Tensors) -> None:
    """Draw on from these states; a generator that they do not name goes on as it is."""
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and device().type == "cuda":
        torch.cuda.set_rng_state(states["cuda"])


def _under(part: str, tensors: Tensors) -> Tensors:
    return {f"{part}/{name}": tensor for name, tensor in tensors.items()}


def below(part: str, tensors: Tensors) -> Tensors:
    """The tensors of one part of a checkpoint, by their names in it."""
    return {name.removeprefix(f"{part}/"): tensor for name, tensor in tensors.items() if name.startswith(f"{part}/")}
