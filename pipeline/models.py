"""Encoders with pooling and a classification head: build, shrink, save, load."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, BertConfig, PretrainedConfig

from pipeline.config import TeacherConfig

WEIGHTS, ENCODER_CONFIG, HEAD_CONFIG = "model.safetensors", "config.json", "classifier.json"
SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
ENCODER_DROPOUTS = (
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "dropout",
    "attention_dropout",
    "hidden_dropout",
    "embedding_dropout",
    "mlp_dropout",
)
"""What the architectures' configurations call the dropout inside the encoder."""
Pooling = Literal["mean", "cls", "max"]


class Classifier(nn.Module):
    """What can be trained here: logits [batch, labels] from int64 `input_ids` and `attention_mask` [batch, tokens]."""

    head: nn.Linear
    """The last layer, which has a learning rate of its own."""
    pad_id: int
    """What fills `input_ids` up; masked out."""


class TextClassifier(Classifier):
    """A Hugging Face encoder, pooling, dropout and a linear head."""

    def __init__(self, encoder: nn.Module, labels: int, pooling: Pooling, dropout: float) -> None:
        super().__init__()
        self.encoder = encoder
        self.pooling: Pooling = pooling
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(self.config.hidden_size, labels)

    @property
    def pad_id(self) -> int:  # type: ignore[override]
        """The token id that fills a batch."""
        pad: Any = self.config.pad_token_id
        return int(pad) if pad is not None else 0

    @property
    def config(self) -> PretrainedConfig:
        """The encoder's configuration."""
        config: PretrainedConfig = self.encoder.config  # type: ignore[assignment]
        return config

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Logits [batch, labels] from int64 `input_ids` and `attention_mask`, both [batch, tokens]."""
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        logits: Tensor = self.head(self.dropout(pool(hidden, attention_mask, self.pooling)))
        return logits


def pool(hidden: Tensor, attention_mask: Tensor, pooling: Pooling) -> Tensor:
    """One vector [batch, width] for each comment from token vectors [batch, tokens, width], padding left out."""
    if pooling == "cls":
        return hidden[:, 0]
    mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
    if pooling == "mean":
        return (hidden * mask).sum(1) / mask.sum(1).clamp(min=1.0)
    return (hidden + (1.0 - mask) * torch.finfo(hidden.dtype).min).amax(1)


def encoder_layers(model: TextClassifier) -> nn.ModuleList:
    """The encoder's list of transformer layers, whatever its architecture calls it."""
    depth = model.config.num_hidden_layers
    for module in model.encoder.modules():
        if isinstance(module, nn.ModuleList) and len(module) == depth:
            return module
    name = type(model.encoder).__name__
    raise ValueError(f"{name}: no list of {depth} layers found; this architecture cannot be shrunk")


def build_pretrained(
    folder: str, labels: int, pooling: Pooling, dropout: float, encoder_dropout: float = 0.0
) -> TextClassifier:
    """A pretrained encoder in FP32 with a new head; never runs code from the folder."""
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    for name in ENCODER_DROPOUTS:
        if hasattr(config, name):
            setattr(config, name, encoder_dropout)
    encoder = AutoModel.from_pretrained(folder, config=config, trust_remote_code=False, use_safetensors=True)
    return TextClassifier(_without_pooler(encoder.float()), labels, pooling, dropout)


def _without_pooler(encoder: nn.Module) -> nn.Module:
    """The encoder without the pretraining's pooler, which we do not use and would only store."""
    if getattr(encoder, "pooler", None) is not None:
        encoder.register_module("pooler", None)
    return encoder


def build_scratch(config: TeacherConfig, labels: int, vocabulary: int) -> TextClassifier:
    """A small BERT encoder with random weights (Devlin et al. 2019, arXiv:1810.04805)."""
    encoder_config = BertConfig(
        vocab_size=vocabulary,
        hidden_size=config.scratch_width,
        num_hidden_layers=config.scratch_layers,
        num_attention_heads=config.scratch_heads,
        intermediate_size=4 * config.scratch_width,
        max_position_embeddings=config.max_tokens,
        hidden_dropout_prob=config.encoder_dropout,
        attention_probs_dropout_prob=config.encoder_dropout,
        pad_token_id=SPECIAL_TOKENS.index("[PAD]"),
    )
    encoder = AutoModel.from_config(encoder_config)  # type: ignore[no-untyped-call]
    return TextClassifier(_without_pooler(encoder), labels, config.pooling, config.dropout)


def train_tokenizer(texts: list[str], vocabulary: int) -> Tokenizer:
    """A WordPiece tokenizer of at most `vocabulary` tokens learnt from `texts`; equal texts give equal tokenizers."""
    tokenizer = _word_piece(models.WordPiece(unk_token="[UNK]"))
    # The trainer numbers the characters that continue a word in the order of a hash map, another one in every run, and
    # breaks ties by number (huggingface/tokenizers#1794). Named beforehand, they have the numbers of this list.
    known = [*SPECIAL_TOKENS, *_continuing_characters(tokenizer, texts)]
    trainer = trainers.WordPieceTrainer(vocab_size=vocabulary, special_tokens=known, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer = _word_piece(models.WordPiece(tokenizer.get_vocab(), unk_token="[UNK]"))
    tokenizer.add_special_tokens(SPECIAL_TOKENS)
    cls, sep = (tokenizer.token_to_id(token) for token in ("[CLS]", "[SEP]"))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", cls), ("[SEP]", sep)]
    )
    return tokenizer


def _word_piece(model: models.WordPiece) -> Tokenizer:
    """A tokenizer that composes accents, lowercases, and splits at white space and punctuation."""
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def _continuing_characters(tokenizer: Tokenizer, texts: list[str]) -> list[str]:
    """`##x` for every character x that stands after the first of a word, sorted."""
    normalise, split = tokenizer.normalizer.normalize_str, tokenizer.pre_tokenizer.pre_tokenize_str
    words = {word for text in texts for word, _ in split(normalise(text))}
    return sorted({f"##{character}" for word in words for character in word[1:]})


def keep_layers(model: TextClassifier, layers: int) -> TextClassifier:
    """A copy with `layers` of the model's layers, evenly spread from the first to the last.

    Raises:
        ValueError: more layers asked for than there are.
    """
    depth = model.config.num_hidden_layers
    if layers > depth:
        raise ValueError(f"distil.layers={layers}: the teacher has {depth} layers; ask for at most that many")
    student = copy.deepcopy(model)
    kept = np.linspace(0, depth - 1, layers).round().astype(int)
    blocks = encoder_layers(student)
    chosen = [blocks[int(i)] for i in kept]
    del blocks[:]
    blocks.extend(chosen)
    student.config.num_hidden_layers = layers
    return student


def save_model(model: TextClassifier, folder: Path) -> None:
    """Write weights, the encoder's config and the head's."""
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, folder / WEIGHTS)
    (folder / ENCODER_CONFIG).write_text(json.dumps(model.config.to_dict(), indent=1), encoding="utf-8")
    head = {"labels": model.head.out_features, "pooling": model.pooling, "dropout": model.dropout.p}
    (folder / HEAD_CONFIG).write_text(json.dumps(head), encoding="utf-8")


def load_model(folder: Path) -> TextClassifier:
    """The model that `save_model` wrote, on CPU, in FP32."""
    head: dict[str, Any] = json.loads((folder / HEAD_CONFIG).read_text(encoding="utf-8"))
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    encoder = _without_pooler(AutoModel.from_config(config, dtype=torch.float32))  # type: ignore[no-untyped-call]
    model = TextClassifier(encoder, head["labels"], head["pooling"], head["dropout"])
    model.load_state_dict(load_file(folder / WEIGHTS))
    return model
