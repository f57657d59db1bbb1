"""Store the deployed weights in fewer bits."""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from pathlib import Path

import onnx

from pipeline.artifact import Artifact, Notes, stage
from pipeline.config import QuantizeConfig
from pipeline.onnx_model import store_half
from pipeline.runtime import ONNX_WEIGHTS, TOKENIZER, load_deployment


@stage("quantize", version=1)
def quantize(config: QuantizeConfig, folder: Path, data: Artifact, sparse: Artifact, teacher: Artifact) -> Notes:
    """Write the model's ONNX file again with smaller numbers; tokenizer and labels stay."""
    shutil.copyfile(sparse.path / TOKENIZER, folder / TOKENIZER)
    deployment = load_deployment(sparse.path)
    if config.method == "fp16":
        store_half(sparse.path / ONNX_WEIGHTS, folder / ONNX_WEIGHTS)
    else:
        int8_dynamic(sparse.path / ONNX_WEIGHTS, folder / ONNX_WEIGHTS)
        deployment = replace(deployment, batch_invariant=False)
    deployment.save(folder)
    return {}


def int8_dynamic(source: Path, target: Path) -> None:
    """Weights and embeddings in int8, one scale a tensor; activations scaled as they come (ONNX Runtime).

    Jacob et al. 2018 (arXiv:1712.05877) for the arithmetic.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(source)
    del model.graph.value_info[:]  # shapes noted by the exporter contradict the rewritten graph
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # it advises a preprocessing step on the root logger at every call
    try:
        quantize_dynamic(model, target, weight_type=QuantType.QInt8)
    finally:
        root.setLevel(level)
