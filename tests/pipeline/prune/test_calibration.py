"""Norms against comments that are run one by one, without padding."""

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.prune.calibration import activation_norms, draw_rows
from pipeline.prune.masks import drop_smallest, matrices_in, wanda_scores


def squares_seen(model, layers, batches):
    """Sum of squares of each layer's inputs over (ids, mask) batches, every position counted, in double precision."""
    seen = {name: np.zeros(layer.in_features) for name, layer in layers.items()}

    def watch(name):
        def hook(_module, inputs, _output):
            seen[name] += inputs[0].double().square().sum((0, 1)).numpy()

        return layers[name].register_forward_hook(hook)

    handles = [watch(name) for name in layers]
    with torch.inference_mode():
        for ids, mask in batches:
            model(ids, mask)
    for handle in handles:
        handle.remove()
    return seen


def one_by_one(tokens, rows):
    return [tuple(map(torch.from_numpy, tokens.pad(np.array([row]), 0))) for row in rows]


def test_norms_are_those_of_comments_run_one_by_one_without_padding(random_encoder, ragged):
    model, tokens = random_encoder(), ragged.tokens
    layers = matrices_in(model, "encoder")
    rows = np.array([i for i in range(80) if i % 7])
    norms = activation_norms(model, layers, tokens, rows)
    expected = squares_seen(model, layers, one_by_one(tokens, rows))
    assert len(norms) == 12
    for name, total in expected.items():
        np.testing.assert_allclose(norms[name].numpy(), np.sqrt(total), rtol=1e-3, err_msg=name)
    padded = squares_seen(model, layers, [tuple(map(torch.from_numpy, tokens.pad(rows, 0)))])
    assert all(np.sqrt(total).sum() > 1.1 * norms[name].sum().item() for name, total in padded.items()), (
        "with padding the norms would be others, so that the comparison above tells"
    )


def test_the_wanda_mask_of_padded_batches_is_a_double_loop_over_unpadded_comments(random_encoder, ragged):
    model, rows = random_encoder(), np.arange(80)
    layers = matrices_in(model, "encoder")
    masks = drop_smallest(wanda_scores(layers, activation_norms(model, layers, ragged.tokens, rows)), 0.4, "row")
    seen = squares_seen(model, layers, one_by_one(ragged.tokens, rows))
    for name, layer in layers.items():
        weight = layer.weight.detach().double().numpy()
        for row in range(len(weight)):
            scores = [abs(weight[row, column]) * seen[name][column] ** 0.5 for column in range(weight.shape[1])]
            order = sorted(range(len(scores)), key=scores.__getitem__)
            assert set(masks[name][row].nonzero()[:, 0].tolist()) == set(order[: round(0.4 * len(scores))])


def test_an_embeddings_tokens_all_count_as_one_that_stands_everywhere(random_encoder, ragged):
    model, rows = random_encoder("electra"), np.array([3, 4, 50])
    matrices = matrices_in(model, "all")
    norms = activation_norms(model, matrices, ragged.tokens, rows)
    embeddings = [name for name, matrix in matrices.items() if isinstance(matrix, nn.Embedding)]
    assert len(embeddings) == 3 and norms.keys() == matrices.keys()
    for name in embeddings:
        assert norms[name].tolist() == pytest.approx([sum(ragged.tokens.lengths[rows]) ** 0.5])


def test_no_hook_is_left_behind(random_encoder, ragged):
    model = random_encoder()
    layers = matrices_in(model, "encoder")
    activation_norms(model, layers, ragged.tokens, np.arange(5))
    assert all(not layer._forward_pre_hooks for layer in layers.values())
    model.encoder.encoder.layer[1].forward = lambda *_args, **_kwargs: 1 / 0
    with pytest.raises(ZeroDivisionError):
        activation_norms(model, layers, ragged.tokens, np.arange(5))
    assert all(not layer._forward_pre_hooks for layer in layers.values())


def test_rows_are_drawn_by_the_seed_without_repeating():
    first, again, other = draw_rows(100, 20, 0), draw_rows(100, 20, 0), draw_rows(100, 20, 1)
    assert len(set(first.tolist())) == 20 and first.min() >= 0 and first.max() < 100
    assert first.tolist() == again.tolist() == sorted(first.tolist()) != other.tolist()
    assert draw_rows(7, 20, 0).tolist() == list(range(7))
