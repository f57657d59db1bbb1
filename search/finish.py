"""After the last trial: the front measured again in one quiet session, and then, once, on the test split.

Also what both measurements allow to be said: which models the front has within noise, and what its models do otherwise
than the teacher, comment by comment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evaluation.evaluator import CompressionEvaluator
from evaluation.flip_files import COLUMNS, Flips
from evaluation.flips import label_flips
from evaluation.measuring import SplitName
from evaluation.noise import macro_f1_draws, may_compete, within_noise
from pipeline.artifact import Artifact
from pipeline.data import load_data
from search.trial import Row, find_model
from search.workbench import Workbench

TEST = "test_"
SPLITS: tuple[SplitName, ...] = ("validation", "test")


def measure_again(bench: Workbench, rows: Sequence[Mapping[str, Any]]) -> dict[str, Row]:
    """Latency figures of these rows' models measured anew, and what follows from them, by `model_key`."""
    evaluator = bench.evaluator(bench.teacher())
    figures: dict[str, Row] = {}
    for row in rows:
        model = find_model(bench, row)
        again = evaluator.speed(model, "quiet")
        scores = evaluator.scores(
            row["f1_macro"], row["critical_f1"], row["size_compression_ratio"], again["speedup_factor"]
        )
        figures[model.key] = {**again, **scores}
    return figures


def test_figures(bench: Workbench, rows: Sequence[Mapping[str, Any]]) -> dict[str, Row]:
    """Classification fields and safety of these rows' models on the test split, as `test_*`, by `model_key`."""
    evaluator = bench.evaluator(bench.teacher())

    def on_test(model: Artifact) -> Row:
        safety = evaluator.safety(model, "test").to_flat_dict()
        del safety["safe_for_deployment"]
        return {TEST + name: value for name, value in (evaluator.quality(model, "test") | safety).items()}

    return {row["model_key"]: on_test(find_model(bench, row)) for row in rows}


def front_within_noise(bench: Workbench, rows: Sequence[Mapping[str, Any]]) -> dict[str, Row]:
    """The models that no model of the front beats beyond noise, by `model_key`: `evaluation.noise` says when.

    Args:
        bench: the study's.
        rows: all rows of the study, with the latencies of the quiet session where there are some.

    Returns:
        for each model on either front `on_front_within_noise` (among those that are not `unsafe`) and
        `on_safe_front_within_noise` (among the `safe` ones).
    """
    evaluator = bench.evaluator(bench.teacher())
    frame = pd.DataFrame(rows)
    competing = [row for row, may in zip(rows, may_compete(frame), strict=True) if may]
    predictions = {row["model_key"]: _decisions(evaluator, find_model(bench, row), "validation") for row in competing}
    draws = macro_f1_draws(evaluator.splits["validation"].labels, predictions, seed=bench.config.seed)
    on_front, on_safe_front = (within_noise(frame, draws, only_safe=only_safe) for only_safe in (False, True))
    return {
        row["model_key"]: {"on_front_within_noise": bool(on), "on_safe_front_within_noise": bool(safe)}
        for row, on, safe in zip(rows, on_front, on_safe_front, strict=True)
        if on or safe
    }


def flips_of(bench: Workbench, rows: Sequence[Mapping[str, Any]]) -> Flips:
    """What these rows' models decide otherwise than the teacher, on validation and on test."""
    teacher = bench.teacher()
    evaluator = bench.evaluator(teacher)
    names, labels = evaluator.label_columns, {split: evaluator.splits[split].labels for split in SPLITS}
    by_teacher = {split: _decisions(evaluator, teacher, split) for split in SPLITS}
    tables = []
    for row in rows:
        model = find_model(bench, row)
        for split in SPLITS:
            flips = label_flips(labels[split], by_teacher[split], _decisions(evaluator, model, split), names)
            tables.append(flips.assign(model_key=model.key, split=split)[list(COLUMNS)])
    return Flips(
        rows=pd.concat(tables, ignore_index=True),
        model_keys=tuple(row["model_key"] for row in rows),
        supports={
            split: dict(zip(names, labels[split].sum(axis=0, dtype=int).tolist(), strict=True)) for split in SPLITS
        },
        data_folder=_data_place(bench),
        data_fingerprint=load_data(bench.data.path).fingerprint,
    )


def _data_place(bench: Workbench) -> str:
    """Where a machine that has the results finds the comments: this node's copy of an object store is not there."""
    return bench.config.store_place if bench.config.storage_is_remote else str(bench.data.path.resolve())


def _decisions(evaluator: CompressionEvaluator, model: Artifact, split: SplitName) -> NDArray[np.int8]:
    """0/1 [comments, labels] at the model's thresholds, which are tuned on validation."""
    return (evaluator.probabilities(model, split) >= evaluator.thresholds(model)).astype(np.int8)
