"""What trials cost beside training, on a tiny space: every part is of the trials that were run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.simulation_costs import measured, show
from pipeline.data import prepare
from pipeline.storage import open_store
from search.study_file import study_from


def test_each_shape_is_timed_once_and_longer_than_it_is_found(
    tiny_study: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_study["distil"]["alpha"] = {"choices": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]}
    config = study_from(tiny_study | {"storage": str(tmp_path)})
    chains = list(measured(config, prepare(config.data, config.seed).add_to(open_store(str(tmp_path))), 4))
    assert [chain["models"] for chain in chains] == [2] * 4, "student and quantized model"
    timed = [seconds for chain in chains for seconds in chain["timing"]]
    assert 2 <= len(timed) <= 4, "two widths, each in two formats"
    again = [chain["trial"] for chain in chains]
    assert 0.0 < max(again) < min(timed), "models that are there are not measured again"
    assert sum(chain["measuring"] is not None for chain in chains) >= 2, "chains with new models"
    show(chains)
    assert "timing" in capsys.readouterr().out
