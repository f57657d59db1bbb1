"""Encoders with pooling and a classification head: build, shrink, save, load."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

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
        config: PretrainedConfig = self.encoder.config
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
    encoder = AutoModel.from_config(encoder_config)
    return TextClassifier(_without_pooler(encoder), labels, config.pooling, config.dropout)


def train_tokenizer(texts: Sequence[str], vocabulary: int) -> Tokenizer:
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


def _continuing_characters(tokenizer: Tokenizer, texts: Sequence[str]) -> list[str]:
    """`##x` for every character x that stands after the first of a word, sorted."""
    normalise, split = tokenizer.normalizer.normalize_str, tokenizer.pre_tokenizer.pre_tokenize_str
    words = {word for text in texts for word, _ in split(normalise(text))}
    return sorted({f"##{character}" for word in words for character in word[1:]})


def cut(module: nn.Linear | nn.Embedding, rows: Tensor | None, columns: Tensor | None) -> None:
    """Keep only some rows and columns of a matrix, in place; None keeps all.

    Args:
        module: a linear layer [outputs, inputs] or an embedding [tokens, width].
        rows: indices of the outputs or tokens that stay, in their new order; a bias follows.
        columns: indices of the inputs or of the width that stay, in their new order.
    """
    weight = module.weight.detach()
    weight = weight if rows is None else weight[rows]
    weight = weight if columns is None else weight[:, columns]
    module.weight = nn.Parameter(weight.clone(), requires_grad=module.weight.requires_grad)
    if isinstance(module, nn.Linear) and module.bias is not None and rows is not None:
        module.bias = nn.Parameter(module.bias.detach()[rows].clone(), requires_grad=module.bias.requires_grad)
    _note_size(module)


def _note_size(module: nn.Module) -> None:
    """Let a module's attributes say the size that its weight has."""
    if isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, nn.Embedding):
        module.num_embeddings, module.embedding_dim = module.weight.shape
    elif isinstance(module, nn.LayerNorm):
        module.normalized_shape = tuple(module.weight.shape)


def head_size(model: TextClassifier) -> int | None:
    """Width of an attention head, the same in all layers; None where the architecture does not say."""
    sizes: set[Any] = {getattr(module, "attention_head_size", None) for module in model.modules()} - {None}
    return int(sizes.pop()) if len(sizes) == 1 else None


def fit_heads(model: TextClassifier, size: int) -> None:
    """Let each layer's attention have as many heads of this size as its queries are wide.

    Attention divides the queries by the size of a head, so that layers may have different numbers of heads.
    """
    module: Any
    for module in model.modules():
        if not hasattr(module, "attention_head_size"):
            continue
        if module.attention_head_size != size:
            module.attention_head_size, module.scaling = size, size**-0.5
        query = getattr(module, "query", None)
        if isinstance(query, nn.Linear):
            module.num_attention_heads, module.all_head_size = query.out_features // size, query.out_features


def _fit(model: TextClassifier, weights: dict[str, Tensor]) -> None:
    """Give every parameter the shape in which it is stored: after pruning a matrix may be smaller than the config's."""
    for name, module in model.named_modules():
        for key, parameter in list(module.named_parameters(recurse=False)):
            stored = weights.get(f"{name}.{key}")
            if stored is not None and stored.ndim == parameter.ndim and stored.shape != parameter.shape:
                setattr(module, key, nn.Parameter(torch.empty(stored.shape)))
        _note_size(module)


def save_model(model: TextClassifier, folder: Path) -> None:
    """Write weights, the encoder's config and the head's."""
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, folder / WEIGHTS)
    config = {name: value for name, value in model.config.to_dict().items() if name != "_name_or_path"}
    (folder / ENCODER_CONFIG).write_text(json.dumps(config, indent=1), encoding="utf-8")
    head = {
        "labels": model.head.out_features,
        "pooling": model.pooling,
        "dropout": model.dropout.p,
        "head_size": head_size(model),
    }
    (folder / HEAD_CONFIG).write_text(json.dumps(head), encoding="utf-8")


def load_model(folder: Path) -> TextClassifier:
    """The model that `save_model` wrote, on CPU, in FP32.

    Widths, heads, neurons and tokens are those of the stored weights, whatever larger model the config tells of.
    """
    head: dict[str, Any] = json.loads((folder / HEAD_CONFIG).read_text(encoding="utf-8"))
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    encoder = _without_pooler(AutoModel.from_config(config, dtype=torch.float32))
    model = TextClassifier(encoder, head["labels"], head["pooling"], head["dropout"])
    weights = load_file(folder / WEIGHTS)
    _fit(model, weights)
    model.load_state_dict(weights)
    if head.get("head_size"):
        fit_heads(model, head["head_size"])
    return model
