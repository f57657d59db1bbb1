"""Masks against loops and NumPy's sort; scopes against the layers' names; cuts against slices."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from pipeline.prune.masks import Masks, drop_smallest, magnitude_scores, matrices_in, wanda_scores

MATRICES = st.tuples(st.integers(1, 9), st.integers(1, 12), st.floats(0.0, 0.95), st.integers(0, 2**32 - 1))


def weights_of(rows, columns, seed):
    """Coarse values, so that ties are frequent."""
    return np.round(np.random.default_rng(seed).normal(size=(rows, columns)), 1).astype(np.float32)


def linear(weight):
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.weight = nn.Parameter(torch.as_tensor(weight))
    return layer


def smallest(scores, sparsity):
    """NumPy's: the flat places of the `round(sparsity * n)` smallest, the first of equals first."""
    dropped = np.zeros(scores.size, dtype=bool)
    dropped[np.argsort(scores.ravel(), kind="stable")[: round(sparsity * scores.size)]] = True
    return dropped


@given(MATRICES)
def test_a_layers_share_is_numpys_smallest(case):
    rows, columns, sparsity, seed = case
    weight = weights_of(rows, columns, seed)
    dropped = drop_smallest(magnitude_scores({"a": linear(weight)}), sparsity, "layer")["a"].numpy()
    np.testing.assert_array_equal(dropped, smallest(np.abs(weight), sparsity).reshape(weight.shape))
    assert dropped.dtype == bool and dropped.sum() == round(sparsity * weight.size)


@given(MATRICES)
def test_the_global_share_is_numpys_smallest_of_all(case):
    rows, columns, sparsity, seed = case
    matrices = {"a": weights_of(rows, columns, seed), "b": 3 * weights_of(columns, 4, seed + 1), "c": np.ones((1, 2))}
    masks = drop_smallest({name: torch.as_tensor(m).abs() for name, m in matrices.items()}, sparsity, "global")
    expected = smallest(np.concatenate([np.abs(m).ravel() for m in matrices.values()]), sparsity)
    np.testing.assert_array_equal(np.concatenate([mask.numpy().ravel() for mask in masks.values()]), expected)
    assert {name: mask.shape for name, mask in masks.items()} == {name: m.shape for name, m in matrices.items()}


@given(MATRICES)
def test_wanda_is_a_double_loop_over_rows(case):
    rows, columns, sparsity, seed = case
    weight = weights_of(rows, columns, seed)
    norms = np.round(np.random.default_rng(seed + 1).random(columns) * 3, 1).astype(np.float32)
    scores = wanda_scores({"a": linear(weight)}, {"a": torch.from_numpy(norms)})
    mask = drop_smallest(scores, sparsity, "row")["a"].numpy()
    for row in range(rows):
        score = [float(np.abs(weight[row, column]) * norms[column]) for column in range(columns)]
        order = sorted(range(columns), key=score.__getitem__)
        assert set(np.flatnonzero(mask[row])) == set(order[: round(sparsity * columns)])


@pytest.mark.parametrize("granularity", ["layer", "row", "global"])
def test_one_number_for_all_inputs_ranks_as_magnitude_does(granularity):
    matrices = {"a": linear(weights_of(6, 20, 0)), "b": nn.Embedding(5, 7)}
    plain = drop_smallest(magnitude_scores(matrices), 0.3, granularity)
    scaled = drop_smallest(wanda_scores(matrices, dict.fromkeys(matrices, torch.tensor([7.0]))), 0.3, granularity)
    assert all(torch.equal(plain[name], scaled[name]) for name in matrices)


@pytest.mark.parametrize("kind", ["bert", "electra", "distilbert"])
def test_scopes_name_the_matrices_of_their_part(random_encoder, kind):
    model = random_encoder(kind)
    found = {scope: matrices_in(model, scope) for scope in ("encoder", "attention", "ffn", "all")}
    names = {scope: set(matrices) for scope, matrices in found.items()}
    # Per layer: query, key, value and attention output, and the two halves of the feed-forward network.
    assert [len(names[scope]) for scope in ("encoder", "attention", "ffn")] == [12, 8, 4]
    assert names["attention"] | names["ffn"] == names["encoder"] < names["all"]
    weights = {name.removesuffix(".weight") for name, p in model.named_parameters() if p.ndim == 2}
    assert names["all"] == weights - {"head"}
    assert sum(matrix.weight.numel() for matrix in found["ffn"].values()) == 2 * 2 * 24 * 20
    assert sum(matrix.weight.numel() for matrix in found["attention"].values()) == 2 * 4 * 24 * 24


def test_a_part_that_the_layers_have_not_is_a_value_error(random_encoder):
    model = random_encoder("bert")
    for layer in model.encoder.encoder.layer:
        layer.attention = nn.Identity()
    with pytest.raises(ValueError, match=r"prune\.scope=attention: the layers of BertModel.*take encoder or all"):
        matrices_in(model, "attention")


def test_held_weights_are_positive_zeros_and_masks_add_up(random_encoder):
    model = random_encoder()
    name = "encoder.encoder.layer.0.intermediate.dense"
    weight = model.get_parameter(f"{name}.weight")
    before, masks = weight.detach().clone(), Masks(model)
    first, second = torch.zeros(20, 24, dtype=torch.bool), torch.zeros(20, 24, dtype=torch.bool)
    first[:, :3], second[2] = True, True
    masks.add({name: first})
    masks.add({name: second})
    assert masks.are_held()
    with torch.no_grad():
        weight.sub_(1.0)
    assert not masks.are_held()
    masks.hold()
    assert masks.are_held() and torch.equal(weight == 0, first | second)
    assert not torch.signbit(weight[first | second]).any()
    torch.testing.assert_close(weight[~(first | second)], (before - 1.0)[~(first | second)], rtol=0, atol=0)


def test_masks_follow_a_cut(random_encoder):
    model = random_encoder()
    name = "encoder.encoder.layer.1.intermediate.dense"
    dropped = torch.rand(20, 24, generator=torch.Generator().manual_seed(0)) < 0.5
    masks = Masks(model)
    masks.add({name: dropped})
    before = model.get_submodule(name)
    weight, bias = before.weight.detach().numpy().copy(), before.bias.detach().numpy().copy()
    rows, columns = np.array([1, 4, 19]), np.array([0, 23])
    masks.cut({name: (torch.from_numpy(rows), torch.from_numpy(columns))})
    layer = model.get_submodule(name)
    np.testing.assert_array_equal(layer.weight.detach().numpy(), weight[np.ix_(rows, columns)])
    np.testing.assert_array_equal(layer.bias.detach().numpy(), bias[rows])
    np.testing.assert_array_equal(masks.dropped[name].numpy(), dropped.numpy()[np.ix_(rows, columns)])
    assert (layer.out_features, layer.in_features) == (3, 2) and masks.are_held()
