"""Quantization-aware training: the model learns with the rounding of its int8 form in place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from pipeline.artifact import Artifact
from pipeline.config import QuantizeConfig
from pipeline.encoder_artifact import taught_examples
from pipeline.models import TextClassifier, load_model
from pipeline.onnx_model import export_onnx
from pipeline.quantize.calibration import Range, activation_ranges, calibration_rows, quantizable, real_tokens
from pipeline.quantize.int8 import write_int8
from pipeline.quantize.weights import INT8_LARGEST, UINT8_LARGEST
from pipeline.training import History, seeded, student_recipe, train

MOMENTUM = 0.01
"""Weight of a batch's extremes in the running ones."""


def int8_qat(config: QuantizeConfig, target: Path, data: Artifact, sparse: Artifact, teacher: Artifact) -> History:
    """Train the parent's model under fake quantization, and write it in int8 with the scales that training ended with.

    Weights that were zero stay zero: the sparsity of the parent is kept.
    """
    examples, validation = taught_examples(data, sparse, teacher)
    model = load_model(sparse.path)
    rows = calibration_rows(len(examples.labels), config.calibration_rows, config.seed)
    ranges = activation_ranges(model, examples.select(rows).tokens)
    with seeded(config.seed), fake_quantization(model, ranges, config.per_channel) as trained_ranges:
        history = train(model, examples, validation, student_recipe(config), after_step=holding_zeros(model))
        ranges = trained_ranges()
    export_onnx(model, target)
    write_int8(target, target, config.per_channel, ranges)
    return history


def round_through(values: Tensor) -> Tensor:
    """Rounded to the nearest integer, half to even; the gradient passes as if nothing had happened.

    The straight-through estimator of Bengio et al. 2013 (arXiv:1308.3432).
    """
    return values + (values.round() - values).detach()


def fake_quantize(values: Tensor, scale: Tensor, zero_point: Tensor, smallest: int, largest: int) -> Tensor:
    """What is left of the values when they are stored as integers (Jacob et al. 2018, arXiv:1712.05877).

    Args:
        values: any shape.
        scale: distance of neighbouring numbers, broadcast over the values; no gradient flows into it.
        zero_point: the integer that means zero.
        smallest: the least integer; what is below its number is cut off, and has no gradient.
        largest: the greatest integer, likewise.

    Returns:
        Multiples of the scale, of the values' shape.
    """
    scale = scale.detach()
    integers = round_through(values / scale) + zero_point
    return (integers.clamp(smallest, largest) - zero_point) * scale


class FakeInt8Weight(nn.Module):
    """A weight as `int8_weights` would store it."""

    def __init__(self, axis: int | None) -> None:
        super().__init__()
        self.axis = axis
        """Along which weights share a scale; None where the whole tensor does."""

    def forward(self, weight: Tensor) -> Tensor:
        """The weight rounded to int8 and back."""
        size = weight.detach().abs()
        largest = size.max() if self.axis is None else size.amax(self.axis, keepdim=True)
        scale = torch.where(largest > 0, largest, 1.0) / INT8_LARGEST
        return fake_quantize(weight, scale, torch.zeros_like(scale), -INT8_LARGEST, INT8_LARGEST)


class FakeUint8Input(nn.Module):
    """Activations as the int8 file rounds them; in training the range follows what passes, with momentum."""

    low: Tensor
    high: Tensor

    def __init__(self, start: Range, select: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        for name, value in zip(("low", "high"), start, strict=True):
            self.register_buffer(name, torch.tensor(value, dtype=torch.float64))
        self.select = select

    def forward(self, inputs: Tensor) -> Tensor:
        """The activations rounded to uint8 and back."""
        if self.training:
            low, high = self.select(inputs.detach()).aminmax()
            self.low += MOMENTUM * (low - self.low)
            self.high += MOMENTUM * (high - self.high)
        # In float64 and in this order, as `uint8_range` computes them: the file has the same scale to the last bit.
        low, high = self.low.clamp(max=0.0), self.high.clamp(min=0.0)
        span = high - low
        scale = torch.where(span > 0, span / UINT8_LARGEST, 1.0).float()
        zero_point = (-low / scale.double()).round().clamp(0, UINT8_LARGEST).float()
        return fake_quantize(inputs, scale, zero_point, 0, UINT8_LARGEST)


@contextmanager
def fake_quantization(
    model: TextClassifier, ranges: dict[str, Range], per_channel: bool
) -> Iterator[Callable[[], dict[str, Range]]]:
    """Let the encoder compute with the numbers of its int8 file: weights, embeddings, inputs of linear layers.

    Args:
        model: changed while the context lasts; afterwards it has its plain weights, trained or not, and nothing else.
        ranges: of the linear layers' inputs to start from, by name.
        per_channel: whether each output of a layer, and each column of a table, has a scale of its own.

    Yields:
        A function that gives the ranges as training has left them.
    """
    layers = quantizable(model)
    tables = [module for module in model.encoder.modules() if isinstance(module, nn.Embedding)]
    inputs: dict[str, FakeUint8Input] = {}
    with ExitStack() as stack:
        select = stack.enter_context(real_tokens(model))
        for name, layer in layers.items():
            inputs[name] = FakeUint8Input(ranges[name], select)
            layer.add_module("fake_input", inputs[name])
            stack.callback(delattr, layer, "fake_input")
            handle = layer.register_forward_pre_hook(lambda layer, given: layer.fake_input(given[0]))
            stack.callback(handle.remove)
        for axis, modules in ((1, list(layers.values())), (0, tables)):
            for module in modules:
                parametrize.register_parametrization(module, "weight", FakeInt8Weight(axis if per_channel else None))
                stack.callback(parametrize.remove_parametrizations, module, "weight", leave_parametrized=False)
        yield lambda: {name: (item.low.item(), item.high.item()) for name, item in inputs.items()}


def holding_zeros(model: TextClassifier) -> Callable[[int, int], None]:
    """For `train(after_step=…)` under fake quantization: what was pruned before stays zero, embeddings included."""
    modules = [module for module in model.modules() if parametrize.is_parametrized(module)]
    pruned = [original_weight(module) == 0 for module in modules]

    @torch.no_grad()
    def hold(_done: int, _total: int) -> None:
        for module, zeros in zip(modules, pruned, strict=True):
            weight = original_weight(module)  # asked for each time: training may have moved it to a GPU
            weight.masked_fill_(zeros.to(weight.device), 0.0)

    return hold


def original_weight(module: nn.Module) -> Tensor:
    """The trained weight of a layer or table, without the rounding that it is seen through."""
    original: Tensor = module.parametrizations.weight.original  # type: ignore[union-attr, assignment]
    return original.detach()
