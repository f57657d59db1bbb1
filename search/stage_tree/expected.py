"""What stages should do to size, latency and cost before any has run: from the numbers in their settings alone.

Rough on purpose: the sampler learns how wrong they are, and in which setting. Of F1 and safety nothing is presumed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from search.compatibility import teacher_shape
from search.config import STAGES, StudyConfig
from search.stage_tree.beliefs import OVERHEAD_SECONDS
from search.stage_tree.effects import FloatArray

LAYER_PARAMETERS = 12
"""Of a transformer layer, in squares of its width."""
MB_PER_PARAMETER = 4 / 2**20
BAG_SECONDS, BAG_TIME, BAG_HEAD_MB = 0.02, 0.005, 0.1
"""An n-gram bag's pass over train and its answer, as shares of the teacher's; what it has beside its table."""
WORDS_KEPT = 0.3
"""Share of the embeddings that `vocabulary` leaves."""
FORMATS = {
    "fp16": (0.5, 1.0),
    "int8_dynamic": (0.25, 0.5),
    "int8_static": (0.25, 0.5),
    "int8_qat": (0.25, 0.5),
    "int4": (0.15, 1.0),
}
"""Size and an encoder's time, as shares of FP32."""
FORMAT_SECONDS = 2.0


@dataclass
class _Model:
    """A model on its way through the stages."""

    embeddings: float
    """MB."""
    layers: float
    """MB."""
    time: float = 1.0
    """To answer, as a share of the teacher's."""
    bag: bool = False

    def logs(self) -> FloatArray:
        """log10 of size and time."""
        return np.log10([self.embeddings + self.layers, self.time])


class Expected:
    """Guesses for the chains of one study."""

    def __init__(self, config: StudyConfig, teacher_mb: float, teacher_seconds: float) -> None:
        """Take the study, and size and time of training of its teacher."""
        self._settings = {stage: config.settings(stage) for stage in STAGES}
        shape = teacher_shape(config)
        self._depth, self._width = shape.layers or 12, shape.width or 384
        self._pass_seconds = max(teacher_seconds, 1.0) / max(config.teacher.epochs, 1)
        known = shape.layers is not None and shape.width is not None
        layers = self._depth * LAYER_PARAMETERS * self._width**2 * MB_PER_PARAMETER if known else teacher_mb / 2
        self._layers_mb = min(layers, 0.9 * teacher_mb)
        self._teacher_mb = teacher_mb

    def __call__(self, params: Mapping[str, Any]) -> dict[str, FloatArray]:
        """Changes by each stage of a chain.

        Args:
            params: searched settings of the chain, as `stage.name`.

        Returns:
            by stage, shape [5]: change of -macro F1, of log10 size, of log10 latency and of the excess over the safety
            limits, and log10 of the seconds with `OVERHEAD_SECONDS`. Zeros but the last for a stage left out.
        """
        model = _Model(self._teacher_mb - self._layers_mb, self._layers_mb)
        settings = {stage: dict(fixed) for stage, fixed in self._settings.items()}
        for name, value in params.items():
            stage, _, setting = name.partition(".")
            settings[stage][setting] = value
        changes = {}
        for stage, own in settings.items():
            before = model.logs()
            seconds = 0.0 if own["method"] == "none" else getattr(self, f"_{stage}")(model, own)
            size, time = model.logs() - before
            changes[stage] = np.array([0.0, size, time, 0.0, math.log10(seconds + OVERHEAD_SECONDS)])
        return changes

    def _distil(self, model: _Model, own: Mapping[str, Any]) -> float:
        if own["student"] == "ngram":
            model.embeddings = own["buckets"] * own["dimension"] * MB_PER_PARAMETER
            model.layers, model.time, model.bag = BAG_HEAD_MB, BAG_TIME, True
            return float(own["ngram_epochs"] * self._pass_seconds * BAG_SECONDS)
        depth, width = 0.5, 1.0  # of another encoder, which nobody has looked at yet
        if own["student"] == "layers":
            depth, width = own["layers"] / self._depth, (own["width"] or self._width) / self._width
        model.embeddings *= width
        model.layers *= depth * width**2
        model.time *= depth * width
        return float(own["epochs"] * self._pass_seconds * model.time)

    def _prune(self, model: _Model, own: Mapping[str, Any]) -> float:
        methods = own["method"].split("+")
        if "vocabulary" in methods and not model.bag:
            model.embeddings *= WORDS_KEPT
        if "structured" in methods:
            model.layers *= 1.0 - own["ratio"]
            model.time *= 1.0 - 0.8 * own["ratio"]
        return float(own["epochs"] * self._pass_seconds * model.time)

    def _quantize(self, model: _Model, own: Mapping[str, Any]) -> float:
        smaller, faster = FORMATS[own["method"]]
        model.embeddings, model.layers = model.embeddings * smaller, model.layers * smaller
        model.time *= 1.0 if model.bag else faster
        training = own["epochs"] * self._pass_seconds * model.time if own["method"] == "int8_qat" else 0.0
        return float(FORMAT_SECONDS + training)
