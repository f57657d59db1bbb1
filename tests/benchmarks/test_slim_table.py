"""Seconds of training taken over from a table of more comments."""

from __future__ import annotations

import pandas as pd
import pytest

from benchmarks.slim_table import seconds_from


def table(*rows: tuple[str, str | None, float | None, str | None, float]) -> pd.DataFrame:
    names = ["stage", "distil.student", "distil.alpha", "prune.method", "stage_seconds"]
    return pd.DataFrame(rows, columns=names)


FEW = table(
    ("baseline", None, None, None, 3.0),
    ("after_kd", "ngram", 0.1, None, 1.0),
    ("after_kd", "ngram", 0.9, None, 1.1),
    ("after_kd", "layers", 0.1, None, 5.0),
    ("after_pruning", "layers", 0.1, "structured", 2.0),
    ("after_quantization", "layers", 0.1, "structured", 0.5),
)
MANY = table(
    ("baseline", None, None, None, 30.0),
    ("after_kd", "ngram", 0.5, None, 10.0),
    ("after_kd", "layers", 0.5, None, 50.0),
    ("after_pruning", "layers", 0.5, "structured", 20.0),
)


def test_each_model_takes_what_its_like_takes_in_the_other_table_and_quantizing_what_it_took() -> None:
    rows = FEW.set_axis([3, 1, 4, 5, 9, 2])
    seconds = seconds_from(MANY, rows)
    assert seconds.index.equals(rows.index)
    assert seconds.tolist() == [30.0, 10.0, 10.0, 50.0, 20.0, 0.5]


def test_a_model_without_its_like_is_named() -> None:
    with pytest.raises(ValueError, match="1 models are not in the other table, the first with .*layers"):
        seconds_from(MANY.drop(index=2), FEW)
