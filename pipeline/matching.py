"""Match the inside of a student with its teacher's: hidden states and attention, layer by layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

from pipeline.losses import attention_loss, hidden_loss
from pipeline.models import TextClassifier, pool
from pipeline.objective import Matching

MAPPED = "mapped"
"""Name of the attention implementation that tells its distributions."""


def mapped_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_settings: Any,
) -> tuple[Tensor, Tensor]:
    """Attention that returns its distributions before dropout; the library's eager one returns what dropout left.

    Args:
        module: the attention layer, in training or not.
        query: [batch, heads, tokens, head size], as `key` and `value`.
        key: see `query`.
        value: see `query`.
        attention_mask: added to the scores, broadcast to [batch, heads, tokens, tokens].
        scaling: of the scores; None is 1 / sqrt(head size).
        dropout: share of the weights that is dropped in training.

    Returns:
        Mixed values [batch, tokens, heads, head size], and distributions over keys [batch, heads, tokens, tokens].
    """
    scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    weights = (scores if attention_mask is None else scores + attention_mask).softmax(dim=-1)
    mixed = functional.dropout(weights, dropout, module.training) @ value
    return mixed.transpose(1, 2).contiguous(), weights


AttentionInterface.register(MAPPED, mapped_attention)
AttentionMaskInterface.register(MAPPED, eager_mask)


class TeacherMatching(Matching):
    """Holds the teacher, frozen, and weighs how far a student's hidden states and attention are from its own.

    Jiao et al. 2020 (arXiv:1909.10351) for the states of the embeddings and of every layer, each through a trained
    projection of its own; Wang et al. 2020 (MiniLM, arXiv:2002.10957) for the divergence of attention, in every layer.
    """

    def __init__(
        self,
        teacher: TextClassifier,
        layers: Sequence[int],
        dimensions: Tensor,
        hidden_weight: float = 0.0,
        attention_weight: float = 0.0,
    ) -> None:
        """The matching of a student made of the teacher.

        Args:
            teacher: frozen from now on.
            layers: for each of the student's layers the teacher's that it was taken from.
            dimensions: for each of the student's hidden dimensions the teacher's that it was taken from, int64 [width];
                a projection starts as their places, which is the identity if they are all.
            hidden_weight: of the mean distance between hidden states; 0 leaves them out.
            attention_weight: of the mean distance between attention distributions; 0 leaves them out.
        """
        super().__init__()
        self.layers = list(layers)
        self.hidden_weight, self.attention_weight = hidden_weight, attention_weight
        self.teacher = teacher.requires_grad_(False).eval()
        states = len(self.layers) + 1 if hidden_weight else 0
        start = torch.eye(teacher.config.hidden_size)[:, dimensions]
        self.projections = nn.ParameterList(start.clone() for _ in range(states))
        """One for the embeddings and one for each layer, [teacher's width, student's width]."""

    def train(self, mode: bool = True) -> Self:
        """As of any module, but the teacher never trains: its dropout stays off."""
        super().train(mode)
        self.teacher.eval()
        return self

    def forward(self, student: TextClassifier, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """The student's logits [batch, labels] and the weighted loss, a scalar; the student runs once.

        Args:
            student: one layer for each entry of `layers`.
            input_ids: int64 [batch, tokens].
            attention_mask: int64 [batch, tokens].

        Raises:
            ValueError: attention is to be matched, and the architecture does not tell it.
        """
        inside = self._inside(student, input_ids, attention_mask)
        with torch.no_grad():
            target = self._inside(self.teacher, input_ids, attention_mask)
        loss = torch.zeros((), device=input_ids.device)
        if self.hidden_weight:
            taken = [target.hidden_states[state] for state in (0, *(layer + 1 for layer in self.layers))]
            pairs = zip(inside.hidden_states, taken, self.projections, strict=True)
            distances = [hidden_loss(ours @ place.T, theirs, attention_mask) for ours, theirs, place in pairs]
            loss = loss + self.hidden_weight * torch.stack(distances).mean()
        if self.attention_weight:
            maps = zip(inside.attentions, (target.attentions[layer] for layer in self.layers), strict=True)
            distances = [attention_loss(ours, theirs, attention_mask) for ours, theirs in maps]
            loss = loss + self.attention_weight * torch.stack(distances).mean()
        pooled = pool(inside.last_hidden_state, attention_mask, student.pooling)
        return student.head(student.dropout(pooled)), loss

    def _inside(self, model: TextClassifier, input_ids: Tensor, attention_mask: Tensor) -> Any:
        """What the model's encoder gives, with its hidden states and attention if they are matched."""
        wanted = {"output_hidden_states": bool(self.hidden_weight), "output_attentions": bool(self.attention_weight)}
        if not self.attention_weight:
            return model.encoder(input_ids=input_ids, attention_mask=attention_mask, **wanted)
        with mapped(model):
            return model.encoder(input_ids=input_ids, attention_mask=attention_mask, **wanted)


@contextmanager
def mapped(model: TextClassifier) -> Iterator[None]:
    """The model with an attention that tells its distributions; afterwards it has its former one again.

    Raises:
        ValueError: the architecture computes attention in a way of its own.
    """
    encoder: Any = model.encoder
    former = encoder.config._attn_implementation
    encoder.set_attn_implementation(MAPPED)
    if encoder.config._attn_implementation != MAPPED:
        name = type(encoder).__name__
        raise ValueError(f"distil.method: {name} does not tell its attention; take logit or hidden")
    try:
        yield
    finally:
        encoder.set_attn_implementation(former)
