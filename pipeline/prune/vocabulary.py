"""Remove the tokens that are never or seldom seen, from the tokenizer and from the embedding."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import nn

from pipeline.models import TextClassifier
from pipeline.prune.masks import Cuts, name_of

Facts = dict[str, Any]
BYTE = re.compile(r"<0x[0-9A-F]{2}>")


def trim_tokenizer(tokenizer: Tokenizer, wanted: set[int]) -> tuple[Tokenizer, NDArray[np.int64]]:
    """A tokenizer without the tokens that are not wanted and not needed either.

    Special and added tokens stay, and so do the unknown token, single characters, and what else it takes to spell every
    removed token. A text whose tokens all stay is cut as before. The order of the tokens stays, their ids are
    consecutive; whatever names an id, such as the post-processor, names the new one.

    Args:
        tokenizer: of kind WordPiece, Unigram or BPE.
        wanted: ids of tokens that stay at any rate.

    Returns:
        The tokenizer, and the old id of each of its tokens, int64 [tokens left].

    Raises:
        ValueError: a tokenizer of another kind.
    """
    facts: Facts = json.loads(tokenizer.to_str())
    model = facts["model"]
    if model["type"] not in NEEDED:
        kinds = ", ".join(NEEDED)
        raise ValueError(
            f"prune.method=vocabulary: the tokenizer is of kind {model['type']}, only {kinds} can be trimmed; "
            "leave vocabulary out"
        )
    vocabulary: dict[str, int] = tokenizer.get_vocab(with_added_tokens=False)
    named = {place[key] for place, key in _ids_in(facts)}
    unknown = vocabulary.get(model.get("unk_token") or "")
    kept_ids = wanted | named | ({unknown} if unknown is not None else set())
    texts = NEEDED[model["type"]](model, vocabulary, {text for text, i in vocabulary.items() if i in kept_ids})
    if model.get("byte_fallback"):
        texts |= {text for text in vocabulary if BYTE.fullmatch(text)}

    old_ids = sorted({vocabulary[text] for text in texts} | {token["id"] for token in facts["added_tokens"]})
    new_ids = {old: new for new, old in enumerate(old_ids)}
    for place, key in _ids_in(facts):
        place[key] = new_ids[place[key]]
    if model["type"] == "Unigram":
        model["vocab"] = [model["vocab"][vocabulary[text]] for text in sorted(texts, key=vocabulary.__getitem__)]
    else:
        model["vocab"] = {text: new_ids[vocabulary[text]] for text in sorted(texts, key=vocabulary.__getitem__)}
    return Tokenizer.from_str(json.dumps(facts)), np.array(old_ids, dtype=np.int64)


def _ids_in(facts: Facts) -> Iterator[tuple[Any, Any]]:
    """Where `tokenizer.json` names an id outside of the vocabulary itself: a container, and its key or position."""
    yield from ((token, "id") for token in facts["added_tokens"])
    if facts["padding"]:
        yield facts["padding"], "pad_id"
    if facts["model"].get("unk_id") is not None:
        yield facts["model"], "unk_id"
    processors = [facts["post_processor"]] if facts["post_processor"] else []
    while processors:
        processor = processors.pop()
        processors += processor.get("processors", [])
        if processor["type"] == "TemplateProcessing":
            for special in processor["special_tokens"].values():
                yield from ((special["ids"], position) for position in range(len(special["ids"])))
        elif processor["type"] in ("BertProcessing", "RobertaProcessing"):
            yield from ((processor[name], 1) for name in ("sep", "cls"))


def _word_piece(model: Facts, vocabulary: dict[str, int], texts: set[str]) -> set[str]:
    """`texts`, single characters, and what these cannot spell."""
    prefix = model["continuing_subword_prefix"]

    def needed(text: str) -> bool:
        inside = text.startswith(prefix) and text != prefix
        letters = text.removeprefix(prefix) if inside else text
        spelled = [letters[:1] if i == 0 and not inside else prefix + letter for i, letter in enumerate(letters)]
        return len(spelled) == 1 or not vocabulary.keys() >= set(spelled)

    return texts | set(filter(needed, vocabulary))


def _unigram(model: Facts, vocabulary: dict[str, int], texts: set[str]) -> set[str]:
    """`texts`, single characters, and what these cannot spell."""
    # The score of an unknown character is made from the lowest score of all, which therefore stays.
    lowest = min(model["vocab"], key=lambda entry: entry[1])[0]
    return texts | {lowest} | {text for text in vocabulary if len(text) == 1 or not vocabulary.keys() >= set(text)}


def _byte_pairs(model: Facts, vocabulary: dict[str, int], texts: set[str]) -> set[str]:
    """`texts`, what they are merged from on any way, and single characters; drops the merges that give other tokens."""
    prefix, suffix = model["continuing_subword_prefix"] or "", model["end_of_word_suffix"] or ""
    parts: dict[str, list[str]] = defaultdict(list)
    for left, right in model["merges"]:
        parts[left + right.removeprefix(prefix)] += [left, right]
    kept: set[str] = set()
    waiting = [*texts, *(text for text in vocabulary if len(text.removeprefix(prefix).removesuffix(suffix)) <= 1)]
    while waiting:
        text = waiting.pop()
        if text not in kept:
            kept.add(text)
            waiting += parts[text]
    model["merges"] = [pair for pair in model["merges"] if pair[0] + pair[1].removeprefix(prefix) in kept]
    return kept


NEEDED = {"WordPiece": _word_piece, "Unigram": _unigram, "BPE": _byte_pairs}
"""By kind of tokenizer: what must stay, given what is wanted."""


def vocabulary_cuts(model: TextClassifier, old_ids: NDArray[np.int64]) -> Cuts:
    """The embedding rows that stay; the ids in the model's configuration become the new ones.

    Args:
        model: its configuration is changed.
        old_ids: the old id of each token that stays, [tokens left], the padding's among them.
    """
    new_ids = {int(old): new for new, old in enumerate(old_ids)}
    words = model.encoder.get_input_embeddings()  # type: ignore[operator]
    cuts: Cuts = {name_of(model, words): (torch.from_numpy(old_ids), None)}
    old_pad, config = model.pad_id, model.config
    for name, value in config.to_dict().items():
        if name.endswith("_token_id") and isinstance(value, int):
            setattr(config, name, new_ids.get(value))
    config.vocab_size = len(old_ids)
    module: Any
    for module in model.modules():
        if getattr(module, "padding_idx", None) is None:
            continue
        positions = getattr(module, "position_embeddings", None)
        if isinstance(positions, nn.Embedding):
            # RoBERTa counts positions from the padding's id on: the rows before the first one move with it.
            first = old_pad - model.pad_id
            cuts[name_of(model, positions)] = (torch.arange(first, positions.num_embeddings), None)
        module.padding_idx = model.pad_id
    return cuts
