"""After the last trial: the front measured again in one quiet session, and then, once, on the test split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.artifact import Artifact
from search.trial import Row, Workbench, find_model

TEST = "test_"


def measure_again(bench: Workbench, rows: Sequence[Mapping[str, Any]]) -> dict[str, Row]:
    """Latency figures of these rows' models measured anew, and what follows from them, by `model_key`."""
    evaluator = bench.evaluator(bench.teacher())
    figures: dict[str, Row] = {}
    for row in rows:
        model = find_model(bench.store, row)
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

    return {row["model_key"]: on_test(find_model(bench.store, row)) for row in rows}
