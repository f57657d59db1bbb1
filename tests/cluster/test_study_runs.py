"""Names for MLflow, judged by MLflow's own validator: taken, and different for different names."""

from __future__ import annotations

import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.study_runs import NAME_LENGTH, valid_name

warnings.filterwarnings("ignore", "The ``noload`` loader strategy", DeprecationWarning)
ODD = ["হুমকি", "হমক", "হূমকি", "<script>", "_script_", "a&b", "a_b", "a b", " a", "a ", "", ".", "..", "../a", "/a"]
ODD += ["a//b", "a/", "a/./b", "a%b", "a#b", "a:b", "شكرا", "\u202eabc", "x" * 250, "x" * 251, "x" * 252, 'a"b', "a`b"]
ODD += ["a\nb", "f1.hate speech", "a{b}", "a\\b", "=1+1", "é", "e\u0301", "a\x00b", "..a", "...", "/", "a-0123456789ab"]
SHORT, DIGEST = st.text(alphabet="ab/. -_:", max_size=8), st.from_regex("-[0-9a-f]{12}")
names = st.one_of(st.text(max_size=300), st.sampled_from(ODD), SHORT, DIGEST)


def taken(name: str) -> bool:
    from mlflow.entities import Metric, Param
    from mlflow.exceptions import MlflowException
    from mlflow.utils.validation import _validate_batch_log_data

    try:
        _validate_batch_log_data([Metric(name, 1.0, 0, 0)], [Param(name, "x")], [])
    except MlflowException:
        return False
    return True


def test_the_validator_refuses_what_needs_another_name() -> None:
    assert not taken("হুমকি") and not taken("<script>") and not taken("a//b") and not taken("x" * 251)


@given(names)
def test_every_name_becomes_one_that_mlflow_takes(name: str) -> None:
    valid = valid_name(name)
    assert taken(valid) and len(valid) <= NAME_LENGTH
    assert valid_name(f"after_kd/per_label_f1.{name}").startswith("after_kd/per_label_f1")


@given(names, names)
def test_different_names_stay_different(one: str, other: str) -> None:
    assert (valid_name(one) == valid_name(other)) == (one == other)
    if one != valid_name(one):
        assert valid_name(valid_name(one)) != valid_name(one), "nobody can name a label so that it is another's name"


def test_odd_names_among_themselves() -> None:
    assert len({valid_name(name) for name in ODD}) == len(set(ODD))


@pytest.mark.parametrize("name", ["after_kd/val_loss", "per_label_f1.hate speech", "distil.method", "fold_1/f1", "é"])
def test_plain_names_stay_as_they_are(name: str) -> None:
    assert valid_name(name) == name
