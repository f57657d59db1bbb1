"""Losses against closed forms, torch's distributions, and numeric differentiation."""

import numpy as np
import pytest
import torch
from torch.distributions import Bernoulli, kl_divergence
from torch.nn import functional

from pipeline.losses import attention_loss, distillation_loss, focal_loss, hard_loss, hidden_loss, soft_loss

SHAPES = [(1, 1), (3, 5), (17, 2)]


def numbers(shape, seed, scale=3.0):
    return torch.from_numpy(np.random.default_rng(seed).normal(0.0, scale, shape))


def labels(shape, seed):
    return torch.from_numpy((np.random.default_rng(seed).random(shape) < 0.4).astype(float))


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


def mask_of(lengths, tokens):
    """[batch, tokens], 1 for the first tokens of each comment."""
    return (torch.arange(tokens) < torch.tensor(lengths)[:, None]).long()


def attention(lengths, tokens, heads, seed, scale=2.0):
    """Distributions [batch, heads, tokens, tokens] over the real keys; padded keys have 0."""
    scores = numbers((len(lengths), heads, tokens, tokens), seed, scale)
    return scores.masked_fill(mask_of(lengths, tokens)[:, None, None, :] == 0, -torch.inf).softmax(-1)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_hard_loss_is_the_mean_negative_log_likelihood(shape, dtype):
    logits, truth = numbers(shape, 0).to(dtype), labels(shape, 1).to(dtype)
    p, y = sigmoid(logits.double().numpy()), truth.double().numpy()
    expected = -(y * np.log(p) + (1 - y) * np.log(1 - p)).mean()
    assert hard_loss(logits, truth).item() == pytest.approx(expected, rel=1e-5)
    assert hard_loss(logits, truth).item() == pytest.approx(
        functional.binary_cross_entropy(logits.sigmoid(), truth).item(), rel=1e-5
    )


def test_hard_loss_is_finite_for_extreme_logits():
    logits = torch.tensor([[1e4, -1e4]])
    assert hard_loss(logits, torch.tensor([[1.0, 0.0]])).item() == 0.0
    assert hard_loss(logits, torch.tensor([[0.0, 1.0]])).item() == pytest.approx(1e4)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 7.5])
def test_soft_loss_is_temperature_squared_times_divergence_plus_the_teachers_entropy(shape, temperature):
    student, teacher = numbers(shape, 2), numbers(shape, 3)
    softened = Bernoulli(logits=teacher / temperature)
    divergence = kl_divergence(softened, Bernoulli(logits=student / temperature)).mean()
    expected = temperature**2 * (divergence + softened.entropy().mean())
    torch.testing.assert_close(soft_loss(student, teacher, temperature), expected)


def test_soft_loss_of_a_certain_teacher_is_the_hard_loss():
    student, truth = numbers((8, 3), 4), labels((8, 3), 5)
    torch.testing.assert_close(soft_loss(student, (truth - 0.5) * 1e4, 1.0), hard_loss(student, truth))


@pytest.mark.parametrize("temperature", [1.0, 2.0, 10.0, 1e4])
def test_the_square_keeps_the_gradients_size_as_temperature_grows(temperature):
    student, teacher = numbers((6, 4), 6).requires_grad_(), numbers((6, 4), 7)
    (gradient,) = torch.autograd.grad(soft_loss(student, teacher, temperature), student)
    s, t = student.detach().numpy(), teacher.numpy()
    exact = temperature * (sigmoid(s / temperature) - sigmoid(t / temperature)) / s.size
    np.testing.assert_allclose(gradient.numpy(), exact, rtol=1e-6, atol=1e-12)
    if temperature >= 1e4:  # Hinton et al.'s limit: half the squared difference of the logits, a quarter of its slope
        np.testing.assert_allclose(gradient.numpy(), (s - t) / (4 * s.size), rtol=1e-4, atol=1e-9)


def test_the_teachers_own_logits_are_the_minimum():
    teacher = numbers((5, 3), 8)
    own = teacher.clone().requires_grad_()
    least = soft_loss(own, teacher, 3.0)
    (gradient,) = torch.autograd.grad(least, own)
    assert gradient.abs().max().item() < 1e-12
    assert all(soft_loss(teacher + numbers((5, 3), seed, 0.5), teacher, 3.0) > least for seed in range(20))


def test_gradients_agree_with_numeric_differentiation():
    student, teacher = numbers((4, 3), 9).requires_grad_(), numbers((4, 3), 10)
    truth = labels((4, 3), 11)
    assert torch.autograd.gradcheck(lambda x: hard_loss(x, truth), student)
    assert torch.autograd.gradcheck(lambda x: soft_loss(x, teacher, 2.5), student)
    assert torch.autograd.gradcheck(
        lambda x: distillation_loss(soft_loss(x, teacher, 2.5), hard_loss(x, truth), 0.3), student
    )


@pytest.mark.parametrize(("alpha", "expected"), [(0.0, 7.0), (0.25, 5.75), (1.0, 2.0)])
def test_distillation_loss_weighs_soft_by_alpha(alpha, expected):
    assert distillation_loss(torch.tensor(2.0), torch.tensor(7.0), alpha).item() == pytest.approx(expected)


@pytest.mark.parametrize("shape", SHAPES)
def test_positive_weight_multiplies_the_positives_alone(shape):
    logits, truth, weight = numbers(shape, 12), labels(shape, 13), numbers(shape[1:], 14).exp()
    total = 0.0
    for i in range(shape[0]):
        for j in range(shape[1]):
            p = sigmoid(float(logits[i, j]))
            total += -float(weight[j]) * np.log(p) if truth[i, j] else -np.log(1.0 - p)
    assert hard_loss(logits, truth, weight).item() == pytest.approx(total / logits.numel())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0, 5.0])
def test_focal_loss_is_the_papers_formula(shape, gamma):
    logits, truth, weight = numbers(shape, 15), labels(shape, 16), numbers(shape[1:], 17).exp()
    p, y = sigmoid(logits.numpy()), truth.numpy()
    right = np.where(y == 1, p, 1 - p)
    expected = -((1 - right) ** gamma) * np.log(right)
    assert focal_loss(logits, truth, gamma).item() == pytest.approx(expected.mean())
    weighted = expected * np.where(y == 1, weight.numpy(), 1.0)
    assert focal_loss(logits, truth, gamma, weight).item() == pytest.approx(weighted.mean())


def test_focal_loss_with_gamma_0_is_the_hard_loss():
    logits, truth, weight = numbers((9, 4), 18).requires_grad_(), labels((9, 4), 19), numbers((4,), 20).exp()
    for weights in (None, weight):
        focal, hard = focal_loss(logits, truth, 0.0, weights), hard_loss(logits, truth, weights)
        torch.testing.assert_close(focal, hard)
        torch.testing.assert_close(torch.autograd.grad(focal, logits), torch.autograd.grad(hard, logits))


def test_focal_loss_turns_to_the_hard_comments():
    easy, hard = torch.tensor([[3.0]]), torch.tensor([[-3.0]])
    truth = torch.ones(1, 1)
    plain = hard_loss(hard, truth) / hard_loss(easy, truth)
    ratio = focal_loss(hard, truth, 2.0) / focal_loss(easy, truth, 2.0)
    # 1 - p is e^3 times larger at logit -3 than at 3.
    assert float(ratio / plain) == pytest.approx(np.exp(6.0), rel=1e-4)


@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0, 2.0])
def test_focal_loss_of_a_certain_answer_is_finite_and_so_is_its_gradient(gamma):
    logits = torch.tensor([[200.0, -200.0, 200.0, -200.0]], requires_grad=True)
    loss = focal_loss(logits, torch.tensor([[1.0, 0.0, 0.0, 1.0]]), gamma)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss.item() == pytest.approx(100.0)
    np.testing.assert_allclose(gradient, [[0.0, 0.0, 0.25, -0.25]], atol=1e-6)


@pytest.mark.parametrize("lengths", [[5], [5, 1], [2, 5, 3, 4]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_hidden_loss_is_the_mean_squared_error_of_the_real_tokens(lengths, dtype):
    mask, shape = mask_of(lengths, 5), (len(lengths), 5, 6)
    student, teacher = numbers(shape, 21).to(dtype), numbers(shape, 22).to(dtype)
    squares = [
        float(student[i, t, d] - teacher[i, t, d]) ** 2
        for i, length in enumerate(lengths)
        for t in range(length)
        for d in range(6)
    ]
    loss = hidden_loss(student, teacher, mask)
    assert (loss.shape, loss.dtype) == ((), dtype)
    assert loss.item() == pytest.approx(np.mean(squares), rel=1e-5)
    real = mask.bool()
    torch.testing.assert_close(loss, functional.mse_loss(student[real], teacher[real]))


@pytest.mark.parametrize("lengths", [[4], [4, 1], [2, 4, 3]])
def test_attention_loss_is_the_mean_divergence_of_the_real_queries(lengths):
    mask, heads = mask_of(lengths, 4), 3
    student, teacher = attention(lengths, 4, heads, 23), attention(lengths, 4, heads, 24)
    divergences, reference = [], []
    for i, length in enumerate(lengths):
        for head in range(heads):
            for query in range(length):
                p, q = teacher[i, head, query, :length], student[i, head, query, :length]
                divergences.append(sum(float(a) * np.log(float(a) / float(b)) for a, b in zip(p, q, strict=True)))
                reference.append(functional.kl_div(q.log(), p, reduction="sum"))
    loss = attention_loss(student, teacher, mask)
    assert loss.shape == ()
    assert loss.item() == pytest.approx(np.mean(divergences))
    torch.testing.assert_close(loss, torch.stack(reference).mean())


def test_attention_loss_is_0_where_they_agree_and_positive_elsewhere():
    mask = mask_of([4, 2], 4)
    teacher = attention([4, 2], 4, 2, 25)
    assert attention_loss(teacher, teacher, mask).item() == 0.0
    assert all(attention_loss(attention([4, 2], 4, 2, seed), teacher, mask) > 0 for seed in range(20))


def test_attention_loss_is_finite_where_one_of_them_gives_nothing():
    sure, other = torch.tensor([[[[1.0, 0.0], [0.5, 0.5]]]]), torch.tensor([[[[0.0, 1.0], [0.5, 0.5]]]])
    mask = torch.ones(1, 2, dtype=torch.int64)
    student = sure.clone().requires_grad_()
    loss = attention_loss(student, other, mask)
    (gradient,) = torch.autograd.grad(loss, student)
    # The smallest normal number of FP32 is 2^-126, and one query of two has it.
    assert loss.item() == pytest.approx(126 * np.log(2.0) / 2)
    assert torch.isfinite(gradient).all()


def test_attention_loss_refuses_another_number_of_heads():
    with pytest.raises(ValueError, match=r"\(1, 2, 4, 4\) and \(1, 1, 4, 4\)"):
        attention_loss(attention([4], 4, 2, 26), attention([4], 4, 1, 27), mask_of([4], 4))


@pytest.mark.parametrize("garbage", [1e9, float("nan"), float("inf")])
def test_padding_counts_in_no_matching_loss(garbage):
    lengths, tokens = [2, 4, 1], 4
    mask = mask_of(lengths, tokens)
    student, teacher = numbers((3, tokens, 5), 28), numbers((3, tokens, 5), 29)
    ours, theirs = attention(lengths, tokens, 2, 30), attention(lengths, tokens, 2, 31)
    clean = hidden_loss(student, teacher, mask), attention_loss(ours, theirs, mask)
    padding = mask == 0
    unseen = (padding[:, None, :, None] | padding[:, None, None, :]).expand_as(ours)
    for states in (student, teacher):
        states[padding] = garbage
    for maps in (ours, theirs):
        maps[unseen] = garbage
    student.requires_grad_()
    ours.requires_grad_()
    dirty = hidden_loss(student, teacher, mask), attention_loss(ours, theirs, mask)
    torch.testing.assert_close(dirty, clean)
    for loss, leaf, hidden in ((dirty[0], student, padding), (dirty[1], ours, unseen)):
        (gradient,) = torch.autograd.grad(loss, leaf)
        assert torch.isfinite(gradient).all() and gradient[hidden].abs().max() == 0.0


def test_gradients_of_focal_and_matching_losses_agree_with_numeric_differentiation():
    truth, weight = labels((4, 3), 32), numbers((3,), 33).exp()
    logits = numbers((4, 3), 34).requires_grad_()
    for gamma in (0.5, 2.0):
        assert torch.autograd.gradcheck(lambda x, gamma=gamma: focal_loss(x, truth, gamma, weight), logits)
    assert torch.autograd.gradcheck(lambda x: hard_loss(x, truth, weight), logits)
    lengths, mask = [3, 2], mask_of([3, 2], 3)
    teacher = numbers((2, 3, 4), 35)
    assert torch.autograd.gradcheck(lambda x: hidden_loss(x, teacher, mask), numbers((2, 3, 4), 36).requires_grad_())
    maps = attention(lengths, 3, 2, 37)
    scores = numbers((2, 2, 3, 3), 38).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: attention_loss(x.softmax(-1), maps, mask), scores)
