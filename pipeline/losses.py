"""Losses of training and distillation: pure tensor functions."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def hard_loss(student_logits: Tensor, labels: Tensor, positive_weight: Tensor | None = None) -> Tensor:
    """Binary cross-entropy with the true labels, label by label.

    Args:
        student_logits: [batch, labels].
        labels: [batch, labels], 0.0 or 1.0.
        positive_weight: [labels], how much a positive counts beside a negative; None counts both alike.

    Returns:
        Mean over batch and labels, a scalar.
    """
    return functional.binary_cross_entropy_with_logits(student_logits, labels, pos_weight=positive_weight)


def focal_loss(student_logits: Tensor, labels: Tensor, gamma: float, positive_weight: Tensor | None = None) -> Tensor:
    """Binary cross-entropy weighed by (1 - p)^gamma, where p is the probability of the true value.

    Lin et al. 2017 (arXiv:1708.02002), equation 4, label by label; `positive_weight` takes the place of its alpha.

    Args:
        student_logits: [batch, labels].
        labels: [batch, labels], 0.0 or 1.0.
        gamma: 0 or more; at 0 this is `hard_loss`, with any it is finite, and so is its gradient.
        positive_weight: [labels], as in `hard_loss`.

    Returns:
        Mean over batch and labels, a scalar.
    """
    entropy = functional.binary_cross_entropy_with_logits(
        student_logits, labels, pos_weight=positive_weight, reduction="none"
    )
    # 1 - p by its logarithm: as a power it has no finite slope where it is rounded to 0 and gamma is below 1.
    log_wrong = functional.logsigmoid(student_logits * (1.0 - 2.0 * labels))
    return ((gamma * log_wrong).exp() * entropy).mean()


def soft_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Cross-entropy with the teacher's softened probabilities, sigmoid label by label, scaled by temperature squared.

    The square keeps the gradient's size as the temperature grows (Hinton et al. 2015, arXiv:1503.02531, section 2).

    Args:
        student_logits: [batch, labels].
        teacher_logits: [batch, labels].
        temperature: positive; divides both logits.

    Returns:
        Mean over batch and labels, a scalar.
    """
    targets = (teacher_logits / temperature).sigmoid()
    return functional.binary_cross_entropy_with_logits(student_logits / temperature, targets) * temperature**2


def distillation_loss(soft: Tensor, hard: Tensor, alpha: float) -> Tensor:
    """`alpha * soft + (1 - alpha) * hard`, with alpha in [0, 1]."""
    return alpha * soft + (1.0 - alpha) * hard


def hidden_loss(student_states: Tensor, teacher_states: Tensor, attention_mask: Tensor) -> Tensor:
    """Mean squared error between hidden states, over real tokens only.

    Jiao et al. 2020 (arXiv:1909.10351), equations 8 and 9.

    Args:
        student_states: [batch, tokens, width], projected to the teacher's width.
        teacher_states: [batch, tokens, width].
        attention_mask: [batch, tokens], 1 for a real token and 0 for padding; one token at least is real.

    Returns:
        Mean over real tokens and width, a scalar.
    """
    padding = attention_mask.unsqueeze(-1) == 0
    difference = (student_states - teacher_states).masked_fill(padding, 0.0)
    return difference.square().sum() / (attention_mask.sum() * difference.shape[-1])


def attention_loss(student_attention: Tensor, teacher_attention: Tensor, attention_mask: Tensor) -> Tensor:
    """Kullback-Leibler divergence of the student's attention distributions from the teacher's, over real tokens only.

    Wang et al. 2020 (MiniLM, arXiv:2002.10957), section 3.1; every real token of the batch weighs the same.

    Args:
        student_attention: [batch, heads, queries, keys], probabilities over the keys.
        teacher_attention: the same shape; a key to which the student gives 0 counts as the smallest normal number.
        attention_mask: [batch, tokens], 1 for a real token and 0 for padding; one token at least is real.

    Returns:
        Mean over heads and real queries, a scalar, in nats.

    Raises:
        ValueError: student and teacher differ in shape, as with another number of heads.
    """
    if student_attention.shape != teacher_attention.shape:
        shapes = f"{tuple(student_attention.shape)} and {tuple(teacher_attention.shape)}"
        raise ValueError(f"attention of student and teacher is {shapes}: both need as many heads and tokens")
    real = attention_mask.bool()
    padding = ~(real[:, None, :, None] & real[:, None, None, :])
    # Where both are 1 the divergence is 0 and has no gradient.
    student = student_attention.masked_fill(padding, 1.0).clamp(min=torch.finfo(student_attention.dtype).tiny)
    teacher = teacher_attention.masked_fill(padding, 1.0)
    divergence = torch.xlogy(teacher, teacher) - teacher * student.log()
    return divergence.sum() / (real.sum() * student.shape[1])
