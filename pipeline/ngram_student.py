"""Train an n-gram student on the teacher's logits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from pipeline.artifact import Artifact, Notes
from pipeline.config import DistilConfig
from pipeline.data import load_data
from pipeline.encoder_artifact import labelled
from pipeline.models import Classifier
from pipeline.ngram import WEIGHTS, Hashing
from pipeline.runtime import Deployment
from pipeline.training import Recipe, seeded, train

BATCH_SIZE = 64
INITIAL_SPREAD = 0.01


class NgramBag(Classifier):
    """Embedding bag of hashed n-grams, a hidden layer, a head."""

    pad_id = 0

    def __init__(self, config: DistilConfig, labels: int) -> None:
        super().__init__()
        self.table = nn.Embedding(config.buckets, config.dimension)
        nn.init.normal_(self.table.weight, std=INITIAL_SPREAD)
        self.hidden = nn.Linear(config.dimension, config.hidden_width)
        self.head = nn.Linear(config.hidden_width, labels)
        self.dropout = config.ngram_dropout

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Logits [batch, labels] from table rows and mask, both int64 [batch, n-grams].

        In training a share of each comment's n-grams is left out at random, so that no single one is relied on.
        """
        mask = attention_mask
        if self.training and self.dropout:
            mask = mask * (torch.rand(mask.shape, device=mask.device) >= self.dropout)
        weights = mask.to(self.table.weight.dtype)
        count = weights.sum(1).clamp(min=1.0)
        bag = torch.einsum("bn,bnd->bd", weights, self.table(input_ids)) / count.sqrt()[:, None]
        logits: Tensor = self.head(self.hidden(bag).relu())
        return logits


def train_ngram(config: DistilConfig, folder: Path, data: Artifact, teacher: Artifact, recipe: Recipe) -> Notes:
    """Train a bag on the teacher's logits and the labels, and write it as `pipeline.ngram` runs it."""
    hashing = Hashing(config.buckets, config.smallest_ngram, config.longest_ngram, config.word_ngrams)
    examples, validation = labelled(data, teacher, hashing.tokens, config.teacher_logits)
    labels = load_data(data.path).label_columns
    with seeded(config.seed):
        student = NgramBag(config, len(labels))
        history = train(student, examples, validation, replace(recipe, batch_size=BATCH_SIZE))
    weights = {name.replace("table.weight", "table"): tensor for name, tensor in student.state_dict().items()}
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, folder / WEIGHTS)
    hashing.save(folder)
    Deployment("ngram", tuple(labels), (WEIGHTS,)).save(folder)
    return {"history": history}
