"""Matching against the library's own hidden states and attention; its promises on dropout and padding."""

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel, DebertaV2Config, DebertaV2Model, ElectraConfig, ElectraModel

from pipeline.matching import TeacherMatching, mapped, mapped_attention
from pipeline.models import TextClassifier
from pipeline.students import important_dimensions, keep_layers, narrow

VOCABULARY, LABELS, WIDTH = 50, 3, 16
LENGTHS = (9, 4, 1, 6)


def encoder(layers=4, pooling="mean", dropout=0.0, attention_dropout=0.0, family=(BertConfig, BertModel), seed=0):
    torch.manual_seed(seed)
    config_class, model_class = family
    config = config_class(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        embedding_size=WIDTH,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=16,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=attention_dropout,
    )
    body = model_class(config)
    body.register_module("pooler", None)
    model = TextClassifier(body, LABELS, pooling, dropout)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    return model.eval()


def batch(extra=0, pad_id=0):
    """Ids and mask of comments of 9, 4, 1 and 6 tokens, padded to 9 and `extra` more."""
    mask = (torch.arange(max(LENGTHS) + extra) < torch.tensor(LENGTHS)[:, None]).long()
    ids = torch.randint(2, VOCABULARY, (len(LENGTHS), max(LENGTHS)), generator=torch.Generator().manual_seed(0))
    ids = torch.nn.functional.pad(ids, (0, extra))
    return torch.where(mask == 1, ids, pad_id), mask


def disturbed(model, seed=9):
    """The model with its weights moved, so that it differs from its teacher."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    return model


def matched(teacher, layers, width=WIDTH, hidden=0.0, attention=0.0):
    """A student of these layers and this width, moved, and its matching."""
    student = keep_layers(teacher, layers)
    dimensions = torch.arange(WIDTH) if width == WIDTH else important_dimensions(student, width)
    student = student if width == WIDTH else narrow(student, dimensions)
    return disturbed(student), TeacherMatching(teacher, layers, dimensions, hidden, attention), dimensions


def inside(model, ids, mask):
    """The library's own hidden states and attention, comment by comment without padding."""
    model.encoder.set_attn_implementation("eager")
    outputs = []
    with torch.inference_mode():
        for row, length in enumerate(LENGTHS):
            alone = {"input_ids": ids[row : row + 1, :length], "attention_mask": mask[row : row + 1, :length]}
            found = model.encoder(**alone, output_hidden_states=True, output_attentions=True)
            outputs.append(
                [[part[0].double().numpy() for part in parts] for parts in (found.hidden_states, found.attentions)]
            )
    model.encoder.set_attn_implementation("sdpa")
    return outputs


def expected_losses(student, teacher, layers, dimensions, ids, mask):
    """Mean squared error and mean divergence, token by token, with NumPy."""
    squares, divergences = [[] for _ in range(len(layers) + 1)], [[] for _ in layers]
    for ours, theirs in zip(inside(student, ids, mask), inside(teacher, ids, mask), strict=True):
        for i, state in enumerate([0, *(layer + 1 for layer in layers)]):
            placed = np.zeros_like(theirs[0][state])
            placed[:, dimensions] = ours[0][i]
            squares[i] += list(np.square(placed - theirs[0][state]).mean(axis=1))
        for i, layer in enumerate(layers):
            p, q = theirs[1][layer], ours[1][i]
            divergences[i] += list((p * np.log(p / q)).sum(axis=2).flatten())
    return np.mean([np.mean(part) for part in squares]), np.mean([np.mean(part) for part in divergences])


@pytest.mark.parametrize("family", [(BertConfig, BertModel), (ElectraConfig, ElectraModel)])
@pytest.mark.parametrize(("layers", "width"), [([0, 3], WIDTH), ([2, 3], WIDTH), ([0, 2, 3], 8), ([1], 4)])
def test_the_loss_is_the_weighted_mean_over_layers(family, layers, width):
    teacher = encoder(family=family)
    ids, mask = batch()
    student, both, dimensions = matched(teacher, layers, width, hidden=0.7, attention=3.0)
    hidden, attention = expected_losses(student, teacher, layers, dimensions, ids, mask)
    assert min(hidden, attention) > 1e-3
    for weights in ((0.7, 3.0), (0.7, 0.0), (0.0, 3.0)):
        loss = TeacherMatching(teacher, layers, dimensions, *weights)(student, ids, mask)[1]
        assert loss.item() == pytest.approx(weights[0] * hidden + weights[1] * attention, rel=1e-4)
    assert both(student, ids, mask)[1].shape == ()


@pytest.mark.parametrize("pooling", ["mean", "cls", "max"])
@pytest.mark.parametrize("weights", [(1.0, 0.0), (0.0, 1.0), (1.0, 1.0)])
def test_the_logits_are_the_students_own(pooling, weights):
    student, matching, _ = matched(encoder(pooling=pooling, dropout=0.3), [0, 3], WIDTH, *weights)
    ids, mask = batch()
    torch.testing.assert_close(matching(student, ids, mask)[0], student(ids, mask), rtol=1e-4, atol=1e-5)


def test_the_student_runs_once_and_gets_gradients():
    student, matching, _ = matched(encoder(), [0, 3], 8, hidden=1.0, attention=1.0)
    calls = []
    student.encoder.register_forward_hook(lambda *_: calls.append(1))
    logits, loss = matching(student, *batch())
    assert len(calls) == 1
    (logits.square().mean() + loss).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in student.head.parameters())
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in matching.projections)
    query = student.encoder.encoder.layer[1].attention.self.query.weight
    assert query.grad.abs().sum() > 0


def test_the_same_model_is_at_no_distance():
    teacher = encoder()
    layers = [0, 1, 2, 3]
    matching = TeacherMatching(teacher, layers, torch.arange(WIDTH), 1.0, 1.0)
    for place in matching.projections:
        assert torch.equal(place, torch.eye(WIDTH))
    assert matching(keep_layers(teacher, layers), *batch())[1].item() < 1e-6


def test_a_projection_starts_as_the_place_of_each_dimension():
    dimensions = torch.tensor([1, 2, 11, 14])
    matching = TeacherMatching(encoder(), [0, 3], dimensions, hidden_weight=1.0)
    assert len(matching.projections) == 3
    for place in matching.projections:
        states = torch.randn(5, 4)
        assert torch.equal((states @ place.T)[:, dimensions], states) and place.sum() == 4


def test_the_teacher_is_frozen_and_never_drops_out():
    teacher = encoder(dropout=0.5, attention_dropout=0.5)
    student, matching, _ = matched(teacher, [0, 3], WIDTH, hidden=1.0, attention=1.0)
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    first, again = (matching.train()(student, *batch())[1] for _ in range(2))
    assert first.item() == again.item()
    first.backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert {id(p) for p in matching.parameters() if p.requires_grad} == {id(p) for p in matching.projections}
    assert matching.training and not any(module.training for module in teacher.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())
    assert all(parameter.requires_grad for parameter in student.parameters())


def test_distributions_are_compared_before_dropout():
    """The first layer sees the same in student and teacher, so that only dropout could tell them apart."""
    teacher = encoder(attention_dropout=0.5)
    matching = TeacherMatching(teacher, [0], torch.arange(WIDTH), attention_weight=1.0)
    student = keep_layers(teacher, [0]).train()
    logits, loss = matching(student, *batch())
    assert loss.item() < 1e-6
    assert (logits - matching(student, *batch())[0]).abs().max() > 1e-3


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_the_student_has_its_former_attention_again(implementation):
    student, matching, _ = matched(encoder(), [0, 3], WIDTH, attention=1.0)
    student.encoder.set_attn_implementation(implementation)
    matching(student, *batch())
    assert student.config._attn_implementation == implementation
    with pytest.raises(IndexError):
        matching(student, batch()[0] + VOCABULARY, batch()[1])
    assert student.config._attn_implementation == implementation


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_mapped_attention_is_scaled_dot_product_attention(dropout):
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, 3, 5, 4, generator=generator) for _ in range(3))
    mask = torch.zeros(2, 1, 5, 5)
    mask[1, ..., 3:] = torch.finfo(torch.float32).min
    module = torch.nn.Identity().train()
    mixed, maps = mapped_attention(module.eval(), query, key, value, mask, dropout=dropout)
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value, mask)
    torch.testing.assert_close(mixed, expected.transpose(1, 2))
    torch.testing.assert_close(maps.sum(-1), torch.ones(2, 3, 5))
    assert maps[1, ..., 3:].max() == 0.0
    flat = mapped_attention(module, query, key, value, None, scaling=0.0)[1]
    torch.testing.assert_close(flat, torch.full((2, 3, 5, 5), 0.2))
    trained, same = mapped_attention(module.train(), query, key, value, mask, dropout=dropout)
    assert torch.equal(same, maps) and torch.equal(trained, mixed) == (dropout == 0.0)


@pytest.mark.parametrize(("extra", "pad_id"), [(5, 0), (0, 7), (3, 7)])
def test_padding_changes_neither_logits_nor_loss(extra, pad_id):
    student, matching, _ = matched(encoder(), [0, 3], 8, hidden=1.0, attention=1.0)
    plain, padded = matching(student, *batch()), matching(student, *batch(extra, pad_id))
    torch.testing.assert_close(padded, plain, rtol=1e-4, atol=1e-5)


def test_an_architecture_that_does_not_tell_its_attention_is_refused():
    config = DebertaV2Config(
        vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24
    )
    model = TextClassifier(DebertaV2Model(config), LABELS, "mean", 0.0)
    with pytest.raises(ValueError, match="DebertaV2Model does not tell its attention; take logit"), mapped(model):
        pass
