"""Smaller models against full ones with gates shut; importance against gates' gradients and loops."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from pipeline.config import PruneConfig
from pipeline.models import encoder_layers, fit_heads, head_size, load_model, save_model
from pipeline.onnx_model import export_onnx
from pipeline.prune.masks import Masks
from pipeline.prune.structured import (
    Group,
    activation_importance,
    groups_of,
    most_important,
    structured_cuts,
    taylor_importance,
)

KINDS = ["bert", "roberta", "xlm-roberta", "electra"]


def config_of(**settings):
    return PruneConfig(**{"method": "structured", **settings})


def batch(lengths=(12, 5, 1, 9), seed=0):
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    ids = torch.randint(2, 60, mask.shape, generator=torch.Generator().manual_seed(seed))
    return torch.where(mask == 1, ids, 1), mask


class Gated:
    """The full model with a gate on every head's and every neuron's output, laid over the modules that read them."""

    def __init__(self, model):
        self.model, self.gates = copy.deepcopy(model), []
        for layer in encoder_layers(self.model):
            for reader, count in ((layer.attention.output.dense, 3), (layer.output.dense, 20)):
                gates = torch.ones(count, requires_grad=True)
                self.gates.append(gates)
                reader.register_forward_pre_hook(self.hook(gates, reader.in_features // count))

    @staticmethod
    def hook(gates, width):
        return lambda _module, inputs: (inputs[0] * gates.repeat_interleave(width),)


def shrunk(model, kept, config):
    small = copy.deepcopy(model)
    groups, size = groups_of(small, config), head_size(small)
    Masks(small).cut(structured_cuts(groups, kept))
    fit_heads(small, size)
    return small


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_the_smaller_model_answers_as_the_full_one_with_those_outputs_zero(
    random_encoder, tmp_path, kind, implementation
):
    import onnxruntime

    model = random_encoder(kind, attn_implementation=implementation, pad_token_id=1)
    assert model.config._attn_implementation == implementation
    kept = [torch.tensor([1]), torch.tensor([0, 3, 4, 17]), torch.tensor([0, 2]), torch.tensor([19])]
    gated = Gated(model)
    with torch.no_grad():
        for gates, stay in zip(gated.gates, kept, strict=True):
            gates.zero_()[stay] = 1.0
    small = shrunk(model, kept, config_of())
    assert [layer.attention.self.query.out_features for layer in encoder_layers(small)] == [8, 16]
    assert [tuple(layer.intermediate.dense.weight.shape) for layer in encoder_layers(small)] == [(4, 24), (1, 24)]

    save_model(small, tmp_path)
    loaded = load_model(tmp_path).eval()
    export_onnx(loaded, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    for lengths in ((12, 5, 1, 9), (7,), (3, 20)):  # other batches and tokens than those of the export
        ids, mask = batch(lengths)
        with torch.inference_mode():
            expected, full = gated.model(ids, mask), model(ids, mask)
            torch.testing.assert_close(small(ids, mask), expected, rtol=0, atol=1e-5)
            torch.testing.assert_close(loaded(ids, mask), small(ids, mask), rtol=0, atol=1e-6)
        (answer,) = session.run(None, {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})
        np.testing.assert_allclose(answer, expected.numpy(), rtol=0, atol=1e-5)
        assert (expected - full).abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["bert", "electra"])
def test_taylor_importance_is_the_gradient_of_each_comments_gates(random_encoder, ragged, kind):
    model, rows = random_encoder(kind), np.array([0, 3, 7, 31, 64, 79])
    gated = Gated(model)
    sums = [torch.zeros_like(gates) for gates in gated.gates]
    for row in rows:
        ids, mask = ragged.tokens.pad(np.array([row]), 0)
        logits = gated.model(torch.from_numpy(ids), torch.from_numpy(mask))
        loss = functional.binary_cross_entropy_with_logits(logits[0], torch.from_numpy(ragged.labels[row]))
        for total, gradient in zip(sums, torch.autograd.grad(loss, gated.gates), strict=True):
            total += gradient.abs()
    scores = taylor_importance(model, groups_of(model, config_of()), ragged, rows)
    for score, total in zip(scores, sums, strict=True):
        torch.testing.assert_close(score, total / len(rows), rtol=1e-3, atol=1e-7)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_taylor_importance_is_the_slope_of_the_loss(random_encoder, ragged):
    model, row = random_encoder().double(), np.array([31])
    gated, step = Gated(model), 1e-4
    scores = taylor_importance(model, groups_of(model, config_of()), as_double(ragged), row)
    ids, mask = map(torch.from_numpy, ragged.tokens.pad(row, 0))

    def loss():
        with torch.no_grad():
            logits = gated.model(ids, mask)
        return functional.binary_cross_entropy_with_logits(logits, torch.from_numpy(ragged.labels[row]).double()).item()

    for gates, score in zip(gated.gates, scores, strict=True):
        for i in range(len(gates)):
            around = []
            for value in (1 + step, 1 - step):
                gates.data[i] = value
                around.append(loss())
            gates.data[i] = 1.0
            assert score[i].item() == pytest.approx(abs(around[0] - around[1]) / (2 * step), rel=1e-3, abs=1e-7)


def as_double(examples):
    return type(examples)(examples.tokens, examples.labels.astype(np.float64))


def test_activation_importance_is_a_loop_over_real_tokens(random_encoder, ragged):
    model, rows = random_encoder(), np.array([2, 5, 40, 66])
    added = {}  # per reader: vectors that each structure adds at each token

    def hook(name, count):
        def collect(module, inputs, _output):
            parts = inputs[0][0].detach().view(-1, count, module.in_features // count)
            columns = module.weight.detach().view(module.out_features, count, -1)
            for token in parts:
                vectors = torch.stack([columns[:, i] @ token[i] for i in range(count)])
                added.setdefault(name, []).append(vectors.norm(dim=1))

        return collect

    readers = [
        (reader, count)
        for layer in encoder_layers(model)
        for reader, count in ((layer.attention.output.dense, 3), (layer.output.dense, 20))
    ]
    handles = [reader.register_forward_hook(hook(i, count)) for i, (reader, count) in enumerate(readers)]
    for row in rows:
        model(*map(torch.from_numpy, ragged.tokens.pad(np.array([row]), 0)))
    for handle in handles:
        handle.remove()
    scores = activation_importance(model, groups_of(model, config_of()), ragged, rows)
    for i, score in enumerate(scores):
        torch.testing.assert_close(score, torch.stack(added[i]).mean(0), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("structures", "groups"), [("both", 4), ("heads", 2), ("ffn", 2)])
def test_parameters_of_the_structures_are_those_that_a_cut_removes(random_encoder, structures, groups):
    model = random_encoder("bert")
    found = groups_of(model, config_of(structures=structures))
    assert len(found) == groups
    for group in found:
        small = copy.deepcopy(model)
        Masks(small).cut(structured_cuts([group], [torch.arange(1, group.count)]))
        before, after = (sum(p.numel() for p in m.parameters()) for m in (model, small))
        assert before - after == group.parameters


@given(st.floats(0.01, 0.9), st.integers(0, 2**32 - 1), st.integers(1, 3))
def test_the_least_important_go_until_the_ratio_is_reached(ratio, seed, fewest):
    random = np.random.default_rng(seed)
    groups = [
        Group("a", "heads", 4, 8, 50, fewest),
        Group("a", "ffn", 30, 1, 6, 1),
        Group("b", "heads", 6, 8, 50, fewest),
        Group("b", "ffn", 17, 1, 6, 1),
    ]
    scores = [random.random(group.count).astype(np.float32) * 10.0 ** random.integers(-3, 3) for group in groups]
    total = sum(group.count * group.parameters for group in groups)
    possible = sum((group.count - group.fewest) * group.parameters for group in groups)
    if possible < ratio * total:
        with pytest.raises(ValueError, match=rf"prune\.ratio=.*heads_left={fewest}; lower it"):
            most_important(groups, list(map(torch.from_numpy, scores)), ratio)
        return
    kept = most_important(groups, list(map(torch.from_numpy, scores)), ratio)
    gone = [sorted(set(range(g.count)) - set(k.tolist())) for g, k in zip(groups, kept, strict=True)]
    removed = sum(len(places) * group.parameters for places, group in zip(gone, groups, strict=True))
    assert ratio * total <= removed < ratio * total + 50
    assert all(len(k) >= g.fewest and k.tolist() == sorted(k.tolist()) for g, k in zip(groups, kept, strict=True))
    relative = [score / score.mean() for score in scores]
    highest = max(r[place] for r, places in zip(relative, gone, strict=True) for place in places)
    for group, score, places in zip(groups, relative, gone, strict=True):
        if group.count - len(places) > group.fewest:  # nothing stays that is less important than what went
            assert np.delete(score, places).min() >= highest * (1 - 1e-5)
        assert not places or score[places].max() <= np.delete(score, places).min()


def test_scaling_a_layers_importance_changes_nothing(random_encoder):
    groups = groups_of(random_encoder(), config_of())
    scores = [torch.rand(group.count, generator=torch.Generator().manual_seed(i)) for i, group in enumerate(groups)]
    kept = most_important(groups, scores, 0.4)
    scaled = most_important(
        groups, [score * factor for score, factor in zip(scores, (1, 64, 0.25, 8), strict=True)], 0.4
    )
    assert all(torch.equal(a, b) for a, b in zip(kept, scaled, strict=True))


def test_another_layout_and_too_many_heads_are_value_errors(random_encoder):
    with pytest.raises(ValueError, match=r"prune\.method=structured: DistilBertModel has no attention\.self\.query"):
        groups_of(random_encoder("distilbert"), config_of())
    with pytest.raises(ValueError, match=r"prune\.heads_left=4: .*layer\.0 has 3 heads; ask for fewer"):
        groups_of(random_encoder(), config_of(heads_left=4))
    assert len(groups_of(random_encoder(), config_of(heads_left=4, structures="ffn"))) == 2
