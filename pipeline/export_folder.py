"""Write the folder of a chosen model: what answers, what explains it, and their sums; checked before it stays."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import exported, ngram_bag
from pipeline.artifact import Artifact
from pipeline.bases import bases_of, shown, teacher_model
from pipeline.cache import Store
from pipeline.card_text import teacher_text
from pipeline.choice import Choice
from pipeline.data import load_data
from pipeline.deployed import SUMS, Decisions, altered_files, listed_files, write_sums
from pipeline.errors import InputError
from pipeline.export_check import Comparison, ExportedDiffers, answers_of_study, compare
from pipeline.huggingface_form import write_huggingface
from pipeline.model_card import Answered, Card, model_card
from pipeline.model_rows import SHOWN_KEY, number
from pipeline.ngram_bag import HASHING
from pipeline.object_store import is_url
from pipeline.runtime import DEPLOY, TOKENIZER, Deployment, load_deployment
from pipeline.storage import open_store
from pipeline.study_results import STORED_AS, StudyResults

SOURCES = Path(exported.__path__[0])
RUNNERS = {
    "onnxruntime": SOURCES / "onnx_encoder.py",
    "ngram": Path(str(ngram_bag.__file__)),
    "scikit-learn": SOURCES / "tfidf_floor.py",
}
"""The source that runs a model, by its runtime; `predict.py` stands beside it."""
REQUIREMENTS = {
    "onnxruntime": ("onnxruntime>=1.22", "tokenizers>=0.21"),
    "ngram": ("numpy>=2",),
    "scikit-learn": ("scikit-learn>=1.6",),
}
"""What `predict.py` needs, by runtime; each brings NumPy."""
CHECKED_COMMENTS = 8
"""Comments that the Hugging Face form must answer as the model does."""


@dataclass(frozen=True)
class Exported:
    """A folder that was written and has answered as the study did."""

    folder: Path
    files: tuple[str, ...]
    size_bytes: int
    comparison: Comparison | None
    """With the study's answers; None of a folder that was there already."""


def export_model(
    results: StudyResults,
    choice: Choice,
    target: Path,
    *,
    store_root: Path | str,
    overwrite: bool = False,
    compared: int | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Exported:
    """Write the chosen model to `target`, which is there afterwards only if it answers as the study's model does.

    Args:
        results: of the study.
        choice: the model, and why it was taken.
        target: new or empty.
        store_root: where the artifacts lie.
        overwrite: whether an exported model that is there is replaced.
        compared: the first so many test comments are answered again; None for all.
        say: told what takes long.

    Raises:
        InputError: the target is taken, or an artifact is not in the store.
        ExportedDiffers: what was written answers otherwise.
        OSError: it cannot be written.
    """
    check_target(target, overwrite)
    store = _store(store_root, results)
    model = _find(store, STORED_AS[choice.row["stage"]], choice.row["model_key"], results)
    data = _find(store, "data", model.manifest["data"], results)
    comments = load_data(data.path)
    decisions = decisions_of(choice.row, load_deployment(model.path), results)
    with _in_place_at_the_end(target) as folder:
        _write_model(folder, model, decisions)
        texts = list(comments.test.texts)
        no_huggingface = write_huggingface(model.path, folder / "huggingface", texts[:CHECKED_COMMENTS])
        expected = answers_of_study(store, data, comments, model)
        cut = {split: (answer >= decisions.thresholds).astype("int8") for split, answer in expected.items()}
        answered = {split: Answered(comments.splits[split].labels, cut[split]) for split in cut}
        card = _card(results, choice, decisions, answered, data, model, no_huggingface)
        (folder / "README.md").write_text(model_card(card), encoding="utf-8")
        write_sums(folder)
        again = texts[:compared]
        say(f"comparing {len(again):,} test comments with the study's answers")
        comparison = compare(folder, again, expected["test"][: len(again)])
        if not comparison.equal:
            raise ExportedDiffers(f"the written model does not answer as the study's does: {comparison}")
    return _exported(target, comparison)


def already_exported(target: Path) -> Exported | None:
    """What an earlier export wrote there, if it did and every file is as it was."""
    return _exported(target, None) if (target / SUMS).is_file() and not altered_files(target) else None


def check_target(target: Path, overwrite: bool) -> None:
    """Refuse a place that holds something else; only an exported model is ever replaced.

    Raises:
        InputError: what stands there, and the remedy.
    """
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise InputError([f"--to {target}: is no folder; name another place"])
    if not target.is_dir() or not any(target.iterdir()):
        return
    is_exported = all((target / name).is_file() for name in (SUMS, DEPLOY))
    if not is_exported:
        raise InputError([f"--to {target}: holds files that are no exported model; name a new folder"])
    if not overwrite:
        raise InputError([f"--to {target}: holds an exported model; name a new folder, or replace it with --overwrite"])


def decisions_of(row: Mapping[str, Any], deployment: Deployment, results: StudyResults) -> Decisions:
    """Labels, thresholds and critical label of a measured model.

    Raises:
        InputError: the row lacks a threshold, or the study's critical label is none of the model's.
    """
    thresholds = [number(row, f"thresholds.{label}") for label in deployment.labels]
    known = tuple(value for value in thresholds if value is not None)
    if len(known) < len(thresholds):
        lacking = [label for label, value in zip(deployment.labels, thresholds, strict=True) if value is None]
        raise InputError([f"{results.folder}: no threshold of {', '.join(lacking)}; run the study again"])
    if results.critical_label not in deployment.labels:
        named = f"safety.critical_label={results.critical_label!r}"
        raise InputError([f"{results.folder}: {named} is no label of the model (has: {', '.join(deployment.labels)})"])
    return Decisions(deployment.labels, known, results.critical_label)


def _exported(target: Path, comparison: Comparison | None) -> Exported:
    names = tuple(sorted([SUMS, *listed_files(target)]))
    return Exported(target, names, sum((target / name).stat().st_size for name in names), comparison)


def _store(place: Path | str, results: StudyResults) -> Store:
    if not is_url(str(place)) and not Path(place).is_dir():
        raise InputError([f"{place}: the store of the study is gone; {_remedy(results)}"])
    return open_store(place)


def _find(store: Store, stage: str, key: str, results: StudyResults) -> Artifact:
    found = store.find(stage, key)
    if found is None:
        raise InputError(
            [f"{store.root}: {stage} {key[:SHOWN_KEY]} is not in the store, or damaged; {_remedy(results)}"]
        )
    return found


def _remedy(results: StudyResults) -> str:
    again = f"python search/pareto.py {results.folder / 'study.yaml'}"
    return f"copy it back, name its place with --store, or build the models again: {again}"


@contextmanager
def _in_place_at_the_end(target: Path) -> Iterator[Path]:
    """A new folder beside the target, which takes its name when all went well, and else is removed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    unique = uuid.uuid4().hex[:12]
    folder, replaced = (target.with_name(f".{target.name}.{unique}.{end}") for end in ("new", "old"))
    folder.mkdir()
    try:
        yield folder
        if target.is_dir():
            target.rename(replaced)
        folder.rename(target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if not target.exists() and replaced.exists():
            replaced.rename(target)
        shutil.rmtree(replaced, ignore_errors=True)


def _write_model(folder: Path, model: Artifact, decisions: Decisions) -> None:
    """Weights, what is needed to run them, and the program that does."""
    deployment = load_deployment(model.path)
    beside = [name for name in (TOKENIZER, HASHING) if (model.path / name).is_file()]
    for name in (DEPLOY, *deployment.weight_files, *beside):
        shutil.copyfile(model.path / name, folder / name)
    decisions.save(folder)
    for source in (SOURCES / "predict.py", RUNNERS[deployment.runtime]):
        shutil.copyfile(source, folder / source.name)
    requirements = "".join(f"{line}\n" for line in REQUIREMENTS[deployment.runtime])
    (folder / "requirements.txt").write_text(requirements, encoding="utf-8")


def _card(
    results: StudyResults,
    choice: Choice,
    decisions: Decisions,
    answered: Mapping[str, Answered],
    data: Artifact,
    model: Artifact,
    no_huggingface: str | None,
) -> Card:
    deployment = load_deployment(model.path)
    head = model.path / "classifier.json"
    safety = results.settings.get("safety") or {}
    return Card(
        study=str(results.facts.get("study", results.folder.resolve().name)),
        row=choice.row,
        why=choice.reason,
        decisions=decisions,
        deployment=deployment,
        answered=answered,
        limits=results.limits,
        confidence=float(safety.get("confidence", 0.95)),
        data=results.facts.get("data") or data.notes,  # the store may have the same comments from another file
        fingerprint=data.key,
        bases=bases_of(results, choice.row),
        teacher=teacher_text(shown(teacher_model(results)), results.settings.get("teacher") or {}),
        environment=results.facts.get("environment") or {},
        requirements=REQUIREMENTS[deployment.runtime],
        sources=("predict.py", RUNNERS[deployment.runtime].name),
        no_huggingface=no_huggingface,
        pooling=json.loads(head.read_text(encoding="utf-8"))["pooling"] if head.is_file() else None,
    )
