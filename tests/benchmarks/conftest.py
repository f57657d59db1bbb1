"""What tests of benchmarks share."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture
def tiny_study() -> dict[str, Any]:
    """A study of n-gram students on the embedded sample, built in seconds; its space is added by who runs it."""
    return {
        "study": "tiny",
        "data": {"sample_rows": 500},
        "teacher": {
            "model": "scratch",
            "scratch_layers": 1,
            "scratch_width": 32,
            "scratch_vocabulary": 400,
            "epochs": 1,
        },
        "distil": {
            "method": "logit",
            "student": "ngram",
            "buckets": {"choices": [256, 4096]},
            "dimension": 16,
            "ngram_epochs": 1,
        },
        "quantize": {"method": "int4", "block_size": 16},
        "search": {"stop_margin": 1.0},
        "safety": {"rounds": 200},
        "measure": {"seconds": 0.05, "requests": 20},
    }
