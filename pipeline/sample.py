"""The embedded sample: a seeded generator of synthetic Bangla-script comments.

A comment is a shuffled row of short clauses, said in earnest or wryly. Words alone decide little, because a label holds
when several words agree: blunt words harm when they are meant, mild words of the same subject harm when they are wry
("how gifted you are" as mockery), and neither harms when it is denied, in the past, or about somebody or something
else. Only the severe words, which have many endings, tell by themselves. The vocabulary is mild or made up.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

SAMPLE_LABELS: tuple[str, ...] = ("bully", "sexual", "religious", "threat", "spam")
NOTICE = "The comments of the embedded sample are synthetic: a seeded program composed them, nobody wrote them."

_LABELS = len(SAMPLE_LABELS)
_BLOCK = 1024  # rows that share one random generator; changing it changes every sample
_RATES = np.array([0.50, 0.16, 0.14, 0.15, 0.10])  # share of comments with the label, before noise
_RATES_IF_BULLY = np.array([1.0, 0.20, 0.15, 0.21, 0.04])  # the same among the comments that bully
_DECOY_RATES = np.array([0.75, 0.30, 0.30, 0.30, 0.25])  # share of comments without the label that speak of its subject
_WRY = 0.23  # share of comments that are wry
_SEVERE = 0.35  # share of a label's positives that say it with a severe word
_DECOY_SHARES = np.array([0.94, 0.97])  # up to here decoys miss by tone, by whom they are about; beyond, by denial
_ASIDES = 0.06  # share of plain clauses that say a label's words of somebody else
_LABEL_NOISE = 0.012  # share of a label's positives that lose it; as many negatives gain it
_COPIED = 0.012  # share of comments that repeat another one of their block
_MISSPELT = 0.06  # share of words that are misspelt
_MISSPELLINGS = 12  # misspellings known of each word
_PLAIN = 6  # most plain clauses in a comment
_TAIL = 24  # most filler words at the end of a comment

_Ints = npt.NDArray[np.int64]
_Bools = npt.NDArray[np.bool_]
_Strings = npt.NDArray[np.object_]

# Role -> words. Pairs such as "you" and "other" share their endings, so that characters across the gap between two
# words do not tell the pairs apart.
_ROLES = {
    "nothing": "",
    "meant": "শোনো সোজাসুজি স্পষ্ট",
    "wry": "বাহ আহা সাবাস",
    "you": "তুমি আপনি তোমরা তোরা",
    "other": "আমি উনি আমরা ওরা",
    "insult": "বোকা গাধা ছাগল পাজি",
    "kind": "বন্ধু মেধাবী ভদ্র শিল্পী",
    "your": "তোমার তোদের আপনার",
    "their": "আমার ওদের দাদার",
    "lewd": "রসলুলু টুংকা লটপট চুমকুড়ি",
    "own": "গান ছবি রান্না বাড়ি",
    "at_you": "তোমাকে তোদেরকে আপনাকে",
    "at_other": "আমাকে ওদেরকে দাদাকে",
    "harm": "পিটুনি ধাক্কা ঘুষি গুঁতা",
    "gift": "ফুল মিষ্টি খবর দাওয়াত",
    "will": "লাগাব পাঠাব",
    "did": "লাগাল পাঠাল",
    "faith": "মন্দিরটা মসজিদটা গির্জাটা পূজাটা নামাজটা",
    "thing": "খেলাটা নাটকটা বাজারটা সিনেমাটা",
    "scorn": "জঘন্য ফালতু ভণ্ডামি হাস্যকর",
    "praise": "সুন্দর চমৎকার পবিত্র দারুণ",
    "contact": "লিংকটায় ইনবক্সটায় নম্বরটায় পেজটায়",
    "place": "স্কুলটায় গ্রামটায় মাঠটায় দোকানটায়",
    "call": "আসুন কিনুন জিতুন ঢুকুন",
    "ask": "কেন কীভাবে কারা কতক্ষণ",
    "not": "না নয়",
    "topic": "বৃষ্টি নৌকা মেলা ক্রিকেট ইলিশ বিকেল",
    "event": "দেখলাম হচ্ছে আসছে লাগছে",
    "adverb": "খুব একেবারে আসলেই সত্যি অনেক আবার",
    "filler": "আর তবে মানে শুনছি দেখি ভাবছি হয়তো কাল সকালে রাতে কথা মানুষ দেশ দিন আলো নদী পাখি জানি বলছি এই তাই কিন্তু "
    "এখানে পথে ঘরে চা ভাত মাছ আকাশ শেষে মনে পাশে",
    "mark": "। ! ? !! ... ,",
    "smile": "\U0001f602 \U0001f61c \U0001f923",
    "frown": "\U0001f621 \U0001f44e \U0001f612",
}
_STEMS = {
    "vile_insult": "বান্দর রামছাগল হনুমান গর্দভ উজবুক",
    "vile_lewd": "ফুলঝুম লালাঝর রসগুল টিপাটিপি",
    "vile_scorn": "ধর্মব্যবসা ভণ্ডপীর কুসংস্কার ধর্মান্ধ",
    "vile_harm": "কবরযাত্রা হাড়ভাঙা জানখতম শেষযাত্রা",
    "vile_call": "ফ্রিটাকা লাখপতি বোনাসকোড লটারি",
}
_ENDINGS = ("", "টা", "রা", "দের", "গুলা", "মার্কা", "ই", "ও", "গিরি", "কে", "টাই")
_ROLES |= {role: " ".join(stem + end for stem in stems.split() for end in _ENDINGS) for role, stems in _STEMS.items()}
_ROLE = {role: number for number, role in enumerate(_ROLES)}
_WORDS = [words.split() or [""] for words in _ROLES.values()]
_ROLE_SIZE: _Ints = np.array([len(words) for words in _WORDS])
_ROLE_START: _Ints = np.cumsum(_ROLE_SIZE) - _ROLE_SIZE

# Group -> for each label, the roles of its clause in order. The first three groups harm (`mild` only when it is wry,
# `blunt` only when it is not), the others never do.
_GROUPS = {
    "blunt": ("you insult", "your lewd", "faith scorn", "at_you harm will", "contact call"),
    "mild": ("you kind", "your own", "faith praise", "at_you gift will", "contact ask"),
    "severe": ("you vile_insult", "your vile_lewd", "thing vile_scorn", "at_you vile_harm", "place vile_call"),
    "blunt_aside": ("other insult", "their lewd", "thing scorn", "at_other harm will", "place call"),
    "mild_aside": ("other kind", "their own", "thing praise", "at_other gift will", "place ask"),
    "blunt_denied": ("you insult not", "your lewd not", "faith scorn not", "at_you harm did", "contact call not"),
    "mild_denied": ("you kind not", "your own not", "faith praise not", "at_you gift did", "contact ask not"),
    "plain": ("topic event",) * _LABELS,
}
_GROUP = {group: number for number, group in enumerate(_GROUPS)}

# Groups of decoys, by (wry, whether they miss by tone, by whom they are about, by denial).
_DECOY_GROUPS = ("mild blunt_aside blunt_denied", "blunt mild_aside mild_denied")
_DECOYS: _Ints = np.array([[_GROUP[group] for group in groups.split()] for groups in _DECOY_GROUPS])

# Letters and vowel signs that writers mix up.
_CONFUSED = dict(zip("িীুূসশনণজযেৈোৌ", "ীিূুশসণনযজৈেৌো", strict=True))


def _misspell(word: str, rng: np.random.Generator) -> str:
    """One misspelling of `word`: a letter dropped, swapped, doubled, drawn out or confused. Short words keep theirs."""
    if len(word) < 3 or not "\u0980" <= word[0] <= "\u09ff":
        return word
    at = int(rng.integers(1, len(word) - 1))
    head, letter, tail = word[:at], word[at], word[at + 1 :]
    edits = [head + tail, head + tail[0] + letter + tail[1:], head + letter * 2 + tail, word + word[-1] * min(at, 3)]
    edits += [word[:i] + _CONFUSED[word[i]] + word[i + 1 :] for i in range(len(word)) if word[i] in _CONFUSED]
    return edits[int(rng.integers(len(edits)))]


def _spellings() -> _Strings:
    """All words of all roles in order: shape (words, 1 + _MISSPELLINGS), the right spelling first."""
    rng = np.random.default_rng(0)
    words = [word for words in _WORDS for word in words]
    return np.array([[word, *(_misspell(word, rng) for _ in range(_MISSPELLINGS))] for word in words], dtype=object)


def _clauses() -> _Ints:
    """Role numbers of every clause: shape (1 + groups * labels, 4); row 0 is silence, slot 1 the optional adverb."""
    clauses = [clause.split() for group in _GROUPS.values() for clause in group]
    slots = [[first, "adverb", second, *(third or ["nothing"])] for first, second, *third in clauses]
    return np.array([[_ROLE[role] for role in clause] for clause in [["nothing"] * 4, *slots]])


_SPELLINGS = _spellings()
_CLAUSES = _clauses()


def _draw_labels(rng: np.random.Generator) -> _Bools:
    """Which labels hold: shape (_BLOCK, labels). The other labels depend on `bully`; their overall rates are _RATES."""
    bully = rng.random((_BLOCK, 1)) < _RATES[0]
    rates_if_not = (_RATES - _RATES[0] * _RATES_IF_BULLY) / (1 - _RATES[0])
    others = rng.random((_BLOCK, _LABELS - 1)) < np.where(bully, _RATES_IF_BULLY, rates_if_not)[:, 1:]
    return np.hstack([bully, others])


def _draw_clauses(labels: _Bools, wry: _Bools, rng: np.random.Generator) -> _Ints:
    """Clause numbers in the order said, 0 for silence: (_BLOCK, labels + _PLAIN) of (_BLOCK, labels), (_BLOCK, 1)."""
    severe = rng.random(labels.shape) < _SEVERE
    harmful = np.where(severe, _GROUP["severe"], np.where(wry, _GROUP["mild"], _GROUP["blunt"]))
    missed = np.searchsorted(_DECOY_SHARES, rng.random(labels.shape), side="right")
    decoys = _DECOYS[wry.astype(np.int64), missed]
    spoken = labels | (rng.random(labels.shape) < _DECOY_RATES)
    about = np.where(spoken, 1 + _LABELS * np.where(labels, harmful, decoys) + np.arange(_LABELS), 0)

    shape = (_BLOCK, _PLAIN)
    aside = rng.choice([_GROUP["blunt_aside"], _GROUP["mild_aside"]], size=shape)
    group = np.where(rng.random(shape) < _ASIDES, aside, _GROUP["plain"])
    wanted = np.floor(rng.lognormal(-0.2, 0.8, size=(_BLOCK, 1)))
    plain = np.where(np.arange(_PLAIN) < wanted, 1 + _LABELS * group + rng.integers(_LABELS, size=shape), 0)
    return rng.permuted(np.hstack([about, plain]), axis=1)


def _compose(clauses: _Ints, wry: _Bools, rng: np.random.Generator) -> _Strings:
    """The comments that say `clauses` (shape (_BLOCK, clauses)) in the tone of `wry` (shape (_BLOCK, 1)): (_BLOCK,)."""
    said = (clauses > 0)[..., None]
    chance = rng.random((*clauses.shape, 3, 1))
    before = _ROLE["filler"] * (said & (chance[..., 0, :] < 0.4))
    after = _ROLE["mark"] * (said & (chance[..., 1, :] < 0.3))
    inner = _CLAUSES[clauses]
    inner[..., 1:2] *= chance[..., 2, :] < 0.12
    body = np.concatenate([before, inner, after], axis=-1).reshape(_BLOCK, -1)
    tone = np.where(wry, _ROLE["wry"], _ROLE["meant"])
    tail = _ROLE["filler"] * (np.arange(_TAIL) < np.floor(rng.lognormal(0.3, 0.9, size=(_BLOCK, 1))))
    face = np.where(wry, _ROLE["smile"], _ROLE["frown"]) * (rng.random((_BLOCK, 1)) < 0.5)

    roles = np.hstack([tone, body, tail, face])
    # The exponent makes the first words of a role the frequent ones.
    words = _ROLE_START[roles] + (_ROLE_SIZE[roles] * rng.random(roles.shape) ** 1.5).astype(np.int64)
    misspelling = rng.integers(1, 1 + _MISSPELLINGS, size=roles.shape)
    spelling = np.where(rng.random(roles.shape) < _MISSPELT, misspelling, 0)
    comments = [" ".join(filter(None, comment)) for comment in _SPELLINGS[words, spelling].tolist()]
    return np.array(comments, dtype=object)


def _generate_block(seed: int, block: int) -> pd.DataFrame:
    """Rows `block * _BLOCK` to `(block + 1) * _BLOCK` of the sample."""
    rng = np.random.default_rng([seed, block])
    labels = _draw_labels(rng)
    wry = rng.random((_BLOCK, 1)) < _WRY
    comments = _compose(_draw_clauses(labels, wry, rng), wry, rng)
    source = np.where(rng.random(_BLOCK) < _COPIED, rng.integers(_BLOCK, size=_BLOCK), np.arange(_BLOCK))
    labels = labels[source]
    # Noise moves as many comments into a label as out of it, and may tear a copy from its original's labels.
    labels ^= rng.random(labels.shape) < np.where(labels, _LABEL_NOISE, _LABEL_NOISE * _RATES / (1 - _RATES))
    frame = pd.DataFrame(labels.astype(np.int8), columns=list(SAMPLE_LABELS))
    frame.insert(0, "comment", comments[source])
    return frame


def _check_at_least(least: int, **settings: int) -> None:
    for name, value in settings.items():
        if value < least:
            raise ValueError(f"{name}={value}: must be {least} or more")


def generate_comments(rows: int, seed: int, start: int = 0) -> pd.DataFrame:
    """Rows `start` to `start + rows` of the endless sample of `seed`.

    A row depends on `seed` and its own number only, so a sample can be generated in chunks of any size.

    Returns:
        A frame of `rows` rows, indexed from 0, with the column `comment` (text, never empty) and one column for each of
        `SAMPLE_LABELS` (int8, 0 or 1).

    Raises:
        ValueError: `rows`, `seed` or `start` is negative.
    """
    _check_at_least(0, rows=rows, seed=seed, start=start)
    first = start // _BLOCK
    last = max(first, (start + rows - 1) // _BLOCK)
    blocks = pd.concat([_generate_block(seed, block) for block in range(first, last + 1)], ignore_index=True)
    skipped = start - first * _BLOCK
    return blocks.iloc[skipped : skipped + rows].reset_index(drop=True)


def write_sample(path: Path, rows: int, seed: int, block_rows: int = 50_000) -> None:
    """Write `generate_comments(rows, seed)` to the Parquet file `path`, `block_rows` rows in memory at a time.

    The schema's metadata holds `NOTICE` under the key `notice`. An old file at `path` is replaced by a whole new one.

    Raises:
        ValueError: `rows` or `seed` is negative, or `block_rows` is not positive.
        OSError: the folder of `path` is missing or cannot be written to.
    """
    _check_at_least(0, rows=rows, seed=seed)
    _check_at_least(1, block_rows=block_rows)
    fields = [("comment", pa.string()), *((label, pa.int8()) for label in SAMPLE_LABELS)]
    schema = pa.schema(fields, metadata={"notice": NOTICE})
    partial = path.with_name(path.name + ".partial")
    with pq.ParquetWriter(partial, schema) as writer:
        for start in range(0, rows, block_rows):
            frame = generate_comments(min(block_rows, rows - start), seed, start)
            writer.write_table(pa.Table.from_pandas(frame, schema=schema, preserve_index=False))
    partial.replace(path)
