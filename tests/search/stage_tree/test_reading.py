"""What the stage tree is told of a study."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from search.config import STAGES
from search.space import Space
from search.stage_tree.chains import draw_chain
from search.stage_tree.reading import StudyOutcomes
from search.study_file import study_from


def patience(distil: dict[str, Any], given: dict[str, Any]) -> float:
    config = study_from({"data": {"label_columns": ["threat", "bully"]}, "distil": distil})
    chain = draw_chain(Space(config).suggest, tuple(STAGES), np.random.default_rng(0), given)
    return StudyOutcomes(config).patience(chain)


@pytest.mark.parametrize(("student", "expected"), [("layers", 2.0), ("ngram", 5.0)])
def test_patience_counts_the_epochs_of_the_students_own_kind(student: str, expected: float) -> None:
    distil = {"method": "logit", "student": {"choices": ["layers", "ngram"]}, "epochs": 3, "ngram_epochs": 31}
    assert patience(distil, {"distil.student": student}) == pytest.approx(expected)


@pytest.mark.parametrize("epochs", [1, 7])
def test_patience_takes_searched_epochs_as_they_were_drawn(epochs: int) -> None:
    distil = {"method": "logit", "epochs": {"choices": [1, 7]}}
    assert patience(distil, {"distil.epochs": epochs}) == pytest.approx(np.log2(1 + epochs))


def test_a_chain_without_student_has_the_patience_of_one_epoch() -> None:
    distil = {"method": {"choices": ["none", "logit"]}, "epochs": {"choices": [1, 7]}}
    assert patience(distil, {"distil.method": "none"}) == 1.0
