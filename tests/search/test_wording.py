"""Wording of problems: one line, and values much as the study file has them."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import DistilConfig
from search.wording import problem, shown, suggestion, yaml_text

values = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()


@given(st.dictionaries(st.text(), values | st.lists(values, max_size=3), max_size=4), st.booleans())
def test_yaml_reads_back(plain: dict[str, object], flow: bool) -> None:
    assert yaml.safe_load(yaml_text(plain, flow)) == plain


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        (0.5, "0.5"),
        ("a\nb", r"'a\nb'"),
        (("a", 1), "[a, 1]"),
        ({"low": 1}, "{low: 1}"),
        ("\u09b9", "'\u09b9'"),
    ],
)
def test_shown(value: object, text: str) -> None:
    assert shown(value) == text


def test_a_long_value_is_cut() -> None:
    assert len(shown("a" * 500)) == 98 and shown("a" * 500).endswith("a…")


def test_problem_and_suggestion() -> None:
    assert suggestion("treat", ["spam", "threat"]) == " (did you mean threat?)"
    assert suggestion("xyz", ["spam", "threat"]) == " (known: spam, threat)"
    assert problem("a.b", 1, "must be 2") == "a.b=1: must be 2"
    meant = problem("distil.epochs", 0, "must be 1", DistilConfig.model_fields["epochs"])
    assert meant.startswith("distil.epochs=0: must be 1 (") and meant.endswith(")") and not meant.endswith(".)")
