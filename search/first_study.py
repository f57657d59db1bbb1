"""The first study of a user's comments: settings for a first result within some half an hour on a laptop, and why.

Each key stands with its meaning from the schema, so that the written file says what the schema says.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from pipeline.config import DataConfig, DistilConfig, PruneConfig, QuantizeConfig, TeacherConfig
from pipeline.reading import counted
from search.comment_file import CommentFile
from search.config import StudyConfig
from search.model_folder import LAYERS, encoder_fact, model_folder
from search.sections import SafetyConfig, SearchConfig
from search.wording import shown

SCRATCH = "scratch"
MAX_SECONDS = 1200
MOST_ROWS = {True: 50_000, False: 20_000}
"""Rows of a first study: with a scratch teacher, with a pretrained one."""
CHARACTERS_PER_TOKEN = 3
"""Of Bangla and English comments 3 to 4, whether the vocabulary is a pretrained encoder's or a new one."""
DECIDING_POSITIVES = 100
"""Critical positives in validation with which `safe` becomes possible at the default limits (`evaluation.safety`)."""


@dataclass(frozen=True)
class Entry:
    """One key of the file."""

    key: str
    value: Any
    """As plain YAML types."""
    meaning: str
    found: str
    """What was found in the comments, or why this value."""


class Section:
    """Entries whose meaning is the field's in the schema."""

    def __init__(self, schema: type[BaseModel]) -> None:
        self._fields = schema.model_fields
        self.entries: list[Entry] = []

    def add(self, key: str, value: Any, found: str = "") -> None:
        """One more key; KeyError if the schema does not have it."""
        meaning = " ".join((self._fields[key].description or "").split())
        self.entries.append(Entry(key, value, meaning, found))


def study_sections(found: CommentFile, teacher: str) -> dict[str, list[Entry]]:
    """The entries of each section, in the order of the file; the first section is the top level.

    Args:
        found: the comments.
        teacher: folder or hub id of a pretrained encoder, or `scratch`.
    """
    scratch = teacher == SCRATCH
    layers = _student_layers(teacher)
    top = Section(StudyConfig)
    name = _study_name(found.path)
    top.add("study", name, f"results go to results/{name}")
    top.add("seed", 0)
    return {
        "": top.entries,
        "data": _data(found, scratch),
        "teacher": _teacher(found, teacher),
        "distil": _distil(layers, scratch),
        "prune": _prune(scratch),
        "quantize": _quantize(),
        "search": _search(layers),
        "safety": _safety(found),
    }


def _data(found: CommentFile, scratch: bool) -> list[Entry]:
    data, report = Section(DataConfig), found.duplicates
    repeated = f"{report.duplicate_rows:,} repeated, {report.conflicting_texts:,} with conflicting labels"
    data.add("path", found.path, f"found: {counted(report.rows, 'row')}, {report.texts:,} different ({repeated})")
    others = f"; other columns with words: {', '.join(map(shown, found.other_texts))}" if found.other_texts else ""
    data.add("text_column", found.text_column, f"found: 99 in 100 have at most {found.characters:,} characters{others}")
    shares = ", ".join(f"{shown(label)} {found.share(label):.1%}" for label in found.labels)
    left_out = "".join(f"; {shown(column)} is no label: it {why}" for column, why in found.left_out.items())
    data.add("label_columns", found.labels, f"found, with the share of comments that have it: {shares}{left_out}")
    data.add("separator", found.separator)
    if report.rows > (most := MOST_ROWS[scratch]):
        data.add("max_rows", most, "for a first result soon; null (or this line left out) for all of them")
    return data.entries


def _teacher(found: CommentFile, model: str) -> list[Entry]:
    teacher, scratch = Section(TeacherConfig), model == SCRATCH
    better = "a pretrained encoder for your language mostly learns more: init --teacher FOLDER writes settings for it"
    teacher.add(
        "model",
        model,
        better
        if scratch
        else "for a first result soon take a small one: on a processor, training time grows with its size",
    )
    teacher.add("epochs", 6 if scratch else 4)
    teacher.add("learning_rate", 1e-3 if scratch else 1e-4)
    tokens = min(max(-(-found.characters // CHARACTERS_PER_TOKEN // 16) * 16, 32), 256)
    length = f"{found.characters:,} characters at some {CHARACTERS_PER_TOKEN} a token, at most 256"
    teacher.add("max_tokens", tokens, f"enough for 99 in 100 comments: {length}")
    teacher.add(
        "ensemble", ["classical"], "costs next to nothing, the floor is trained anyway; [] for the teacher alone"
    )
    return teacher.entries


def _distil(layers: list[int], scratch: bool) -> list[Entry]:
    distil = Section(DistilConfig)
    distil.add("method", {"choices": ["none", "logit"]})
    distil.add("student", {"choices": ["layers", "ngram"]}, "an n-gram bag is trained in seconds and is the fastest")
    distil.add("layers", {"choices": layers})
    distil.add("alpha", {"choices": [0.5, 0.9]})
    distil.add("temperature", {"choices": [1, 2]})
    distil.add("epochs", 6 if scratch else 4)
    distil.add("learning_rate", 1e-3 if scratch else 2e-4)
    distil.add("buckets", {"choices": [65_536, 131_072]}, "half of them, half of the model's size")
    distil.add("ngram_epochs", 20)
    return distil.entries


def _prune(scratch: bool) -> list[Entry]:
    prune = Section(PruneConfig)
    prune.add("method", {"choices": ["none", "structured"]})
    prune.add("ratio", {"choices": [0.2, 0.4]})
    prune.add("epochs", 2)
    prune.add("learning_rate", 5e-4 if scratch else 1e-4)
    return prune.entries


def _quantize() -> list[Entry]:
    quantize = Section(QuantizeConfig)
    quantize.add("method", {"choices": ["none", "fp16", "int8_dynamic"]}, "int8_dynamic is the smallest and fastest")
    return quantize.entries


def _search(layers: list[int]) -> list[Entry]:
    search = Section(SearchConfig)
    search.add("trials", 10, "ten show the shape of the front; raise it and run with --resume to go on")
    search.add(
        "max_seconds",
        MAX_SECONDS,
        "20 minutes, counted from when teacher and floor are trained; what runs then is finished",
    )
    ngram = {"distil.student": "ngram", "distil.buckets": 65_536}
    points = [
        {"distil.method": "none", "prune.method": "none", "quantize.method": "int8_dynamic"},
        {"distil.method": "logit", **ngram, "quantize.method": "int8_dynamic"},
        {"distil.method": "logit", "distil.student": "layers", "distil.layers": layers[-1], "prune.method": "none"},
    ]
    search.add("points", points, "the teacher itself in int8, the smallest n-gram bag, the deepest student")
    return search.entries


def _safety(found: CommentFile) -> list[Entry]:
    safety, critical = Section(SafetyConfig), found.critical_label
    safety.add(
        "critical_label", critical, f"chosen {found.critical_reason}: check that this is the one. {evidence(found)}"
    )
    for key in ("max_f1_drop", "max_critical_f1_drop", "max_critical_recall_drop"):
        safety.add(key, SafetyConfig.model_fields[key].default)
    return safety.entries


def evidence(found: CommentFile) -> str:
    """Whether validation has comments with the critical label enough for a model ever to be `safe`."""
    fraction = DataConfig().validation_fraction
    positives = round(found.positives[found.critical_label] * fraction)
    have = f"Validation (data.validation_fraction {fraction:g}) will hold about {positives:,} comments with it"
    if positives >= DECIDING_POSITIVES:
        return f"{have}; about {DECIDING_POSITIVES} are the fewest that can show a model to be safe."
    return (
        f"{have}, too few: about {DECIDING_POSITIVES} are the fewest that can show a model to be safe at these limits. "
        "Label more of them, or allow larger drops; with fewer, verdicts are `inconclusive`."
    )


def _student_layers(teacher: str) -> list[int]:
    """Depths of students: a half and a quarter of a scratch teacher, up to 4 layers of a pretrained one."""
    folder = None if teacher == SCRATCH else model_folder(teacher)
    whole = encoder_fact(folder, LAYERS) if folder and folder.is_dir() else None
    if whole is None:
        return [1, 2]
    return sorted({min(2, whole), min(4, whole)})


def _study_name(path: str) -> str:
    """A name that a study may have, from the file's."""
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", Path(path).stem).strip("_-")[:80]
    return name or "study"
