"""Store the deployed weights in fewer bits."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from pipeline.artifact import Artifact, Notes
from pipeline.config import QuantizeConfig
from pipeline.quantize.fp16 import write_fp16
from pipeline.quantize.int4 import write_int4
from pipeline.quantize.int8 import write_int8
from pipeline.runtime import ONNX_WEIGHTS, TOKENIZER, load_deployment


def quantize(config: QuantizeConfig, folder: Path, data: Artifact, sparse: Artifact, teacher: Artifact) -> Notes:
    """Write the model's ONNX file with smaller numbers; tokenizer and labels stay, the torch model does not.

    Raises:
        ValueError: the method cannot be had with this model.
    """
    deployment = load_deployment(sparse.path)
    if deployment.runtime == "ngram":
        return _quantize_ngram(config, folder, sparse)
    source, target = sparse.path / ONNX_WEIGHTS, folder / ONNX_WEIGHTS
    notes: Notes = {}
    match config.method:
        case "fp16":
            write_fp16(source, target)
        case "int8_dynamic":
            write_int8(source, target, config.per_channel)
            deployment = replace(deployment, batch_invariant=False)
        case "int8_static":
            from pipeline.quantize.static import int8_static

            int8_static(config, target, data, sparse)
        case "int8_qat":
            from pipeline.quantize.qat import int8_qat

            notes["history"] = int8_qat(config, target, data, sparse, teacher)
        case "int4":
            write_int4(source, target, config.block_size)
        case "none":
            raise ValueError("quantize.method='none': there is nothing to write; deploy the parent itself")
    shutil.copyfile(sparse.path / TOKENIZER, folder / TOKENIZER)
    deployment.save(folder)
    return notes


def _quantize_ngram(config: QuantizeConfig, folder: Path, sparse: Artifact) -> Notes:
    """The n-gram model's own formats."""
    if config.method in ("int8_static", "int8_qat"):
        raise ValueError(
            f"quantize.method={config.method!r}: an n-gram model multiplies in FP32 and has no activations to scale; "
            "use fp16, int8_dynamic or int4"
        )
    from pipeline.ngram import quantize_ngram

    quantize_ngram(config.method, config.block_size, sparse.path, folder)
    return {}
