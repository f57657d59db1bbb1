"""The embedded sample: a seeded generator of synthetic Bangla-script comments.

A comment is a shuffled row of short clauses. Words alone decide little: a label holds when the *roles* of one clause
agree, and nearly every word of an agreeing clause also occurs in clauses that mean no harm. An insult counts when
it is said of "you" and not negated; harm counts when it is promised (future) to "you"; a religious term counts when it
is what the scorn is about; a contact counts when the reader is called to it. The vocabulary is mild or made up.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

SAMPLE_LABELS: tuple[str, ...] = ("bully", "sexual", "religious", "threat", "spam")
NOTICE = "The comments of the embedded sample are synthetic: a seeded program composed them, nobody wrote them."

_BLOCK = 1024  # rows that share one random generator; changing it changes every sample
_VARIANTS = 12  # misspellings kept for each word
_MISSPELT = 0.06  # share of words that are misspelt
_COPIED = 0.012  # share of comments that repeat another one of their block
_LABEL_NOISE = 0.012  # share of a label's positives that lose it; as many negatives gain it

_Ints = npt.NDArray[np.int64]
_Strings = npt.NDArray[np.object_]

# Role -> words. "" is the empty role: it adds no word to the comment.
_ROLES = {
    "": "",
    "meant": "শোনো সোজাসুজি স্পষ্ট",
    "wry": "বাহ আহা সাবাস",
    "you": "তুমি আপনি তোমরা তোরা",
    "other": "আমি উনি আমরা ওরা",
    "insult": "বোকা গাধা ছাগল পাজি",
    "kind": "বন্ধু মেধাবী ভদ্র শিল্পী",
    "not": "না নয়",
    "your": "তোমার তোদের আপনার",
    "their": "আমার ওদের দাদার",
    "lewd": "রসলুলু টুংকা লটপট চুমকুড়ি",
    "own": "গান ছবি রান্না বাড়ি",
    "youacc": "তোমাকে তোদেরকে আপনাকে",
    "otheracc": "আমাকে ওদেরকে দাদাকে",
    "harm": "পিটুনি ধাক্কা ঘুষি গুঁতা",
    "gift": "ফুল মিষ্টি খবর দাওয়াত",
    "will": "লাগাব পাঠাব",
    "did": "লাগাল পাঠাল",
    "faith": "মন্দিরটা মসজিদটা গির্জাটা পূজাটা",
    "thing": "খেলাটা নাটকটা বাজারটা সিনেমাটা",
    "scorn": "জঘন্য ফালতু ভণ্ডামি হাস্যকর",
    "praise": "সুন্দর চমৎকার পবিত্র দারুণ",
    "contact": "লিংকটায় ইনবক্সটায় নম্বরটায় পেজটায়",
    "place": "স্কুলটায় গ্রামটায় মাঠটায় দোকানটায়",
    "call": "আসুন কিনুন জিতুন ঢুকুন",
    "ask": "কেন কীভাবে কারা কতক্ষণ",
    "adverb": "খুব একেবারে আসলেই সত্যি অনেক আবার",
    "topic": "বৃষ্টি নৌকা মেলা ক্রিকেট ইলিশ বিকেল",
    "event": "দেখলাম হচ্ছে আসছে লাগছে",
    "filler": (
        "আর তবে মানে শুনছি দেখি ভাবছি হয়তো কাল সকালে রাতে কথা মানুষ দেশ দিন আলো নদী পাখি জানি বলছি এই তাই কিন্তু "
        "এখানে পথে ঘরে চা ভাত মাছ আকাশ শেষে মনে পাশে"
    ),
    "mark": "। ! ? !! ... ,",
    "smile": "\U0001f602 \U0001f61c \U0001f923",
    "frown": "\U0001f621 \U0001f44e \U0001f612",
}

_ENDINGS = " টা রা দের গুলা মার্কা ই ও গিরি কে টাই".split(" ")
_STEMS = {"brute": "বান্দর রামছাগল হনুমান গর্দভ উজবুক", "smut": "ফুলঝুম লালাঝর রসগুল টিপাটিপি", "heresy": "ধর্মব্যবসা ভণ্ডপীর কুসংস্কার ধর্মান্ধ",
"menace": "কবরযাত্রা হাড়ভাঙা জানখতম শেষযাত্রা", "advert": "ফ্রিটাকা লাখপতি বোনাসকোড লটারি"}
_ROLES |= {role: " ".join(stem + ending for stem in stems.split() for ending in _ENDINGS) for role, stems in _STEMS.items()}

# Kinds of clause, each an ordered row of roles; an adverb may stand before the second role.
# Of each label, `_BLUNT` harms when it is meant and `_MILD` when it is wry; the other kinds never harm.
_BLUNT = ("you insult", "your lewd", "faith scorn", "youacc harm will", "contact call")
_MILD = ("you kind", "your own", "faith praise", "youacc gift will", "contact ask")
_BLUNT_OF_OTHERS = ("other insult", "their lewd", "thing scorn", "otheracc harm will", "place call")
_MILD_OF_OTHERS = ("other kind", "their own", "thing praise", "otheracc gift will", "place ask")
_BLUNT_DENIED = ("you insult not", "your lewd not", "faith scorn not", "youacc harm did", "contact call not")
_MILD_DENIED = ("you kind not", "your own not", "faith praise not", "youacc gift did", "contact ask not")

_SEVERE = ("you brute", "your smut", "thing heresy", "youacc menace", "place advert")

_SEV = float(os.environ.get("SEV", .35))
_WRY = float(os.environ.get("WRY", .3))
_OTHERS = float(os.environ.get("OTH", .2))
_DENIED = float(os.environ.get("DEN", .2))
_RATES = np.array([0.50, 0.16, 0.14, 0.15, 0.10])
_RATES_IF_BULLY = np.array([1.0, 0.20, 0.15, 0.21, 0.04])
_HARMLESS_RATES = np.array([0.75, 0.3, 0.3, 0.3, 0.25])

# Letters and vowel signs that writers mix up, each followed by its partner.
_CONFUSED = dict(zip("িীুূসশনণজযেৈোৌ", "ীিূুশসণনযজৈেৌো", strict=True))


def _misspell(word: str, rng: np.random.Generator) -> str:
    """One misspelling of `word`; the word itself when it is too short or has no letter to confuse."""
    if len(word) < 3 or not "\u0980" <= word[0] <= "\u09ff":
        return word
    at = int(rng.integers(1, len(word) - 1))
    confused = [i for i, letter in enumerate(word) if letter in _CONFUSED]
    edits = [
        word[:at] + word[at + 1 :],
        word[:at] + word[at + 1] + word[at] + word[at + 2 :],
        word[:at] + word[at] + word[at:],
        word + word[-1] * int(rng.integers(1, 4)),
    ]
    if confused:
        at = confused[int(rng.integers(len(confused)))]
        edits += [word[:at] + _CONFUSED[word[at]] + word[at + 1 :]] * 3
    return edits[int(rng.integers(len(edits)))]


def _spellings() -> _Strings:
    """All words of all roles, in order: shape (words, 1 + _VARIANTS), the correct spelling first."""
    rng = np.random.default_rng(0)
    words = [word for role in _ROLES.values() for word in role.split() or [""]]
    table = [[word] + [_misspell(word, rng) for _ in range(_VARIANTS)] for word in words]
    return np.array(table, dtype=object)


_SPELLINGS = _spellings()
_ROLE_SIZE: _Ints = np.array([max(1, len(words.split())) for words in _ROLES.values()])
_ROLE_START: _Ints = np.cumsum(_ROLE_SIZE) - _ROLE_SIZE
_ROLE = {role: number for number, role in enumerate(_ROLES)}


def _clauses(kinds: tuple[str, ...]) -> _Ints:
    """Role numbers of each kind of clause: shape (kinds, 4), slots first role, adverb, second role, third role."""
    rows = []
    for kind in kinds:
        first, second, *third = (_ROLE[role] for role in kind.split())
        rows.append([first, _ROLE["adverb"], second, third[0] if third else _ROLE[""]])
    return np.array(rows)


# Kind 0 is the absent clause; kind 1 + 5 * group + label the others.
_KINDS = np.vstack([np.zeros((1, 4), dtype=np.int64), _clauses((*_BLUNT, *_MILD, *_BLUNT_OF_OTHERS, *_MILD_OF_OTHERS, *_BLUNT_DENIED, *_MILD_DENIED, *_SEVERE, 'topic event', 'topic event', 'topic event', 'topic event', 'topic event'))])


def _draw_labels(rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    """Which labels hold: shape (_BLOCK, 5). The other labels' rates depend on `bully`, their overall rates do not."""
    bully = rng.random((_BLOCK, 1)) < _RATES[0]
    if_not_bully = (_RATES - _RATES[0] * _RATES_IF_BULLY) / (1 - _RATES[0])
    labels = rng.random((_BLOCK, len(SAMPLE_LABELS))) < np.where(bully, _RATES_IF_BULLY, if_not_bully)
    labels[:, 0] = bully[:, 0]
    return labels


def _draw_kinds(labels: npt.NDArray[np.bool_], wry: npt.NDArray[np.bool_], rng: np.random.Generator) -> _Ints:
    """Kinds of clause of each comment, in the order they are said: shape (_BLOCK, 5 + plain), 0 where there is none."""
    label = np.arange(5)
    u = rng.random(labels.shape)
    near = (rng.random(labels.shape) < .5) ^ (wry)  
    group = np.where(u < _OTHERS, 2 + wry, np.where(u < _OTHERS + _DENIED, 4 + wry, 1 - wry))
    group = np.where(labels, 1 * wry, group)
    group[labels & (rng.random(labels.shape) < _SEV)] = 6
    about = 1 + label + 5 * group
    about[(rng.random(labels.shape) >= _HARMLESS_RATES) & ~labels] = 0
    plain = 1 + label[rng.integers(5, size=(_BLOCK, 6))] + 5 * np.where(rng.random((_BLOCK, 6)) < float(os.environ.get('LOC', .15)), rng.integers(2, 4, size=(_BLOCK, 6)), 7)
    wanted = np.clip(np.floor(rng.lognormal(float(os.environ.get("PL", 0)), 0.8, size=(_BLOCK, 1))), 0, 6)
    plain[np.arange(6) >= wanted] = 0
    kinds = np.hstack([about, plain])
    return rng.permuted(kinds, axis=1)


def _compose(kinds: _Ints, wry: npt.NDArray[np.bool_], rng: np.random.Generator) -> list[str]:
    """The comments that say `kinds`, shape (_BLOCK, clauses): a list of _BLOCK strings."""
    spoken = kinds > 0
    roles = np.zeros((*kinds.shape, 6), dtype=np.int64)
    roles[..., 1:5] = _KINDS[kinds]
    roles[..., 2] *= rng.random(kinds.shape) < 0.12
    roles[..., 0] = _ROLE["filler"] * (spoken & (rng.random(kinds.shape) < 0.4))
    roles[..., 5] = _ROLE["mark"] * (spoken & (rng.random(kinds.shape) < 0.3))
    tail = np.clip(rng.lognormal(0.3, 0.9, size=(_BLOCK, 1)), 0, 24)
    fillers = _ROLE["filler"] * (np.arange(24) < np.floor(tail))
    mode = np.where(wry, _ROLE['wry'], _ROLE['meant'])
    face = np.where(wry, _ROLE['smile'], _ROLE['frown']) * (rng.random((_BLOCK, 1)) < 0.5)
    roles = np.hstack([mode, roles.reshape(_BLOCK, -1), fillers, face])
    # The square makes the first words of a role the frequent ones.
    word = _ROLE_START[roles] + (_ROLE_SIZE[roles] * rng.random(roles.shape) ** 1.5).astype(np.int64)
    spelling = rng.integers(1, 1 + _VARIANTS, size=roles.shape) * (rng.random(roles.shape) < _MISSPELT)
    return [" ".join(filter(None, words)) for words in _SPELLINGS[word, spelling].tolist()]


def _generate_block(seed: int, block: int) -> pd.DataFrame:
    """Rows `block * _BLOCK` to `(block + 1) * _BLOCK` of the sample."""
    rng = np.random.default_rng([seed, block])
    labels = _draw_labels(rng)
    wry = rng.random((_BLOCK, 1)) < _WRY
    comments = np.array(_compose(_draw_kinds(labels, wry, rng), wry, rng), dtype=object)
    source = np.arange(_BLOCK)
    copied = rng.random(_BLOCK) < _COPIED
    source[copied] = rng.integers(_BLOCK, size=int(copied.sum()))
    labels = labels[source]
    noise = np.where(labels, _LABEL_NOISE, _LABEL_NOISE * _RATES / (1 - _RATES))
    labels ^= rng.random(labels.shape) < noise
    frame = pd.DataFrame(labels.astype(np.int8), columns=list(SAMPLE_LABELS))
    frame.insert(0, "comment", comments[source])
    return frame


def generate_comments(rows: int, seed: int, start: int = 0) -> pd.DataFrame:
    """Rows `start` to `start + rows` of the endless sample of `seed`.

    Returns: a frame of `rows` rows, indexed from 0, with the columns `comment` (text) and the five `SAMPLE_LABELS` (int8,
        0 or 1). A row depends on `seed` and its own number only, so a sample can be generated in chunks of any size.

    Raises:
        ValueError: `rows`, `seed` or `start` is negative.
    """
    for name, value in (("rows", rows), ("seed", seed), ("start", start)):
        if value < 0:
            raise ValueError(f"{name}={value}: must be 0 or more")
    first = start // _BLOCK
    blocks = [_generate_block(seed, block) for block in range(first, max(first, (start + rows - 1) // _BLOCK) + 1)]
    skip = start - first * _BLOCK
    return pd.concat(blocks, ignore_index=True).iloc[skip : skip + rows].reset_index(drop=True)
