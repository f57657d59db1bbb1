"""Encoders against a model whose dropped layers do nothing, NumPy's pooling, and Hugging Face's own files."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import nn
from transformers import BertConfig, BertModel

from pipeline.config import TeacherConfig
from pipeline.models import (
    TextClassifier,
    build_pretrained,
    build_scratch,
    cut,
    encoder_layers,
    load_model,
    pool,
    save_model,
    train_tokenizer,
)
from pipeline.students import keep_layers

VOCABULARY, LABELS = 50, 3
TEXTS = ["তুমি খুব ভালো", "নদী আর পাখি", "Hello WORLD hello", "তোমরা কোথায় যাও আজ বিকেলে"] * 3


def scratch(layers=4, pooling="mean", seed=0):
    torch.manual_seed(seed)
    config = TeacherConfig(
        scratch_layers=layers, scratch_width=16, scratch_heads=2, max_tokens=16, pooling=pooling, dropout=0.2
    )
    return randomised(build_scratch(config, LABELS, VOCABULARY))


def randomised(model):
    """The model with every weight random, biases and norms too, so that no two tensors are equal by initialisation."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return model.eval()


def batch(seed=0):
    """Ids and mask of comments of 12, 5, 1 and 8 tokens."""
    lengths = torch.tensor([12, 5, 1, 8])
    mask = (torch.arange(12) < lengths[:, None]).long()
    ids = torch.randint(1, VOCABULARY, mask.shape, generator=torch.Generator().manual_seed(seed)) * mask
    return ids, mask


def answer(model, ids, mask):
    with torch.inference_mode():
        return model(ids, mask)


@pytest.mark.parametrize("pooling", ["mean", "cls", "max"])
def test_save_and_load_give_the_same_logits(tmp_path, pooling):
    model = keep_layers(scratch(3, pooling), [0, 2])
    save_model(model, tmp_path)
    torch.manual_seed(1)
    loaded = load_model(tmp_path)
    assert loaded.pooling == pooling and loaded.dropout.p == 0.2
    ids, mask = batch()
    torch.testing.assert_close(answer(loaded.eval(), ids, mask), answer(model, ids, mask), rtol=0, atol=0)
    stored = load_file(tmp_path / "model.safetensors")
    assert sum(array.size for array in stored.values()) == sum(p.numel() for p in model.parameters())
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["num_hidden_layers"] == 2 and "_name_or_path" not in config


def test_a_model_narrower_than_its_config_is_loaded_as_it_was_stored(tmp_path):
    model, kept = scratch(2), torch.tensor([0, 1, 4, 5, 6, 7, 9, 11, 12, 15])
    for name, module in model.named_modules():
        if isinstance(module, nn.LayerNorm):
            module.weight, module.bias = nn.Parameter(module.weight[kept]), nn.Parameter(module.bias[kept])
            module.normalized_shape = (10,)
        elif isinstance(module, nn.Embedding):
            cut(module, None, kept)
        elif isinstance(module, nn.Linear):
            cut(module, kept if name.endswith("output.dense") else None, None if ".output." in name else kept)
    save_model(model, tmp_path)
    loaded = load_model(tmp_path).eval()
    assert loaded.config.hidden_size == 16 and loaded.head.in_features == 10
    words = loaded.encoder.embeddings.word_embeddings
    assert (words.num_embeddings, words.embedding_dim) == (VOCABULARY, 10)
    ids, mask = batch()
    torch.testing.assert_close(answer(loaded, ids, mask), answer(model, ids, mask), rtol=0, atol=0)


def test_every_layer_has_the_heads_that_its_stored_queries_are_wide(tmp_path):
    model = scratch(2)
    for layer, width in zip(encoder_layers(model), (12, 4), strict=True):  # the config says two heads of 8
        attention, rows = layer.attention.self, torch.arange(width)
        for part in (attention.query, attention.key, attention.value):
            cut(part, rows, None)
        cut(layer.attention.output.dense, None, rows)
        attention.attention_head_size, attention.scaling = 4, 0.5
    save_model(model, tmp_path)
    loaded = load_model(tmp_path).eval()
    parts = [layer.attention.self for layer in encoder_layers(loaded)]
    assert [(p.num_attention_heads, p.attention_head_size, p.all_head_size) for p in parts] == [(3, 4, 12), (1, 4, 4)]
    ids, mask = batch()
    torch.testing.assert_close(answer(loaded, ids, mask), answer(model, ids, mask), rtol=0, atol=0)
    with torch.inference_mode():  # the first layer's attention, head by head in plain matrices
        hidden = loaded.encoder.embeddings(ids[:1])[0]
        q, k, v = (getattr(parts[0], name)(hidden).view(-1, 3, 4).transpose(0, 1) for name in ("query", "key", "value"))
        by_hand = ((q @ k.transpose(1, 2) / 2).softmax(-1) @ v).transpose(0, 1).reshape(-1, 12)
        torch.testing.assert_close(parts[0](hidden[None])[0][0], by_hand)


def test_a_damaged_set_of_weights_is_refused(tmp_path):
    model = scratch(2)
    save_model(model, tmp_path)
    save_model(keep_layers(model, [0]), tmp_path / "..")
    (tmp_path.parent / "model.safetensors").replace(tmp_path / "model.safetensors")
    with pytest.raises(RuntimeError, match="Missing key"):
        load_model(tmp_path)


def test_a_pretrained_folder_is_loaded_in_fp32_without_its_pooler(tmp_path):
    torch.manual_seed(2)
    config = BertConfig(vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
    original = randomised(BertModel(config)).half()
    original.save_pretrained(tmp_path)
    model = build_pretrained(str(tmp_path), LABELS, "cls", 0.0).eval()
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert not any("pooler" in name for name in model.state_dict())
    ids, mask = batch()
    with torch.inference_mode():
        hidden = original.float().eval()(input_ids=ids, attention_mask=mask).last_hidden_state
        expected = hidden[:, 0] @ model.head.weight.T + model.head.bias
    torch.testing.assert_close(answer(model, ids, mask), expected)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(0, 2**32 - 1))
def test_pooling_is_numpys_over_the_real_tokens(lengths, seed):
    hidden = np.random.default_rng(seed).normal(size=(len(lengths), max(lengths), 4)).astype(np.float32)
    mask = torch.from_numpy((np.arange(max(lengths)) < np.array(lengths)[:, None]).astype(np.int64))
    expected = {
        "mean": [row[:n].mean(axis=0) for row, n in zip(hidden, lengths, strict=True)],
        "max": [row[:n].max(axis=0) for row, n in zip(hidden, lengths, strict=True)],
        "cls": list(hidden[:, 0]),
    }
    for pooling, rows in expected.items():
        np.testing.assert_allclose(pool(torch.from_numpy(hidden), mask, pooling).numpy(), np.stack(rows), atol=1e-6)


@pytest.mark.parametrize("pooling", ["mean", "cls", "max"])
def test_padding_changes_no_answer(pooling):
    model = scratch(2, pooling)
    ids, mask = batch()
    together = answer(model, ids, mask)
    for i, length in enumerate(mask.sum(1).tolist()):
        alone = answer(model, ids[i : i + 1, :length], mask[i : i + 1, :length])
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-4, atol=1e-5)
    scrambled = torch.where(mask == 1, ids, torch.full_like(ids, 7))
    torch.testing.assert_close(answer(model, scrambled, mask), together)


def test_an_architecture_without_a_list_of_layers_is_refused():
    class Flat(nn.Module):
        config = BertConfig(hidden_size=8, num_attention_heads=2, num_hidden_layers=3)

    with pytest.raises(ValueError, match="Flat: no list of 3 layers"):
        encoder_layers(TextClassifier(Flat(), LABELS, "mean", 0.0))


@pytest.mark.parametrize("vocabulary", [200, 250, 1000])
def test_train_tokenizer_is_deterministic(tiny_comments, vocabulary):
    texts = tiny_comments.train.texts
    first = train_tokenizer(texts, vocabulary).to_str()
    assert all(train_tokenizer(list(texts), vocabulary).to_str() == first for _ in range(4))
    assert train_tokenizer(texts[:100], vocabulary).to_str() != first


def test_train_tokenizer_cuts_as_short_as_the_plain_trainer(tiny_comments):
    # The plain trainer breaks ties at random, so that the pieces themselves may differ.
    texts = tiny_comments.train.texts
    plain = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    plain.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    plain.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    plain.train_from_iterator(
        texts, trainers.WordPieceTrainer(vocab_size=400, special_tokens=names, show_progress=False)
    )
    ours = train_tokenizer(texts, 400)
    assert ours.get_vocab_size() == plain.get_vocab_size() == 400
    assert {piece for piece in plain.get_vocab() if len(piece.removeprefix("##")) == 1} <= set(ours.get_vocab())
    pieces = [
        sum(len(encoding.ids) for encoding in tokenizer.encode_batch(texts, add_special_tokens=False))
        for tokenizer in (ours, plain)
    ]
    assert pieces[0] == pytest.approx(pieces[1], rel=0.03)


def test_the_tokenizer_frames_lowercases_and_covers_what_it_learnt():
    tokenizer = train_tokenizer(TEXTS, 220)
    vocabulary = tokenizer.get_vocab()
    assert len(vocabulary) <= 220
    assert [vocabulary[token] for token in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")] == [0, 1, 2, 3, 4]
    ids = tokenizer.encode("hello নদী").ids
    assert (ids[0], ids[-1]) == (2, 3) and 1 not in ids
    assert tokenizer.encode("HELLO নদী").ids == ids
    assert tokenizer.decode(ids) == "hello নদী"
    assert 1 in tokenizer.encode("漢字").ids
