"""Losses against closed forms, torch's distributions, and numeric differentiation."""

import numpy as np
import pytest
import torch
from torch.distributions import Bernoulli, kl_divergence
from torch.nn import functional

from pipeline.losses import distillation_loss, hard_loss, soft_loss

SHAPES = [(1, 1), (3, 5), (17, 2)]


def numbers(shape, seed, scale=3.0):
    return torch.from_numpy(np.random.default_rng(seed).normal(0.0, scale, shape))


def labels(shape, seed):
    return torch.from_numpy((np.random.default_rng(seed).random(shape) < 0.4).astype(float))


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


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
