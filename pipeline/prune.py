"""Set the least important weights of a model to zero, and fine-tune what is left with the zeros held."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.artifact import Artifact, Notes, stage
from pipeline.config import PruneConfig
from pipeline.encoder_artifact import save_descendant, taught_examples
from pipeline.models import TextClassifier, encoder_layers, load_model
from pipeline.tokens import Tokens
from pipeline.training import INFERENCE_BATCH, seeded, student_recipe, train


@stage("prune", version=2)
def prune(config: PruneConfig, folder: Path, data: Artifact, student: Artifact, teacher: Artifact) -> Notes:
    """Prune the student's linear layers, and fine-tune the rest under its mask, taught by the teacher."""
    examples, validation = taught_examples(data, student, teacher)
    model = load_model(student.path).eval()
    targets = prunable(model)
    if config.method == "wanda":
        generator = np.random.default_rng(config.seed)
        count = min(config.calibration_rows, len(examples.tokens))
        rows = np.sort(generator.choice(len(examples.tokens), size=count, replace=False))
        norms = activation_norms(model, targets, examples.tokens, rows)
        masks = {name: wanda_mask(layer.weight, norms[name], config.sparsity) for name, layer in targets.items()}
    else:
        masks = {name: magnitude_mask(layer.weight, config.sparsity) for name, layer in targets.items()}

    dropped = {name: mask == 0 for name, mask in masks.items()}

    def hold_mask(done: int = 0, total: int = 0) -> None:
        """Fill with 0.0: a product with the mask would leave -0.0 here and there, which zstd packs badly."""
        with torch.no_grad():
            for name, layer in targets.items():
                layer.weight.masked_fill_(dropped[name].to(layer.weight.device), 0.0)

    hold_mask()
    history = []
    if config.epochs:
        with seeded(config.seed):
            history = train(model, examples, validation, student_recipe(config), after_step=hold_mask)
    save_descendant(model, folder, student)
    zeros = sum(int((layer.weight == 0).sum()) for layer in targets.values())
    return {"history": history, "prunable_sparsity": zeros / sum(layer.weight.numel() for layer in targets.values())}


def prunable(model: TextClassifier) -> dict[str, nn.Linear]:
    """The linear layers inside the encoder's transformer layers, by name; embeddings and head stay whole."""
    return {name: module for name, module in encoder_layers(model).named_modules() if isinstance(module, nn.Linear)}


def magnitude_mask(weight: Tensor, sparsity: float) -> Tensor:
    """Keep the largest weights of a matrix (Han et al. 2015, arXiv:1506.02626).

    Args:
        weight: any shape.
        sparsity: share to drop, in [0, 1).

    Returns:
        Zeros and ones of the weight's shape, with exactly `round(sparsity * numel)` zeros.
    """
    return _keep_largest(weight.detach().abs().flatten()[None], sparsity).view_as(weight)


def wanda_mask(weight: Tensor, input_norms: Tensor, sparsity: float) -> Tensor:
    """Keep in each output row the weights with the largest |W|·‖X‖₂ (Sun et al. 2023, arXiv:2306.11695).

    Args:
        weight: [outputs, inputs].
        input_norms: [inputs], the L2 norm of each input over the calibration tokens.
        sparsity: share of each row to drop, in [0, 1).

    Returns:
        Zeros and ones [outputs, inputs], with exactly `round(sparsity * inputs)` zeros in each row.
    """
    return _keep_largest(weight.detach().abs() * input_norms, sparsity)


def _keep_largest(scores: Tensor, sparsity: float) -> Tensor:
    """Zeros for each row's `round(sparsity * columns)` smallest scores, ones elsewhere; the first of equals goes."""
    dropped = scores.argsort(dim=1, stable=True)[:, : round(sparsity * scores.shape[1])]
    return torch.ones_like(scores).scatter_(1, dropped, 0.0)


@torch.inference_mode()
def activation_norms(
    model: TextClassifier, targets: dict[str, nn.Linear], tokens: Tokens, rows: NDArray[np.int64]
) -> dict[str, Tensor]:
    """L2 norm of every input of each target over all real tokens of these comments; padding does not count.

    Args:
        model: in evaluation mode.
        targets: linear layers of the model that see [batch, tokens, inputs].
        tokens: all comments.
        rows: the calibration comments.

    Returns:
        For each target a tensor [inputs].
    """
    squares = {name: torch.zeros(layer.in_features) for name, layer in targets.items()}
    mask = torch.empty(0)

    def watch(name: str) -> torch.utils.hooks.RemovableHandle:
        def add(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            squares[name] += inputs[0][mask].square().sum(0)

        return targets[name].register_forward_pre_hook(add)

    handles = [watch(name) for name in targets]
    try:
        for start in range(0, len(rows), INFERENCE_BATCH):
            input_ids, attention_mask = tokens.pad(rows[start : start + INFERENCE_BATCH], model.pad_id)
            mask = torch.from_numpy(attention_mask).bool()
            model(torch.from_numpy(input_ids), mask.long())
    finally:
        for handle in handles:
            handle.remove()
    return {name: total.sqrt() for name, total in squares.items()}
