"""Smaller tokenizers against the full ones, on comments whose tokens all stay and on text that nobody has seen."""

import copy
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from pipeline.models import build_pretrained, load_model, save_model, train_tokenizer
from pipeline.prune.masks import Masks
from pipeline.prune.vocabulary import trim_tokenizer, vocabulary_cuts
from pipeline.tokens import tokenise

SHARED = Path(os.environ.get("PARETO_SHARED", "/nowhere")) / "models" / "e5-small-bn"
SPECIAL = ["কাকাকাকা", "<s>", "<pad>", "</s>", "<unk>", "<mask>"]
UNSEEN = ["qué 漢字 zzz", "", "১২৩ কখগঘঙ চছজঝঞ", "!!!", "ab" * 150]


def without_shield(tokenizer):
    """The tokenizer with its first token no longer an added one: once it goes, the ids of all others move."""
    facts = json.loads(tokenizer.to_str())
    assert facts["added_tokens"].pop(0)["content"] == SPECIAL[0]
    return Tokenizer.from_str(json.dumps(facts))


def word_piece(texts):
    return train_tokenizer(texts, 600)


def unigram(texts):
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    tokenizer.train_from_iterator(
        texts, trainers.UnigramTrainer(vocab_size=600, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False)
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 3)]
    )
    return without_shield(tokenizer)


def byte_pairs(texts):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=900, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.Sequence(
        [processors.ByteLevel(), processors.RobertaProcessing(("</s>", 3), ("<s>", 1))]
    )
    return without_shield(tokenizer)


def suffixed_byte_pairs(texts):
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>", continuing_subword_prefix="@@"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=SPECIAL,
        end_of_word_suffix="</w>",
        continuing_subword_prefix="@@",
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens(["নতুন-শব্দ"])
    tokenizer.post_processor = processors.BertProcessing(("</s>", 3), ("<s>", 1))
    tokenizer.enable_padding(pad_id=2, pad_token="<pad>")
    return without_shield(tokenizer)


MAKERS = [word_piece, unigram, byte_pairs, suffixed_byte_pairs]


@pytest.fixture(scope="module", params=MAKERS)
def trimmed(request, tiny_comments):
    """A tokenizer learnt from the comments, and the same for those tokens alone that the first sixty use."""
    full = request.param(tiny_comments.train.texts)
    wanted = {i for text in tiny_comments.train.texts[:60] for i in full.encode(text).ids}
    return full, *trim_tokenizer(full, wanted), wanted


def test_comments_whose_tokens_all_stay_are_cut_as_before(trimmed, tiny_comments):
    full, small, old_ids, wanted = trimmed
    texts, stay = [*tiny_comments.train.texts, *tiny_comments.test.texts], set(old_ids.tolist())
    unaffected = 0
    for text in texts:
        before = full.encode(text)
        if set(before.ids) <= stay:
            after = small.encode(text)
            assert (old_ids[after.ids].tolist(), after.tokens) == (before.ids, before.tokens)
            unaffected += 1
    assert 60 <= unaffected < len(texts) and wanted <= stay
    assert len(old_ids) == small.get_vocab_size() < full.get_vocab_size()


def test_ids_are_consecutive_in_the_old_order_and_each_names_its_old_token(trimmed):
    full, small, old_ids, _ = trimmed
    assert (np.diff(old_ids) > 0).all() and sorted(small.get_vocab().values()) == list(range(len(old_ids)))
    assert all(small.id_to_token(new) == full.id_to_token(int(old)) for new, old in enumerate(old_ids))
    if small.padding:
        assert small.padding["pad_id"] == small.token_to_id("<pad>") == full.token_to_id("<pad>") - 1
    again = Tokenizer.from_str(small.to_str())
    assert again.get_vocab() == small.get_vocab() and again.to_str() == small.to_str()


def test_special_and_added_tokens_and_single_characters_stay(trimmed):
    full, small, _, _ = trimmed
    left = set(small.get_vocab())
    added = {token.content: token for token in full.get_added_tokens_decoder().values()}
    assert set(added) <= left and len(added) >= 5
    for number, token in small.get_added_tokens_decoder().items():
        assert small.token_to_id(token.content) == number and token.special == added[token.content].special
    for text in full.get_vocab():
        if len(text.removeprefix("##").removeprefix("@@").removesuffix("</w>")) == 1:
            assert text in left, text


def test_unseen_text_is_still_cut_and_what_the_full_one_knew_is_not_unknown(trimmed, tiny_comments):
    full, small, _, _ = trimmed
    unknown = {"[UNK]", "<unk>"}
    for text in [*UNSEEN, *tiny_comments.test.texts]:
        before, after = full.encode(text), small.encode(text)
        assert len(after.ids) >= 2 and (after.tokens[0], after.tokens[-1]) == (before.tokens[0], before.tokens[-1])
        assert unknown & set(after.tokens) <= unknown & set(before.tokens)
    affected = [text for text in tiny_comments.test.texts if full.encode(text).tokens != small.encode(text).tokens]
    assert len(affected) > 10
    if full.decoder is not None:
        assert all(small.decode(small.encode(t).ids) == full.decode(full.encode(t).ids) for t in affected)


def test_a_lossless_trim_keeps_everything(trimmed):
    full, _, _, _ = trimmed
    same, old_ids = trim_tokenizer(full, set(full.get_vocab().values()))
    assert old_ids.tolist() == list(range(full.get_vocab_size()))
    reread = Tokenizer.from_str(full.to_str())  # the library's own reading moves a score by the last binary digit
    assert json.loads(same.to_str()) == json.loads(reread.to_str())


def test_what_single_characters_cannot_spell_stays():
    pieces = {"[UNK]": 0, "a": 1, "##a": 2, "b": 3, "ab": 4, "aa": 5, "##aa": 6, "##ba": 7, "ba": 8}
    word = Tokenizer(models.WordPiece(pieces, unk_token="[UNK]"))
    small, _ = trim_tokenizer(word, set())
    assert set(small.get_vocab()) == {"[UNK]", "a", "##a", "b", "ab", "##ba"}, "there is no ##b"
    scored = Tokenizer(models.Unigram([("<unk>", 0.0), ("a", -1.0), ("aa", -2.0), ("ac", -2.5), ("aaa", -9.0)], 0))
    small, _ = trim_tokenizer(scored, set())
    assert set(small.get_vocab()) == {"<unk>", "a", "ac", "aaa"}, "no c; and the lowest score makes that of the unknown"


def test_bytes_that_stand_for_unknown_characters_stay():
    vocabulary = {"<unk>": 0, "a": 1, "b": 2, "ab": 3} | {f"<0x{i:02X}>": 4 + i for i in range(256)}
    full = Tokenizer(models.BPE(vocabulary, [("a", "b")], unk_token="<unk>", byte_fallback=True))
    small, old_ids = trim_tokenizer(full, set())
    assert len(old_ids) == 259 and small.encode("abঅ").tokens == ["a", "b", "<0xE0>", "<0xA6>", "<0x85>"]


def test_another_kind_of_tokenizer_is_a_value_error():
    words = Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    with pytest.raises(ValueError, match=r"kind WordLevel, only WordPiece, Unigram, BPE can be trimmed"):
        trim_tokenizer(words, set())


@pytest.mark.parametrize("kind", ["bert", "roberta", "xlm-roberta", "electra"])
@pytest.mark.parametrize("maker", [word_piece, unigram])
def test_logits_of_comments_whose_tokens_stay_are_the_full_models(random_encoder, tiny_comments, tmp_path, kind, maker):
    full = maker(tiny_comments.train.texts)
    size, pad = full.get_vocab_size(), full.token_to_id("[PAD]" if maker is word_piece else "<pad>")
    model = random_encoder(
        kind, vocab_size=size + 3, pad_token_id=pad, max_position_embeddings=160, bos_token_id=size + 1, eos_token_id=3
    )
    wanted = {i for text in tiny_comments.train.texts[:60] for i in full.encode(text).ids}
    tokenizer, old_ids = trim_tokenizer(full, {*wanted, model.pad_id})
    small, words = copy.deepcopy(model), model.encoder.get_input_embeddings().weight.detach()
    Masks(small).cut(vocabulary_cuts(small, old_ids))
    torch.testing.assert_close(small.encoder.get_input_embeddings().weight.detach(), words[old_ids], rtol=0, atol=0)
    assert small.config.vocab_size == len(old_ids) < size
    new_pad = tokenizer.token_to_id("[PAD]" if maker is word_piece else "<pad>")
    assert (small.pad_id, small.config.bos_token_id) == (new_pad, None)
    assert small.config.eos_token_id == tokenizer.token_to_id("[SEP]" if maker is word_piece else "</s>")
    assert new_pad == pad - (maker is unigram)

    save_model(small, tmp_path)
    loaded, rows = load_model(tmp_path).eval(), np.arange(60)
    texts = tiny_comments.train.texts[:60]
    before = tuple(map(torch.from_numpy, tokenise(full, texts).pad(rows, model.pad_id)))
    after = tuple(map(torch.from_numpy, tokenise(tokenizer, texts).pad(rows, loaded.pad_id)))
    assert (before[0] != after[0]).any() and torch.equal(before[1], after[1])
    with torch.inference_mode():
        expected = model(*before)
        torch.testing.assert_close(loaded(*after), expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(small(*after), expected, rtol=0, atol=1e-5)


@pytest.mark.skipif(not (SHARED / "model.safetensors").is_file(), reason="needs PARETO_SHARED/models/e5-small-bn")
def test_a_real_unigram_encoder_answers_as_before(tiny_comments):
    full = Tokenizer.from_file(str(SHARED / "tokenizer.json"))
    model = build_pretrained(str(SHARED), 3, "mean", 0.0).eval()
    texts, rows = tiny_comments.train.texts[:8], np.arange(8)
    wanted = {i for text in texts for i in full.encode(text).ids}
    tokenizer, old_ids = trim_tokenizer(full, {*wanted, model.pad_id})
    assert len(old_ids) < full.get_vocab_size()
    with torch.inference_mode():
        expected = model(*map(torch.from_numpy, tokenise(full, texts).pad(rows, model.pad_id)))
        Masks(model).cut(vocabulary_cuts(model, old_ids))
        answer = model(*map(torch.from_numpy, tokenise(tokenizer, texts).pad(rows, model.pad_id)))
    torch.testing.assert_close(answer, expected, rtol=0, atol=1e-5)
