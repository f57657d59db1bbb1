"""Students made of their teacher: some of its layers, some of its width."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModel, PretrainedConfig

from pipeline.models import TextClassifier, encoder_layers

LayerChoice = Literal["even", "first", "last"]
EMBEDDINGS, PROJECTION = "encoder.embeddings", "encoder.embeddings_project"
READERS = ("attention.self.query", "attention.self.key", "attention.self.value", "intermediate.dense")
"""What of a layer reads hidden states, in BERT's layout."""
WRITERS = ("attention.output.dense", "output.dense")
"""What of a layer writes hidden states, each of them with a norm beside it."""


def chosen_layers(depth: int, layers: int, choice: LayerChoice) -> list[int]:
    """Which of `depth` layers a student of `layers` layers takes, ascending.

    `even` spreads them from the first to the last (Sanh et al. 2019, arXiv:1910.01108, took every second one).

    Raises:
        ValueError: more layers asked for than there are.
    """
    if layers > depth:
        raise ValueError(f"distil.layers={layers}: the teacher has {depth} layers; ask for at most that many")
    if choice == "even":
        return [int(layer) for layer in np.linspace(0, depth - 1, layers).round()]
    return list(range(layers) if choice == "first" else range(depth - layers, depth))


def keep_layers(model: TextClassifier, kept: Sequence[int]) -> TextClassifier:
    """A copy with these of the model's layers, in this order."""
    student = copy.deepcopy(model)
    blocks = encoder_layers(student)
    chosen = [blocks[layer] for layer in kept]
    del blocks[:]
    blocks.extend(chosen)
    student.config.num_hidden_layers = len(chosen)
    kinds = getattr(student.config, "layer_types", None)
    if kinds:
        student.config.layer_types = [kinds[layer] for layer in kept]
    return student


def important_dimensions(model: TextClassifier, width: int) -> Tensor:
    """The `width` hidden dimensions that say most to what reads them, ascending, int64 [width].

    Every matrix that reads hidden states (queries, keys, values, the first feed-forward matrices, the head) has one
    vote, shared among the dimensions by the mean square of what each contributes to its output: the squared norm of the
    dimension's column times the mean square of its values, which is the norm layer's weight² + bias².

    Raises:
        ValueError: wider than the model, or no model in BERT's layout.
    """
    state, available = _state(model), model.config.hidden_size
    if width > available:
        raise ValueError(
            f"distil.width={width}: the teacher is {available} wide; ask for at most that, or 0 to keep it"
        )
    if f"{PROJECTION}.weight" in state:
        power = state[f"{PROJECTION}.weight"].square().sum(1) + state[f"{PROJECTION}.bias"].square()
    else:
        power = _power(state, f"{EMBEDDINGS}.LayerNorm")
    votes = []
    for layer in _layer_names(model):
        votes += [_share(state[f"{layer}.{reader}.weight"], power) for reader in READERS[:3]]
        votes.append(
            _share(state[f"{layer}.{READERS[3]}.weight"], _power(state, f"{layer}.attention.output.LayerNorm"))
        )
        power = _power(state, f"{layer}.output.LayerNorm")
    votes.append(_share(state["head.weight"], power))
    return strongest(torch.stack(votes).sum(0), width)


def narrow(model: TextClassifier, dimensions: Tensor) -> TextClassifier:
    """A copy that has only these hidden dimensions, everywhere.

    The number of heads stays, and each one shrinks in the same ratio: it keeps the query and key rows whose norms have
    the largest products, and likewise values with the columns that read them. So do the feed-forward neurons. Queries
    are scaled so that the smaller head, which divides by a smaller root, gives the same scores.

    Args:
        model: in BERT's layout (BERT, RoBERTa, XLM-R, ELECTRA).
        dimensions: the dimensions to keep, int64 [width]; width is a multiple of the model's heads.

    Raises:
        ValueError: the width does not fit the heads or the architecture, or the layout is another one.
    """
    state, config, width = _state(model), copy.deepcopy(model.config), len(dimensions)
    if width % config.num_attention_heads:
        problem = f"distil.width={width}: no multiple of the teacher's {config.num_attention_heads} heads"
        raise ValueError(f"{problem}; each of them has an equal part")
    projected = f"{PROJECTION}.weight" in state
    _set_width(config, width, projected)
    if projected:
        _cut(state, PROJECTION, rows=dimensions)
    else:
        for kind in ("word", "position", "token_type"):
            _cut(state, f"{EMBEDDINGS}.{kind}_embeddings", columns=dimensions)
        _cut(state, f"{EMBEDDINGS}.LayerNorm", rows=dimensions)
    for layer in _layer_names(model):
        _narrow_layer(state, layer, dimensions, config)
    _cut(state, "head", columns=dimensions)
    return _rebuilt(model, config, state)


def _narrow_layer(state: dict[str, Tensor], layer: str, dimensions: Tensor, config: PretrainedConfig) -> None:
    """Cut the layer's weights in `state` to these hidden dimensions, and inside to the shapes of `config`."""
    query, key, value, up = (f"{layer}.{reader}" for reader in READERS)
    mixed, down = (f"{layer}.{writer}" for writer in WRITERS)
    heads, full_width = config.num_attention_heads, len(state[f"{query}.weight"])
    for reader in (query, key, value, up):
        _cut(state, reader, columns=dimensions)
    for writer in (mixed, down):
        _cut(state, writer, rows=dimensions)
        _cut(state, writer.removesuffix("dense") + "LayerNorm", rows=dimensions)

    matched = state[f"{query}.weight"].norm(dim=1) * state[f"{key}.weight"].norm(dim=1)
    kept = _strongest_in_heads(matched, heads, len(dimensions) // heads)
    _cut(state, query, rows=kept)
    _cut(state, key, rows=kept)
    for name in (f"{query}.weight", f"{query}.bias"):
        state[name] = state[name] * (len(dimensions) / full_width) ** 0.5

    carried = state[f"{value}.weight"].norm(dim=1) * state[f"{mixed}.weight"].norm(dim=0)
    kept = _strongest_in_heads(carried, heads, len(dimensions) // heads)
    _cut(state, value, rows=kept)
    _cut(state, mixed, columns=kept)

    neurons = state[f"{up}.weight"].norm(dim=1) * state[f"{down}.weight"].norm(dim=0)
    kept = strongest(neurons, config.intermediate_size)
    _cut(state, up, rows=kept)
    _cut(state, down, columns=kept)


def _cut(state: dict[str, Tensor], module: str, rows: Tensor | None = None, columns: Tensor | None = None) -> None:
    """Keep these outputs and these inputs of a module; a norm has rows, an embedding columns."""
    weight, bias = f"{module}.weight", f"{module}.bias"
    if rows is not None:
        state[weight] = state[weight][rows]
        if bias in state:
            state[bias] = state[bias][rows]
    if columns is not None:
        state[weight] = state[weight][:, columns]


def strongest(scores: Tensor, count: int) -> Tensor:
    """Where the `count` largest of each row are, ascending, int64 [..., count]; of equals the first."""
    return scores.argsort(dim=-1, descending=True, stable=True)[..., :count].sort(dim=-1).values


def _strongest_in_heads(scores: Tensor, heads: int, count: int) -> Tensor:
    """The `count` largest of each head's scores, int64 [heads * count], from scores [heads * head size]."""
    by_head = scores.view(heads, -1)
    return (strongest(by_head, count) + torch.arange(heads)[:, None] * by_head.shape[1]).flatten()


def _share(weight: Tensor, power: Tensor) -> Tensor:
    """Each input's share of what a matrix [outputs, inputs] gives, [inputs], from the inputs' mean squares."""
    squares = weight.square().sum(0) * power
    return squares / squares.sum().clamp(min=torch.finfo(squares.dtype).tiny)


def _power(state: dict[str, Tensor], norm: str) -> Tensor:
    """Mean square of what a norm layer gives, [width]."""
    return state[f"{norm}.weight"].square() + state[f"{norm}.bias"].square()


def _layer_names(model: TextClassifier) -> list[str]:
    return [f"encoder.encoder.layer.{index}" for index in range(model.config.num_hidden_layers)]


def _state(model: TextClassifier) -> dict[str, Tensor]:
    """The weights by name, if they are in BERT's layout."""
    state = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    modules = [f"{EMBEDDINGS}.word_embeddings", f"{EMBEDDINGS}.LayerNorm"]
    modules += [f"{layer}.{part}" for layer in _layer_names(model) for part in (*READERS, *WRITERS)]
    missing = [module for module in modules if f"{module}.weight" not in state]
    if missing:
        name = type(model.encoder).__name__
        raise ValueError(f"distil.width: {name} has no {missing[0]}; only encoders in BERT's layout can be narrowed")
    return state


def _set_width(config: PretrainedConfig, width: int, projected: bool) -> None:
    """Write a width, and the feed-forward width in the same ratio, into the configuration."""
    config.intermediate_size = max(1, round(config.intermediate_size * width / config.hidden_size))
    config.hidden_size = width
    embedding = getattr(config, "embedding_size", None)
    if projected and embedding == width:
        raise ValueError(f"distil.width={width}: is the width of the teacher's embeddings too; take another multiple")
    if embedding is not None and not projected:
        config.embedding_size = width


def _rebuilt(model: TextClassifier, config: PretrainedConfig, state: dict[str, Tensor]) -> TextClassifier:
    """A model of this configuration with these weights, and with the old one's pooling and dropout."""
    with torch.random.fork_rng():  # the encoder's own initialisation is overwritten: it shall take no random numbers
        encoder = AutoModel.from_config(config, dtype=torch.float32)
        if getattr(encoder, "pooler", None) is not None:
            encoder.register_module("pooler", None)
        student = TextClassifier(encoder, model.head.out_features, model.pooling, model.dropout.p)
    student.load_state_dict(state)
    return student.train(model.training)
