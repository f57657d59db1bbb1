"""Before Ray starts: the study and its data checked together, and the results folder claimed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from cluster.session import passing_folder
from cluster.tracking import OFF
from pipeline.data import Data, prepare
from pipeline.errors import InputError
from pipeline.remote import Remote, RemoteError
from pipeline.whole_file import replaced
from search.compatibility import compatibility_problems
from search.config import Choices, StudyConfig
from search.model_folder import check_paths, resolve
from search.results_mirror import fetch_results
from search.shared_models import with_student_digests
from search.space import point_problems
from search.study_file import differences, load_study, to_yaml
from search.warm_start import Settings, earlier_fronts, warm_started
from search.wording import problem

STUDY_FILE = "study.yaml"
STORE_ANSWERS_SECONDS = 30.0
"""How long a store that does not answer is waited for before the study starts; later it is waited for much longer."""


def checked(
    study: Path | None, overrides: Sequence[str], resume: bool, say: Callable[[str], None] = lambda line: None
) -> tuple[StudyConfig, Data]:
    """The resolved study and its data; nothing is written.

    A study to resume whose storage is an object store is as `taken_up` leaves it only after that: what is to be fetched
    may change until no other run has its name.

    Args:
        study: its file; None for the embedded one.
        overrides: `KEY=VALUE`.
        resume: whether it goes on with the study in its results folder.
        say: told what became of a warm start, a line for each earlier study.

    Raises:
        InputError: with every problem of the study file, the paths, the data and the folder to resume.
    """
    config = load_study(study, overrides)
    path_problems = check_paths(config)
    if config.storage_is_remote and not path_problems:
        path_problems += storage_problems(config)
    to_fetch = resume and config.storage_is_remote
    begun = resume and (config.folder / STUDY_FILE).is_file()
    fronts, unread = ({}, []) if to_fetch or begun else earlier_fronts(config)
    problems = path_problems + compatibility_problems(config) + point_problems(config) + unread
    problems += passing_problems(config, passing_folder()) + ([] if to_fetch else foreign_folder(config))
    data = None
    try:
        data = prepare(config.data, config.teacher.folds)
    except InputError as error:
        problems += error.problems
    if not problems:
        config = resolve(config)
        if not to_fetch:
            config = _going_on(config) if begun else _told_warm_start(config, fronts, say)
    if problems or data is None:
        raise InputError(problems)
    return config, data


def taken_up(config: StudyConfig, say: Callable[[str], None] = lambda line: None) -> StudyConfig:
    """A study to resume as it is to go on, fetched from its storage where that is an object store.

    To be called when no other run has its name: what one writes as it ends belongs to what is gone on with.

    Args:
        config: from `checked`.
        say: told what became of a warm start, if the study has not begun.

    Raises:
        InputError: with every problem of the folder to resume.
        RemoteUnreachable: the storage does not answer.
    """
    if config.storage_is_remote:
        fetch_results(config)
    if (config.folder / STUDY_FILE).is_file():
        return _going_on(config)
    fronts, unread = earlier_fronts(config)
    if unread:
        raise InputError(unread)
    return _told_warm_start(config, fronts, say)


def foreign_folder(config: StudyConfig) -> list[str]:
    """Whether the results folder is another program's, as MLflow's may be: it has files, and no study."""
    held = config.folder.is_dir() and any(not file.name.startswith(".") for file in config.folder.iterdir())
    if not held or (config.folder / STUDY_FILE).is_file():
        return []
    what = f"{config.folder} is there already and holds no study; take another name, or another results_dir"
    return [problem("study", config.study, what)]


def storage_problems(config: StudyConfig) -> list[str]:
    """Whether the object store can be listed, read and written, seen by doing so."""
    try:
        Remote(config.store_place, patience_seconds=STORE_ANSWERS_SECONDS).check()
    except RemoteError as error:
        return [str(error)]
    return []


def passing_problems(config: StudyConfig, folder: Path | None) -> list[str]:
    """Places of the study that would vanish with `folder`, the one that was uploaded for a job, a line each.

    An object store keeps the results too.
    """
    if folder is None or config.storage_is_remote:
        return []
    told = (
        "lies in the folder of this job, which vanishes with it; keep the results with --set storage=s3://BUCKET/PREFIX"
    )
    places = {"results_dir": config.results_dir, "storage": config.storage}
    return [
        problem(key, value, f"{told}, or --set {key}=/FOLDER/THAT/STAYS")
        for key, value in places.items()
        if value is not None and Path(value).resolve().is_relative_to(folder.resolve())
    ]


def in_passing_folder(config: StudyConfig, folder: Path | None) -> StudyConfig:
    """The study for a job whose uploaded `folder` vanishes: not logged to a file in there, which nobody would see."""
    lost = Path(config.results_dir).resolve().is_relative_to(folder.resolve()) if folder else False
    if not lost or config.tracking.uri is not None:
        return config
    return config.model_copy(update={"tracking": config.tracking.model_copy(update={"uri": OFF})})


def _told_warm_start(
    config: StudyConfig, fronts: Mapping[str, Sequence[Settings]], say: Callable[[str], None]
) -> StudyConfig:
    config, told = warm_started(config, fronts)
    for line in told:
        say(line)
    return config


def _going_on(config: StudyConfig) -> StudyConfig:
    """The study that has begun in the results folder; raises InputError if it cannot go on with this config."""
    config = _warm_start_kept(config)
    if problems := resume_problems(config):
        raise InputError(problems)
    return config


def _warm_start_kept(config: StudyConfig) -> StudyConfig:
    """A study that goes on with its warm start as it was: the earlier study may have grown since, or be gone."""
    if not config.search.warm_start:
        return config
    with suppress(InputError):  # told by `resume_problems`
        points = load_study(config.folder / STUDY_FILE).search.points
        search = config.search.model_copy(update={"points": points, "warm_start": ()})
        return config.model_copy(update={"search": search})
    return config


def resume_problems(config: StudyConfig) -> list[str]:
    """What keeps the study in the results folder from going on with this config."""
    file = config.folder / STUDY_FILE
    if not file.is_file():
        return []
    try:
        changed = differences(load_study(file), config)
    except InputError as error:
        return [f"{file}: cannot be resumed: {problem}" for problem in error.problems]
    remedy = "set it back, or start anew without --resume"
    return [f"--resume of {config.folder}: {line}; {remedy}" for line in changed]


def claim_folder(config: StudyConfig, resume: bool) -> Path | None:
    """Make the results folder and write `study.yaml` there, at once or not at all: a study is resumed by it.

    An earlier study of the same name that is not resumed is moved aside, never overwritten.

    Returns:
        Where the earlier study went, if there was one.
    """
    moved = None
    file, text = config.folder / STUDY_FILE, to_yaml(config)
    if not resume and file.is_file():
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")
        moved = config.folder.with_name(f"{config.study}.{stamp}")
        config.folder.rename(moved)
    config.folder.mkdir(parents=True, exist_ok=True)
    if not file.is_file() or file.read_text(encoding="utf-8") != text:
        with replaced(file) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return moved


def with_absolute_paths(config: StudyConfig) -> StudyConfig:
    """The study as workers, which have another working directory, can use it."""

    def absolute(model: str) -> str:
        return str(Path(model).resolve()) if model and Path(model).is_dir() else model

    teacher = config.teacher.model_copy(update={"model": absolute(config.teacher.model)})
    student = config.distil["model"]
    if isinstance(student, Choices):
        student = Choices(choices=tuple(absolute(str(model)) for model in student.choices))
    else:
        student = absolute(str(student))
    storage = config.store_place if config.storage_is_remote else str(config.store_root.resolve())
    places = {"results_dir": str(Path(config.results_dir).resolve()), "storage": storage}
    usable = config.model_copy(update={"teacher": teacher, "distil": {**config.distil, "model": student}, **places})
    return with_student_digests(usable) if config.storage_is_remote else usable


def data_summary(data: Data) -> str:
    """One paragraph on the data: how much there is, what was dropped, how it was split, and whether it is synthetic."""
    report = data.report
    sizes = ", ".join(f"{name} {part['texts']:,}" for name, part in report["splits"].items())
    conflicts = f"{report['conflicting_texts']:,} texts with conflicting labels"
    dropped = f"{report['duplicate_rows']:,} duplicate rows dropped, {conflicts}"
    notice = f" {report['notice']}" if report["notice"] else ""
    return f"{report['rows_used']:,} different comments of {report['source']} ({sizes}; {dropped}).{notice}"
