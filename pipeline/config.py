"""Typed, frozen configuration of every stage.

A stage's config holds only what changes its result: devices, threads, workers and paths stay outside, so that they
never change a cache key.
"""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

EMBEDDED = "embedded"
"""The value of `data.path` that means the synthetic sample of `pipeline.sample`."""


class Config(BaseModel):
    """A frozen group of settings; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    def key_fields(self) -> dict[str, Any]:
        """The settings that decide the result, as plain JSON types: what a cache key is made of."""
        return self.model_dump(mode="json")


class StageConfig(Config):
    """Settings of a stage that has several methods; a setting counts only for the methods that use it."""

    method: str

    @classmethod
    def settings_of(cls, method: str) -> list[str]:
        """Names of the settings that `method` uses, `method` itself left out."""
        return [
            name
            for name, field in cls.model_fields.items()
            if name != "method" and method in _methods(field.json_schema_extra)
        ]

    def key_fields(self) -> dict[str, Any]:
        used = {"method", *self.settings_of(self.method)}
        return {name: value for name, value in super().key_fields().items() if name in used}


def _methods(extra: Any) -> tuple[str, ...]:
    return tuple(extra["methods"]) if isinstance(extra, dict) else ()


def _for(*methods: str) -> dict[str, Any]:
    return {"methods": list(methods)}


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

    def key_fields(self) -> dict[str, Any]:
        fields = super().key_fields()
        scratch = self.model == "scratch"
        if not scratch and self.model_digest is not None:
            del fields["model"]
        return {name: value for name, value in fields.items() if scratch or not name.startswith("scratch_")}


class DistilConfig(StageConfig):
    """The student and how it learns from the teacher."""

    method: Literal["none", "logit"] = "none"
    """`none` passes the teacher on; `logit` trains a student on its logits (Hinton et al. 2015, arXiv:1503.02531)."""
    layers: int = Field(2, ge=1, le=48, json_schema_extra=_for("logit"))
    """Layers of the student, taken evenly spread from the teacher's."""
    alpha: float = Field(0.5, ge=0.0, le=1.0, json_schema_extra=_for("logit"))
    """Weight of the soft loss; 1 - alpha weighs the hard loss."""
    temperature: float = Field(2.0, gt=0.0, le=100.0, json_schema_extra=_for("logit"))
    """Divides the logits in the soft loss, which is scaled by its square."""
    epochs: int = Field(3, ge=1, le=100, json_schema_extra=_for("logit"))
    """Passes over the train split; the best one by validation macro F1 is kept."""
    learning_rate: float = Field(2e-4, gt=0.0, le=1.0, json_schema_extra=_for("logit"))
    """Peak learning rate."""
    batch_size: int = Field(32, ge=1, le=4096, json_schema_extra=_for("logit"))
    """Comments per step."""
    seed: int = Field(0, ge=0, json_schema_extra=_for("logit"))
    """Seed of order and dropout."""


class PruneConfig(StageConfig):
    """Which weights are set to zero, and the fine-tuning that follows with them held there."""

    method: Literal["none", "magnitude", "wanda"] = "none"
    """`none`; `magnitude` (Han et al. 2015, arXiv:1506.02626); `wanda` (Sun et al. 2023, arXiv:2306.11695)."""
    sparsity: float = Field(0.5, gt=0.0, lt=1.0, json_schema_extra=_for("magnitude", "wanda"))
    """Share of each pruned matrix (magnitude) or of each of its rows (wanda) set to zero."""
    calibration_rows: int = Field(256, ge=8, le=100_000, json_schema_extra=_for("wanda"))
    """Train comments on which wanda measures the norms of activations."""
    epochs: int = Field(1, ge=0, le=100, json_schema_extra=_for("magnitude", "wanda"))
    """Passes of masked fine-tuning; 0 for none."""
    learning_rate: float = Field(1e-4, gt=0.0, le=1.0, json_schema_extra=_for("magnitude", "wanda"))
    """Peak learning rate of the fine-tuning."""
    batch_size: int = Field(32, ge=1, le=4096, json_schema_extra=_for("magnitude", "wanda"))
    """Comments per step."""
    alpha: float = Field(0.5, ge=0.0, le=1.0, json_schema_extra=_for("magnitude", "wanda"))
    """Weight of the teacher's soft loss in the fine-tuning."""
    temperature: float = Field(2.0, gt=0.0, le=100.0, json_schema_extra=_for("magnitude", "wanda"))
    """Temperature of the soft loss in the fine-tuning."""
    seed: int = Field(0, ge=0, json_schema_extra=_for("magnitude", "wanda"))
    """Seed of order, dropout and calibration draw."""


class QuantizeConfig(StageConfig):
    """The number format of the deployed weights (CPU target: ONNX Runtime)."""

    method: Literal["none", "fp16", "int8_dynamic"] = "none"
    """`none` (FP32); `fp16` stores half precision, computes in FP32; `int8_dynamic` stores and multiplies in int8."""


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
