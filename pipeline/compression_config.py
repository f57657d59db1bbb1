"""Typed, frozen configuration of the compressing stages: distil, prune, quantize."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from pipeline.config_base import StageConfig, when

TAUGHT = ("logit", "hidden", "attention", "multi_level")
MASKED = ("magnitude", "wanda", "gradual")
PRUNING = (*MASKED, "structured", "vocabulary")
_ENCODERS = {"student": ("layers", "encoder")}
_LAYERS = {"student": ("layers",)}
_NGRAM = {"student": ("ngram",)}
_QAT = {"method": ("int8_qat",)}


def _used(default: Any, conditions: Mapping[str, tuple[str, ...]], **limits: Any) -> Any:
    return Field(default, json_schema_extra=when(**conditions), **limits)


class DistilConfig(StageConfig):
    """The student and how it learns from the teacher."""

    method: Literal["none", "logit", "hidden", "attention", "multi_level"] = "none"
    """`none` passes the teacher on; else what the student matches beside the labels: the teacher's `logit`s alone
    (Hinton et al. 2015, arXiv:1503.02531), with its `hidden` states or `attention` (Jiao et al. 2020,
    arXiv:1909.10351), or with both (`multi_level`)."""
    student: Literal["layers", "encoder", "ngram"] = _used("layers", {"method": TAUGHT})
    """`layers` of the teacher, another pretrained `encoder`, or an `ngram` bag."""
    layers: int = _used(2, _LAYERS, ge=1, le=48)
    """Layers of the student, taken from the teacher's."""
    layer_choice: Literal["even", "first", "last"] = _used("even", _LAYERS)
    """Which layers are taken: evenly spread from the first to the last, the first ones, or the last ones."""
    width: int = _used(0, _LAYERS, ge=0, le=8192)
    """Hidden width of the student, a multiple of the teacher's heads; 0 keeps the teacher's."""
    model: str = _used("", {"student": ("encoder",)})
    """Hugging Face folder or hub id of the student's encoder, which comes with its own tokenizer."""
    model_digest: str | None = _used(None, {"student": ("encoder",)})
    """SHA-256 over the folder's files; filled in by the search, so that the path is no part of the key."""
    buckets: int = _used(131_072, _NGRAM, ge=256, le=2**24)
    """Rows of the n-gram table, a power of two; n-grams are hashed into them."""
    dimension: int = _used(16, _NGRAM, ge=2, le=1024)
    """Columns of the n-gram table."""
    hidden_width: int = _used(64, _NGRAM, ge=1, le=4096)
    """Neurons of the n-gram student's hidden layer."""
    smallest_ngram: int = _used(2, _NGRAM, ge=1, le=8)
    """Shortest character n-gram."""
    longest_ngram: int = _used(5, _NGRAM, ge=1, le=8)
    """Longest character n-gram."""
    word_ngrams: int = _used(1, _NGRAM, ge=0, le=4)
    """Longest sequence of whole words that is hashed too; 0 for none."""
    teacher_logits: Literal["in_sample", "out_of_fold"] = _used("in_sample", {"method": TAUGHT})
    """Logits of the teacher on comments that it was trained on itself, or those of the fold that did not see them."""
    alpha: float = _used(0.5, {"method": TAUGHT}, ge=0.0, le=1.0)
    """Weight of the soft loss; 1 - alpha weighs the hard loss."""
    temperature: float = _used(2.0, {"method": TAUGHT}, gt=0.0, le=100.0)
    """Divides the logits in the soft loss, which is scaled by its square."""
    hidden_weight: float = _used(1.0, {"method": ("hidden", "multi_level")}, ge=0.0, le=1000.0)
    """Weight of the distance between projected hidden states of student and teacher."""
    attention_weight: float = _used(1.0, {"method": ("attention", "multi_level")}, ge=0.0, le=1000.0)
    """Weight of the distance between attention distributions of student and teacher."""
    loss: Literal["bce", "focal"] = _used("bce", {"method": TAUGHT})
    """Hard loss: binary cross-entropy, or focal loss (Lin et al. 2017, arXiv:1708.02002)."""
    focal_gamma: float = _used(2.0, {"loss": ("focal",)}, ge=0.0, le=10.0)
    """How strongly the focal loss turns to hard comments; 0 is binary cross-entropy."""
    class_weights: bool = _used(False, {"method": TAUGHT})
    """Whether each label's positives weigh as much in the hard loss as its negatives."""
    epochs: int = _used(3, _ENCODERS, ge=1, le=100)
    """Passes over the train split; the best one by validation macro F1 is kept."""
    learning_rate: float = _used(2e-4, _ENCODERS, gt=0.0, le=1.0)
    """Peak learning rate."""
    schedule: Literal["linear", "cosine"] = _used("linear", _ENCODERS)
    """How the learning rate falls after warm-up."""
    warmup_fraction: float = _used(0.1, _ENCODERS, ge=0.0, lt=1.0)
    """Share of the steps over which the learning rate rises."""
    batch_size: int = _used(32, _ENCODERS, ge=1, le=4096)
    """Comments per step on average."""
    ngram_epochs: int = _used(10, _NGRAM, ge=1, le=1000)
    """Passes over the train split by an n-gram student; the best one by validation macro F1 is kept."""
    ngram_learning_rate: float = _used(1e-2, _NGRAM, gt=0.0, le=1.0)
    """Peak learning rate of an n-gram student."""
    ngram_dropout: float = _used(0.5, _NGRAM, ge=0.0, lt=1.0)
    """Share of a comment's n-grams that an n-gram student does not see in a step."""
    seed: int = _used(0, {"method": TAUGHT}, ge=0)
    """Seed of initialisation, order and dropout."""

    def key_fields(self) -> dict[str, Any]:
        fields = super().key_fields()
        if fields.get("model_digest"):
            del fields["model"]
        return fields


def _chain(method: str) -> str:
    """A chain of different pruning methods, or `none`."""
    parts = method.split("+")
    if method != "none" and (not set(parts) <= set(PRUNING) or len(set(parts)) < len(parts)):
        raise ValueError(f"none, {', '.join(PRUNING[:-1])} or {PRUNING[-1]}, or several different ones joined by +")
    return method


class PruneConfig(StageConfig):
    """What is taken out of the model, and the fine-tuning that follows with it held out."""

    method: Annotated[str, AfterValidator(_chain)] = "none"
    """`none`; `magnitude` (Han et al. 2015, arXiv:1506.02626); `wanda` (Sun et al. 2023, arXiv:2306.11695); `gradual`
    (Zhu and Gupta 2017, arXiv:1710.01878); `structured` removes heads and neurons (Michel et al. 2019,
    arXiv:1905.10650); `vocabulary` removes tokens. Several joined by `+` are applied in this order."""
    scope: Literal["encoder", "attention", "ffn", "all"] = _used("encoder", {"method": MASKED})
    """Matrices with zeros: all of the transformer layers, their attention, their feed-forward part, or these and the
    embeddings too."""
    sparsity: float = _used(0.5, {"method": MASKED}, gt=0.0, lt=1.0)
    """Share of the weights in scope set to zero."""
    granularity: Literal["default", "layer", "row", "global"] = _used("default", {"method": MASKED})
    """Where the share holds: each matrix, each of its rows, or all; `default` is row for wanda, else layer."""
    calibration_rows: int = _used(256, {"method": ("wanda", "structured")}, ge=8, le=100_000)
    """Train comments on which activations or importance are measured."""
    gradual_schedule: Literal["linear", "cubic", "exponential"] = _used("cubic", {"method": ("gradual",)})
    """How sparsity grows with the steps of the fine-tuning."""
    initial_sparsity: float = _used(0.0, {"method": ("gradual",)}, ge=0.0, lt=1.0)
    """Sparsity at the first gradual step; less than `sparsity`."""
    begin_fraction: float = _used(0.0, {"method": ("gradual",)}, ge=0.0, lt=1.0)
    """Share of the fine-tuning's steps before the first gradual step."""
    end_fraction: float = _used(0.7, {"method": ("gradual",)}, gt=0.0, le=1.0)
    """Share of the fine-tuning's steps after which the whole sparsity is reached; more than `begin_fraction`."""
    frequency: int = _used(10, {"method": ("gradual",)}, ge=1, le=100_000)
    """Steps between two gradual steps."""
    structures: Literal["both", "heads", "ffn"] = _used("both", {"method": ("structured",)})
    """What is removed: attention heads, feed-forward neurons, or both."""
    ratio: float = _used(0.3, {"method": ("structured",)}, gt=0.0, lt=1.0)
    """Share of the parameters of these structures that is removed."""
    importance: Literal["taylor", "activation"] = _used("taylor", {"method": ("structured",)})
    """How the least important are found: first-order change of the loss, or size of the output."""
    heads_left: int = _used(1, {"structures": ("both", "heads")}, ge=1, le=1024)
    """Fewest heads that a layer keeps."""
    minimum_count: int = _used(1, {"method": ("vocabulary",)}, ge=1, le=1_000_000)
    """Occurrences in train that keep a token; special tokens and single characters always stay."""
    epochs: int = _used(1, {"method": PRUNING}, ge=0, le=100)
    """Passes of masked fine-tuning; 0 for none."""
    learning_rate: float = _used(1e-4, {"method": PRUNING}, gt=0.0, le=1.0)
    """Peak learning rate of the fine-tuning."""
    batch_size: int = _used(32, {"method": PRUNING}, ge=1, le=4096)
    """Comments per step on average."""
    alpha: float = _used(0.5, {"method": PRUNING}, ge=0.0, le=1.0)
    """Weight of the teacher's soft loss in the fine-tuning."""
    temperature: float = _used(2.0, {"method": PRUNING}, gt=0.0, le=100.0)
    """Temperature of the soft loss in the fine-tuning."""
    seed: int = _used(0, {"method": PRUNING}, ge=0)
    """Seed of order, dropout and calibration draw."""


class QuantizeConfig(StageConfig):
    """The number format of the deployed weights (CPU target: ONNX Runtime)."""

    method: Literal["none", "fp16", "int8_dynamic", "int8_static", "int8_qat", "int4"] = "none"
    """`none` (FP32); `fp16` stores half precision, computes in FP32; `int8_dynamic` stores and multiplies in int8,
    activations scaled as they come; `int8_static` with scales from calibration (Jacob et al. 2018, arXiv:1712.05877);
    `int8_qat` trains with the rounding in place; `int4` stores weights in 4 bits, block by block."""
    per_channel: bool = _used(True, {"method": ("int8_dynamic", "int8_static", "int8_qat")})
    """Whether each column of a matrix has a scale of its own: half the error, for some 3 % of the speed."""
    calibration: Literal["minmax", "entropy", "percentile"] = _used("minmax", {"method": ("int8_static",)})
    """How the range of an activation follows from what calibration saw."""
    calibration_rows: int = _used(256, {"method": ("int8_static", "int8_qat")}, ge=8, le=100_000)
    """Train comments on which activations are measured."""
    block_size: int = _used(32, {"method": ("int4",)}, ge=4, le=1024)
    """Weights that share a scale, a power of two that divides the model's widths; of an n-gram table, its columns."""
    epochs: int = _used(1, _QAT, ge=1, le=100)
    """Passes of quantization-aware training."""
    learning_rate: float = _used(5e-5, _QAT, gt=0.0, le=1.0)
    """Peak learning rate of quantization-aware training."""
    batch_size: int = _used(32, _QAT, ge=1, le=4096)
    """Comments per step on average."""
    alpha: float = _used(0.5, _QAT, ge=0.0, le=1.0)
    """Weight of the teacher's soft loss in quantization-aware training."""
    temperature: float = _used(2.0, _QAT, gt=0.0, le=100.0)
    """Temperature of the soft loss in quantization-aware training."""
    seed: int = _used(0, {"method": ("int8_static", "int8_qat")}, ge=0)
    """Seed of order, dropout and calibration draw."""
