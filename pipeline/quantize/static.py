"""int8 with scales from calibration."""

from __future__ import annotations

from pathlib import Path

from pipeline.artifact import Artifact
from pipeline.config import QuantizeConfig
from pipeline.data import load_data
from pipeline.models import load_model
from pipeline.quantize.calibration import activation_ranges, calibration_rows
from pipeline.quantize.int8 import write_int8
from pipeline.runtime import ONNX_WEIGHTS, TOKENIZER, load_deployment
from pipeline.tokens import load_tokenizer, tokenise


def int8_static(config: QuantizeConfig, target: Path, data: Artifact, sparse: Artifact) -> None:
    """Write the parent's model in int8, its activations scaled by what they were on comments of the train split."""
    texts = load_data(data.path).train.texts
    rows = calibration_rows(len(texts), config.calibration_rows, config.seed)
    tokenizer = load_tokenizer(sparse.path / TOKENIZER, load_deployment(sparse.path).max_tokens)
    tokens = tokenise(tokenizer, [texts[row] for row in rows])
    ranges = activation_ranges(load_model(sparse.path), tokens, config.calibration)
    write_int8(sparse.path / ONNX_WEIGHTS, target, config.per_channel, ranges)
