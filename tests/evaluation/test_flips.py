"""Flips against loops over the arrays and scikit-learn's confusion matrices."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix

from evaluation.flips import count_flips, flip_kinds, label_flips

NAMES = ["threat", "spam", "=bully"]


def random_arrays(seed, n, label_count, agreement=0.5):
    rng = np.random.default_rng(seed)
    labels, teacher, other = (rng.random((3, n, label_count)) < 0.5).astype(np.int8)
    return labels, teacher, np.where(rng.random((n, label_count)) < agreement, teacher, other)


def supports_of(labels, names):
    return dict(zip(names, labels.sum(axis=0).tolist(), strict=True))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 30), st.integers(1, 3), st.sampled_from([0.0, 0.5, 1.0]))
def test_rows_and_counts_are_those_of_loops(seed, n, label_count, agreement):
    labels, teacher, candidate = random_arrays(seed, n, label_count, agreement)
    names = NAMES[:label_count]
    flips = label_flips(labels, teacher, candidate, names)
    expected = [
        (i, names[j], labels[i, j], teacher[i, j], candidate[i, j])
        for i in range(n)
        for j in range(label_count)
        if teacher[i, j] != candidate[i, j]
    ]
    assert list(flips.columns) == ["comment", "label", "truth", "teacher", "candidate"]
    assert list(flips.itertuples(index=False, name=None)) == expected
    table = count_flips(flips, supports_of(labels, names))
    assert table["label"].tolist() == names
    assert table["support"].tolist() == labels.sum(axis=0).tolist()
    for j, row in enumerate(table.to_dict("records")):
        # What the flips change is what tells the two models' confusion matrices apart.
        change = confusion_matrix(labels[:, j], candidate[:, j], labels=[0, 1]) - confusion_matrix(
            labels[:, j], teacher[:, j], labels=[0, 1]
        )
        assert change[1, 0] == row["newly_missed"] - row["newly_found"]
        assert change[0, 1] == row["newly_false"] - row["newly_cleared"]
        missed = (labels[:, j] == 1) & (teacher[:, j] == 1) & (candidate[:, j] == 0)
        cleared = (labels[:, j] == 0) & (teacher[:, j] == 1) & (candidate[:, j] == 0)
        assert (row["newly_missed"], row["newly_cleared"]) == (missed.sum(), cleared.sum())


def test_the_four_kinds_by_hand():
    labels, teacher = np.array([[1], [0], [1], [0], [1]]), np.array([[1], [0], [0], [1], [1]])
    candidate = np.array([[0], [1], [1], [0], [1]])
    flips = label_flips(labels, teacher, candidate, ["threat"])
    assert flips["comment"].tolist() == [0, 1, 2, 3]
    assert flip_kinds(flips) == ["newly_missed", "newly_false", "newly_found", "newly_cleared"]
    [row] = count_flips(flips, {"threat": 3}).to_dict("records")
    assert row == {
        "label": "threat",
        "newly_missed": 1,
        "newly_false": 1,
        "newly_found": 1,
        "newly_cleared": 1,
        "support": 3,
    }


def test_a_label_without_a_flip_has_its_line():
    labels = np.array([[1, 0], [0, 0]])
    table = count_flips(label_flips(labels, labels, labels, NAMES[:2]), supports_of(labels, NAMES[:2]))
    assert table.drop(columns=["label", "support"]).to_numpy().tolist() == [[0] * 4] * 2


def test_bad_input_is_named():
    labels = np.array([[1, 0], [0, 1]])
    with pytest.raises(ValueError, match=r"teacher: shape \(1, 2\), truth \(2, 2\)"):
        label_flips(labels, labels[:1], labels, NAMES[:2])
    with pytest.raises(ValueError, match="3 label names"):
        label_flips(labels, labels, labels, NAMES)
    with pytest.raises(ValueError, match="candidate: value 0.5 is neither 0 nor 1"):
        label_flips(labels, labels, labels * 0.5, NAMES[:2])
    with pytest.raises(ValueError, match="label 'spam' is not in supports"):
        count_flips(label_flips(labels, labels, 1 - labels, NAMES[:2]), {"threat": 1})
