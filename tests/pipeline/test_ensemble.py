"""Ensembles of teachers: temperatures against a grid, means and folds against plain loops."""

import numpy as np
import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from pipeline.ensemble import SPLITS, Member, best_temperature, ensemble, mean_member, over_folds


def cross_entropy(logits, labels):
    return binary_cross_entropy_with_logits(torch.from_numpy(logits).double(), torch.from_numpy(labels).double()).item()


def member(seed, labels, factor=1.0):
    """Answers with noise, right on average."""
    random = np.random.default_rng(seed)
    return Member(
        {
            name: (factor * (2 * one - 1 + random.normal(0, 1.5, one.shape))).astype(np.float32)
            for name, one in labels.items()
        }
    )


@pytest.fixture
def labels():
    random = np.random.default_rng(0)
    return {name: (random.random((400, 3)) < 0.3).astype(np.int8) for name in SPLITS}


@pytest.mark.parametrize("factor", [0.2, 1.0, 5.0])
def test_the_temperature_is_the_best_of_a_fine_grid(labels, factor):
    logits = member(1, labels, factor).in_sample["validation"]
    grid = np.exp(np.linspace(np.log(0.1), np.log(10), 2001))
    losses = [cross_entropy(logits / temperature, labels["validation"]) for temperature in grid]
    assert best_temperature(logits, labels["validation"]) == pytest.approx(grid[np.argmin(losses)], rel=0.01)


def test_no_member_is_heard_more_for_being_overconfident(labels):
    quiet, loud = member(1, labels), member(2, labels)
    shouting = loud.scaled(7.0)
    for name in SPLITS:
        np.testing.assert_allclose(
            ensemble([quiet, shouting], labels["validation"]).in_sample[name],
            ensemble([quiet, loud], labels["validation"]).in_sample[name],
            rtol=2e-3,
            atol=2e-3,
        )
    both = ensemble([quiet, shouting], labels["validation"]).in_sample["test"]
    for one in (quiet, loud):
        assert cross_entropy(both, labels["test"]) < cross_entropy(one.in_sample["test"], labels["test"])


def test_a_single_member_stays_as_it_is(labels):
    alone = member(1, labels, 3.0)
    assert ensemble([alone], labels["validation"]) is alone


def test_means_are_taken_split_by_split_and_out_of_fold_where_there_is_any(labels):
    outside = np.ones((400, 3), dtype=np.float32)
    members = [member(1, labels), Member(member(2, labels).in_sample, outside)]
    average = mean_member(members)
    for name in SPLITS:
        expected = (members[0].in_sample[name] + members[1].in_sample[name]) / 2
        np.testing.assert_allclose(average.in_sample[name], expected, rtol=1e-6)
    np.testing.assert_array_equal(average.out_of_fold, outside)
    assert mean_member(members[:1]).out_of_fold is None


def test_each_comment_is_answered_by_the_model_that_did_not_see_it():
    rows = np.arange(10)
    parts = [
        (np.setdiff1d(rows, outside), outside) for outside in (np.array([3, 1, 7]), np.array([0, 2, 4, 5, 6, 8, 9]))
    ]

    def answer(inside, outside):
        seen = np.isin(rows, inside)[:, None]
        return {
            "train": np.where(seen, -1.0, len(inside)).astype(np.float32),
            "validation": seen[:1] * 1.0,
            "test": seen[:1],
        }

    folded = over_folds(answer, parts)
    assert folded.out_of_fold.tolist() == [[7.0 if row in (1, 3, 7) else 3.0] for row in rows]
    np.testing.assert_allclose(folded.in_sample["train"][0], (-1 + 3) / 2)


def test_members_are_written_for_the_later_stages(labels, tmp_path):
    one = Member(member(1, labels).in_sample, np.zeros((400, 3), dtype=np.float32))
    one.save(tmp_path)
    stored = {path.stem: np.load(path, allow_pickle=False) for path in tmp_path.iterdir()}
    assert set(stored) == {"logits_train_in_sample", "logits_train_out_of_fold", "logits_validation", "logits_test"}
    np.testing.assert_array_equal(stored["logits_validation"], one.in_sample["validation"])
    np.testing.assert_array_equal(stored["logits_train_out_of_fold"], one.out_of_fold)
