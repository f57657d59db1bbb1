"""Losses of training and distillation: pure tensor functions."""

from __future__ import annotations

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
        gamma: 0 or more; at 0 this is `hard_loss`.
        positive_weight: [labels], as in `hard_loss`.

    Returns:
        Mean over batch and labels, a scalar.
    """
    entropy = functional.binary_cross_entropy_with_logits(
        student_logits, labels, pos_weight=positive_weight, reduction="none"
    )
    wrong = (labels - student_logits.sigmoid()).abs()
    return (wrong**gamma * entropy).mean()


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
