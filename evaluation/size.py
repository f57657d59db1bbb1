"""What a model weighs: read from the weight files that are deployed, never from a framework's parameter list."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import zstandard
from safetensors.numpy import load_file

from pipeline.ngram import WEIGHTS as NGRAM_WEIGHTS
from pipeline.runtime import ONNX_WEIGHTS, load_deployment

MEBIBYTE = 2**20
ZSTD_LEVEL = 3


def measure_size(folder: Path) -> dict[str, float | int | None]:
    """Bytes and numbers of the deployable weight files in a model folder; an encoder's tokenizer is none of them.

    Returns:
        `model_size_mb` and `download_size_mb` (after zstd) in MiB, `num_parameters` (every stored weight, quantized
        ones too), `num_trainable_params` (None where only the deployed form is left), `sparsity_percent` over all of
        them, and `prunable_sparsity_percent` over the matrices of linear layers.
    """
    files = [folder / name for name in load_deployment(folder).weight_files]
    weights = zeros = prunable = prunable_zeros = 0
    for count, empty, in_linear_layer in stored_counts(folder):
        weights, zeros = weights + count, zeros + empty
        if in_linear_layer:
            prunable, prunable_zeros = prunable + count, prunable_zeros + empty
    sizes: dict[str, float | int | None] = {
        "model_size_mb": sum(file.stat().st_size for file in files) / MEBIBYTE,
        "download_size_mb": sum(compressed_bytes(file) for file in files) / MEBIBYTE,
        "num_parameters": weights,
        "num_trainable_params": trainable_parameters(folder),
        "sparsity_percent": 100.0 * zeros / weights,
    }
    return sizes | ({"prunable_sparsity_percent": 100.0 * prunable_zeros / prunable} if prunable else {})


def trainable_parameters(folder: Path) -> int | None:
    """Weights that further training could change; None for a folder that holds only the deployed form."""
    from safetensors import safe_open

    file = folder / "model.safetensors"
    if not file.is_file():
        return None
    with safe_open(file, framework="np") as stored:
        return sum(int(np.prod(stored.get_slice(name).get_shape())) for name in stored.keys())  # noqa: SIM118


def compressed_bytes(file: Path) -> int:
    """Bytes of the file after zstd."""
    compressor = zstandard.ZstdCompressor(level=ZSTD_LEVEL).compressobj(size=file.stat().st_size)
    total = 0
    with file.open("rb") as stream:
        while block := stream.read(MEBIBYTE):
            total += len(compressor.compress(block))
    return total + len(compressor.flush())


def stored_counts(folder: Path) -> Iterator[tuple[int, int, bool]]:
    """Of each stored tensor: its weights, how many of them are zero, and whether pruning may touch it."""
    if (folder / ONNX_WEIGHTS).is_file():
        from pipeline.onnx_model import stored_weights

        for weight in stored_weights(folder / ONNX_WEIGHTS):
            yield weight.values.size, int((weight.values == 0).sum()), weight.in_linear_layer
    if (folder / NGRAM_WEIGHTS).is_file():
        yield from _bag_counts(folder / NGRAM_WEIGHTS)
    for file in folder.glob("*.npz"):
        with np.load(file, allow_pickle=False) as stored:
            for name in stored.files:
                yield stored[name].size, int((stored[name] == 0).sum()), False


def _bag_counts(file: Path) -> Iterator[tuple[int, int, bool]]:
    """The weights of an n-gram bag; the scales of a table in few bits are none."""
    for name, values in load_file(file).items():
        if name == "scale":
            continue
        if name == "table" and values.dtype == np.uint8:
            numbers = np.stack([values & 15, values >> 4])  # two in a byte, stored 8 too high
            yield numbers.size, int((numbers == 8).sum()), False
        else:
            yield values.size, int((values == 0).sum()), False
