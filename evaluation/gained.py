"""What a search gains over its teacher: the losses and the reference of the hypervolume, wherever one is shown."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from evaluation.front import FloatArray

F1_MARGIN = 0.05
"""Macro F1 counts from this much below the teacher's; size and latency count from the teacher's own."""
UNIT = "macro F1 \u00d7 orders of magnitude of size \u00d7 orders of magnitude of latency"


def losses(f1_macro: npt.ArrayLike, model_size_mb: npt.ArrayLike, latency_ratio: npt.ArrayLike) -> FloatArray:
    """-macro F1, log10 of the size, log10 of the latency as a share of the teacher's, each minimised.

    Size and latency count by their ratios: from 10 to 1 MB is as much gained as from 100 to 10.

    Args:
        f1_macro: on validation, shape [...]; NaN where it is not known, as in the others.
        model_size_mb: of the same models, shape [...].
        latency_ratio: of the same models, shape [...].

    Returns:
        shape [..., 3].
    """
    f1, size, latency = (np.asarray(values, dtype=np.float64) for values in (f1_macro, model_size_mb, latency_ratio))
    with np.errstate(divide="ignore", invalid="ignore"):
        stacked: FloatArray = np.stack([-f1, np.log10(size), np.log10(latency)], axis=-1)
    return stacked


def reference_point(teacher: FloatArray) -> FloatArray:
    """What is not worth having, [3], from the teacher's losses [3]."""
    reference: FloatArray = teacher + np.array([F1_MARGIN, 0.0, 0.0])
    return reference
