"""Typed, frozen configuration of data, teacher and floor; those of the compressing stages are in `compression_config`.

A stage's config holds only what changes its result: devices, threads, workers and paths stay outside, so that they
never change a cache key.
"""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from pipeline.compression_config import DistilConfig, PruneConfig, QuantizeConfig
from pipeline.config_base import Config, StageConfig

__all__ = [
    "EMBEDDED",
    "ClassicalConfig",
    "Config",
    "DataConfig",
    "DistilConfig",
    "PruneConfig",
    "QuantizeConfig",
    "StageConfig",
    "TeacherConfig",
    "TrainingConfig",
]

EMBEDDED = "embedded"
"""The value of `data.path` that means the synthetic sample of `pipeline.sample`."""


class DataConfig(Config):
    """Where the comments are, what is predicted, and how they are split."""

    path: str = EMBEDDED
    """CSV or Parquet file (.csv, .tsv, .parquet), or `embedded` for the synthetic sample."""
    text_column: str = "comment"
    """Column with the comments."""
    label_columns: tuple[str, ...] = Field(("bully", "sexual", "religious", "threat", "spam"), min_length=1)
    """Columns with 0 or 1; one column makes a binary task, several a multi-label one."""
    separator: str = Field(",", min_length=1, max_length=1)
    """Separator of a CSV file, one character."""
    max_rows: int | None = Field(None, ge=50)
    """Rows to use, drawn with the seed; null takes all."""
    sample_rows: int = Field(6000, ge=200, le=1_000_000)
    """Rows that the embedded sample generates."""
    validation_fraction: float = Field(0.2, gt=0.0, lt=0.5)
    """Share of the different texts for thresholds, search and safety."""
    test_fraction: float = Field(0.2, gt=0.0, lt=0.5)
    """Share of the different texts kept for the models on the front."""
    seed: int = Field(0, ge=0)
    """Seed of sample, row draw and split."""


class TrainingConfig(Config):
    """How a model is trained, whichever stage trains it."""

    epochs: int = Field(3, ge=1, le=100)
    """Passes over the train split; the best one by validation macro F1 is kept."""
    learning_rate: float = Field(1e-4, gt=0.0, le=1.0)
    """Peak learning rate of the encoder."""
    batch_size: int = Field(32, ge=1, le=4096)
    """Comments per step on average: every step has as many tokens, of many short comments or few long ones."""


class TeacherConfig(TrainingConfig):
    """The model to be compressed."""

    model: str = "scratch"
    """Hugging Face folder or hub id, or `scratch` for a small encoder trained from nothing."""
    model_digest: str | None = None
    """SHA-256 over the folder's files; filled in when the study is resolved, so that the path is no part of the key."""
    folds: int = Field(0, ge=0, le=20)
    """Folds of a stratified cross-validation reported beside the teacher; 0 for none."""
    ensemble: tuple[Literal["folds", "classical"], ...] = ()
    """Who teaches with the teacher, by the mean of the logits: the models of the folds, the classical floor."""
    generations: int = Field(0, ge=0, le=10)
    """How often the teacher is trained once more on what its ensemble says, and joins it: born-again teachers."""
    max_tokens: int = Field(96, ge=8, le=512)
    """Longest token sequence; longer comments are cut."""
    pooling: Literal["mean", "cls", "max"] = "mean"
    """How token vectors become one comment vector."""
    head_learning_rate: float = Field(1e-3, gt=0.0, le=1.0)
    """Peak learning rate of the new classification head."""
    schedule: Literal["linear", "cosine"] = "linear"
    """How the learning rate falls after warm-up."""
    warmup_fraction: float = Field(0.1, ge=0.0, lt=1.0)
    """Share of the steps over which the learning rate rises."""
    weight_decay: float = Field(0.01, ge=0.0, le=1.0)
    """AdamW weight decay, matrices only."""
    clip_norm: float = Field(1.0, gt=0.0)
    """Largest gradient norm of a step."""
    loss: Literal["bce", "focal"] = "bce"
    """Binary cross-entropy, or focal loss (Lin et al. 2017, arXiv:1708.02002)."""
    focal_gamma: float = Field(2.0, ge=0.0, le=10.0)
    """How strongly the focal loss turns to hard comments; 0 is binary cross-entropy."""
    class_weights: bool = False
    """Whether each label's positives weigh as much in the loss as its negatives."""
    patience: int = Field(0, ge=0)
    """Epochs without a better validation macro F1 after which training stops; 0 never stops early."""
    frozen_layers: int = Field(0, ge=0, le=1000)
    """Lowest layers that keep their pretrained weights, the embeddings with them; all of them trains only the head."""
    dropout: float = Field(0.1, ge=0.0, lt=1.0)
    """Dropout before the head."""
    encoder_dropout: float = Field(0.0, ge=0.0, lt=1.0)
    """Dropout inside the encoder; drawing it costs a sixth of the training time on a CPU."""
    scratch_layers: int = Field(4, ge=1, le=48)
    """Layers of a `scratch` encoder."""
    scratch_width: int = Field(128, ge=8, le=4096)
    """Hidden width of a `scratch` encoder; a multiple of `scratch_heads`."""
    scratch_heads: int = Field(4, ge=1, le=64)
    """Attention heads of a `scratch` encoder."""
    scratch_vocabulary: int = Field(4000, ge=200, le=200_000)
    """Tokens of the tokenizer trained on the train split for a `scratch` encoder."""
    seed: int = Field(0, ge=0)
    """Seed of initialisation, order and dropout."""

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Self:
        if self.scratch_width % self.scratch_heads:
            raise ValueError(
                f"scratch_width={self.scratch_width} is no multiple of scratch_heads={self.scratch_heads}: "
                "make it one, each head gets an equal part"
            )
        return self

    @model_validator(mode="after")
    def _folds_for_the_ensemble(self) -> Self:
        if "folds" in self.ensemble and self.folds < 2:
            raise ValueError(f"ensemble names folds, but folds={self.folds}: raise it to 2 or more, or leave folds out")
        if len(set(self.ensemble)) < len(self.ensemble):
            raise ValueError(f"ensemble={list(self.ensemble)}: must be different ones; leave the repeated one out")
        return self

    def key_fields(self) -> dict[str, Any]:
        fields = super().key_fields()
        del fields["generations"]  # each is an artifact made from the one before
        scratch = self.model == "scratch"
        if not scratch and self.model_digest is not None:
            del fields["model"]
        return {name: value for name, value in fields.items() if scratch or not name.startswith("scratch_")}


class ClassicalConfig(Config):
    """The floor: TF-IDF of character n-grams and logistic regression, what a user would otherwise take."""

    smallest_ngram: int = Field(2, ge=1, le=10)
    """Shortest character n-gram."""
    longest_ngram: int = Field(5, ge=1, le=10)
    """Longest character n-gram."""
    minimum_documents: int = Field(2, ge=1)
    """Train comments in which an n-gram must occur to be counted."""
    inverse_regularization: float = Field(4.0, gt=0.0)
    """C of the logistic regression."""
    seed: int = Field(0, ge=0)
    """Seed of the solver."""
