"""The study file: read, checked as a whole, resolved, written again.

Every problem of a file and its overrides is a line of the form `key=value: what is allowed (what it means)`; they are
collected and raised once, as one `InputError`.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import os
import re
import shlex
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

import yaml
from pydantic import Field, TypeAdapter, ValidationError, model_validator
from pydantic.fields import FieldInfo

from pipeline.config import (
    ClassicalConfig,
    Config,
    DataConfig,
    DistilConfig,
    PruneConfig,
    QuantizeConfig,
    StageConfig,
    TeacherConfig,
)
from pipeline.errors import InputError

STAGES: Mapping[str, type[StageConfig]] = {"distil": DistilConfig, "prune": PruneConfig, "quantize": QuantizeConfig}
"""The stages whose settings may be searched, in the order of the chain."""

EMBEDDED_STUDY = Path(__file__).parent / "studies" / "embedded.yaml"
"""The study that runs when none is named."""

_PRESET_WORDS = {"distil": "kd", "prune": "prune", "quantize": "quant"}
_SEEDED = ("data", "teacher", "classical", "distil", "prune")
_SEARCH_KEYS = {"choices", "low", "high", "step", "log"}

Weight = Annotated[float, Field(ge=0.0, strict=True, allow_inf_nan=False)]


class Choices(Config):
    """A setting that is searched among listed values."""

    choices: tuple[bool | int | float | str, ...] = Field(min_length=1)
    """The values, all different."""


class Range(Config):
    """A number that is searched between two bounds, both included."""

    low: int | float
    """Smallest value."""
    high: int | float
    """Largest value."""
    step: int | float | None = None
    """Distance of neighbouring values; null for a continuous range, or for 1 with whole numbers."""
    log: bool = False
    """Whether the search is even on a logarithmic scale."""


Setting = bool | int | float | str | None | Choices | Range
"""What a study says of one setting of a stage: a fixed value, or where to search it."""


class SearchConfig(Config):
    """How the space is searched."""

    trials: int = Field(16, ge=1)
    """Trials of the study, those of an earlier run that is resumed included."""
    sampler: Literal["tpe", "nsgaii", "gp", "random"] = "tpe"
    """Optuna sampler that suggests the settings."""
    objectives: tuple[Literal["f1_macro", "model_size_mb", "latency_ratio", "tradeoff_score"], ...] = Field(
        ("f1_macro", "model_size_mb", "latency_ratio"), min_length=1
    )
    """What is optimised: any of f1_macro, model_size_mb, latency_ratio; or tradeoff_score alone."""
    stop_margin: float = Field(0.05, ge=0.0, le=1.0)
    """How far beyond a safety limit a student's drop may be before its trial stops ahead of pruning."""

    @model_validator(mode="after")
    def _objectives_fit(self) -> Self:
        shown = ", ".join(self.objectives)
        if len(set(self.objectives)) < len(self.objectives):
            raise ValueError(f"objectives=[{shown}]: must be different ones; leave the repeated one out")
        if "tradeoff_score" in self.objectives and len(self.objectives) > 1:
            raise ValueError(f"objectives=[{shown}]: tradeoff_score must stand alone; leave it or the others out")
        return self


class SafetyConfig(Config):
    """Limits on what a compressed model may lose against the teacher."""

    critical_label: str | None = None
    """Label whose misses matter most; null takes `threat`, or the only label there is."""
    max_f1_drop: float = Field(0.05, ge=0.0, le=1.0)
    """Largest drop of macro F1, absolute."""
    max_critical_f1_drop: float = Field(0.03, ge=0.0, le=1.0)
    """Largest drop of the critical label's F1, absolute."""
    max_critical_recall_drop: float = Field(0.03, ge=0.0, le=1.0)
    """Largest drop of the critical label's recall, absolute."""
    confidence: float = Field(0.95, gt=0.5, lt=1.0)
    """Level of the one-sided upper bound of each drop."""
    rounds: int = Field(10_000, ge=100, le=1_000_000)
    """Rounds of the paired bootstrap."""


class MeasureConfig(Config):
    """How long latency is measured."""

    seconds: float = Field(1.0, gt=0.0, le=3600.0)
    """Shortest measurement of one model, in seconds."""
    requests: int = Field(100, ge=1)
    """Fewest timed requests of one model."""
    threads: int = Field(1, ge=1, le=1024)
    """Threads of the measured runtime."""


class ResourcesConfig(Config):
    """What a trial gets of the machine; never changes a result, timings apart."""

    cpus_per_trial: float = Field(1.0, gt=0.0)
    """Processor cores of one trial."""
    gpus_per_trial: float = Field(0.0, ge=0.0)
    """GPUs of one trial, fractions allowed."""
    max_concurrent: int | None = Field(None, ge=1)
    """Most trials at a time; null for as many as the resources hold."""


Preset = Literal[
    "baseline",
    "baseline_kd",
    "baseline_prune",
    "baseline_quant",
    "baseline_kd_prune",
    "baseline_kd_quant",
    "baseline_prune_quant",
    "baseline_kd_prune_quant",
]


class StudyConfig(Config):
    """A whole study; made by `load_study` or `study_from`, which check it and fill in what follows from other keys."""

    study: str = Field("study", max_length=80, pattern=r"^[A-Za-z0-9](\.?[A-Za-z0-9_-])*\.?$")
    """Name of the study and its folder: up to 80 letters, digits, `.`, `_`, `-`, a letter or digit first, no `..`."""
    seed: int = Field(0, ge=0, le=2**32 - 1)
    """Seed of the sampler, and of every section that names none of its own."""
    preset: Preset = "baseline_kd_prune_quant"
    """The stages of the chain; one that is not named has its method fixed to none."""
    data: DataConfig = DataConfig()
    """Where the comments are, what is predicted, and how they are split."""
    teacher: TeacherConfig = TeacherConfig()
    """The model to be compressed."""
    classical: ClassicalConfig = ClassicalConfig()
    """The floor that every study is compared with."""
    distil: dict[str, Setting] = Field(default_factory=lambda: dict(_defaults(DistilConfig)))
    """The student: every setting of `DistilConfig`, fixed or searched."""
    prune: dict[str, Setting] = Field(default_factory=lambda: dict(_defaults(PruneConfig)))
    """Pruning: every setting of `PruneConfig`, fixed or searched."""
    quantize: dict[str, Setting] = Field(default_factory=lambda: dict(_defaults(QuantizeConfig)))
    """Quantization: every setting of `QuantizeConfig`, fixed or searched."""
    search: SearchConfig = SearchConfig()
    """How the space is searched."""
    safety: SafetyConfig = SafetyConfig()
    """Limits on what a compressed model may lose against the teacher."""
    priorities: dict[str, Weight] = Field(default_factory=dict)
    """Weight of each label in priority_weighted_f1, 0 or more; a label left out weighs 1."""
    tradeoff_weights: tuple[Weight, Weight, Weight] = (0.5, 0.3, 0.2)
    """Weights of retention, compression and speed-up in tradeoff_score, 0 or more."""
    measure: MeasureConfig = MeasureConfig()
    """How long latency is measured."""
    resources: ResourcesConfig = ResourcesConfig()
    """What a trial gets of the machine."""
    results_dir: str = Field("results", min_length=1)
    """Folder with one folder a study."""
    storage: str | None = Field(None, min_length=1)
    """Folder of the artifact store, shared by studies; null for `.store` in results_dir."""

    @property
    def folder(self) -> Path:
        """Folder with everything the study writes, the store apart."""
        return Path(self.results_dir) / self.study

    @property
    def store_root(self) -> Path:
        """Folder of the artifact store."""
        return Path(self.results_dir) / ".store" if self.storage is None else Path(self.storage)

    @property
    def critical_label(self) -> str:
        """The label whose misses matter most."""
        return _critical_label(self.safety.critical_label, self.data.label_columns)

    def settings(self, stage: str) -> dict[str, Setting]:
        """Every setting of `distil`, `prune` or `quantize`, by name."""
        settings: dict[str, Setting] = getattr(self, stage)
        return settings


def load_study(path: Path | None, overrides: Sequence[str] = ()) -> StudyConfig:
    """The study of a YAML file (None: the embedded one) with `KEY=VALUE` overrides; one InputError has all problems."""
    path = EMBEDDED_STUDY if path is None else path
    problems: list[str] = []
    raw = _read(path, problems)
    unreadable = bool(problems)
    for override in overrides:
        _override(raw, override, problems)
    if unreadable:  # what it would have set is unknown: no further complaints
        raise InputError(problems)
    return _study({"study": path.stem, **raw}, problems)


def study_from(raw: Mapping[str, Any]) -> StudyConfig:
    """The study of a plain mapping, as YAML gives it; raises one InputError that lists every problem."""
    return _study(raw, [])


def _study(raw: Mapping[str, Any], problems: list[str]) -> StudyConfig:
    """The study, unless there are problems, those found before included; fills in seeds, preset and critical label."""
    values = _section(StudyConfig, dict(raw), "", problems)
    _check_across(values, problems)
    if problems:
        raise InputError(problems)
    preset = values.get("preset", StudyConfig.model_fields["preset"].default)
    for name in _SEEDED:
        values.setdefault(name, {}).setdefault("seed", values.get("seed", 0))
    for stage, model in STAGES.items():
        values[stage] = _defaults(model) | values.get(stage, {})
        if _PRESET_WORDS[stage] not in preset.split("_"):
            values[stage]["method"] = "none"
    labels = DataConfig(**values["data"]).label_columns
    safety = values.setdefault("safety", {})
    safety["critical_label"] = _critical_label(safety.get("critical_label"), labels)
    return StudyConfig.model_validate(values)


def _read(path: Path, problems: list[str]) -> dict[str, Any]:
    if not path.is_file():
        ready = ", ".join(sorted(str(file) for file in EMBEDDED_STUDY.parent.glob("*.yaml")))
        problems.append(f"{path}: no such study file; name a YAML file, such as one of {ready}")
        return {}
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError, OSError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}:{mark.line + 1}" if mark else str(path)
        reason = getattr(error, "problem", None) or str(error)
        problems.append(f"{place}: not a study file in plain YAML: {reason}; correct this place")
        return {}
    if raw is None or isinstance(raw, dict):
        return {str(key): value for key, value in (raw or {}).items()}
    problems.append(f"{path}: must hold keys with values, such as `seed: 1`, but is a {type(raw).__name__}")
    return {}


def _override(raw: dict[str, Any], override: str, problems: list[str]) -> None:
    """Set one dotted key of `raw`; a label in `priorities` may hold dots itself."""
    key, equals, text = override.partition("=")
    parts = key.strip().split(".", 1 if key.strip().startswith("priorities.") else -1)
    if not equals or not all(parts):
        problems.append(f"--set {override}: must be KEY=VALUE, as in --set distil.temperature=4")
        return
    try:
        value = _override_value(text.strip())
    except yaml.YAMLError as error:
        problems.append(f"--set {override}: {getattr(error, 'problem', error)}; give a plain value, list or mapping")
        return
    section = raw
    for part in parts[:-1]:
        below = section.get(part)
        section[part] = dict(below) if isinstance(below, dict) else {}  # a copy: YAML aliases share one object
        section = section[part]
    section[parts[-1]] = value


def _override_value(text: str) -> Any:
    """`text` as YAML; as it stands where YAML would cut it (` #`), split it (`: `, `- `) or cannot read it."""
    try:
        value = yaml.safe_load(text)
    except yaml.constructor.ConstructorError:
        raise
    except (yaml.YAMLError, ValueError, RecursionError):
        return text
    split = isinstance(value, dict | list) and text[0] not in "{["
    cut = isinstance(value, str) and text[0] not in "'\""
    return text if split or cut else value


def _section(model: type[Config], raw: Any, key: str, problems: list[str]) -> dict[str, Any]:
    """The settings of one section that the file sets, each checked by itself, then together."""
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        problems.append(_problem(key, raw, f"must be a section of settings, as in {key}: {{{_first(model)}: …}}"))
        return {}
    values: dict[str, Any] = {}
    before = len(problems)
    for name, value in raw.items():
        dotted = f"{key}.{name}" if key else str(name)
        info = model.model_fields.get(name) if isinstance(name, str) else None
        if info is None:
            problems.append(_problem(dotted, value, _no_such(str(name), model)))
        elif name in STAGES and model is StudyConfig:
            values[name] = _section(STAGES[name], value, dotted, problems)
        elif isinstance(info.annotation, type) and issubclass(info.annotation, Config):
            values[name] = _section(info.annotation, value, dotted, problems)
        elif issubclass(model, StageConfig):
            values[name] = _setting(dotted, value, info, problems)
        elif name != "priorities" and isinstance(value, dict) and value and value.keys() <= _SEARCH_KEYS:
            what = "cannot be searched, only settings of distil, prune and quantize can; give one value"
            problems.append(_problem(dotted, value, what, info))
        else:
            values[name] = _checked(dotted, value, info, problems)
    if len(problems) == before and model is not StudyConfig and not issubclass(model, StageConfig):
        try:
            model.model_validate(values)
        except ValidationError as error:
            problems.extend(f"{key}.{fault['ctx']['error']}" for fault in error.errors())
    return values


def _setting(key: str, raw: Any, info: FieldInfo, problems: list[str]) -> Setting:
    """One setting of a stage: fixed, `{choices: […]}` or `{low, high, step?, log?}`."""
    if not isinstance(raw, dict):
        fixed: Setting = _checked(key, raw, info, problems)
        return fixed
    if set(raw) == {"choices"}:
        return _choices(f"{key}.choices", raw["choices"], info, problems)
    if {"low", "high"} <= set(raw) <= _SEARCH_KEYS - {"choices"}:
        if info.annotation in (int, float):
            return _range(key, raw, info, problems)
        problems.append(_problem(key, raw, "has no range, it is no number; list values as {choices: […]}", info))
        return None
    what = "must be one value, {choices: [a, b]}, or {low: a, high: b} with step or log if wished"
    problems.append(_problem(key, raw, what, info))
    return None


def _choices(key: str, raw: Any, info: FieldInfo, problems: list[str]) -> Choices | None:
    if not isinstance(raw, list) or not raw:
        problems.append(_problem(key, raw, "must be a list of at least one value", info))
        return None
    before = len(problems)
    values = [_checked(f"{key}[{index}]", value, info, problems) for index, value in enumerate(raw)]
    if len(problems) > before:
        return None
    twice = [index for index, value in enumerate(values) if value in values[:index]]
    problems.extend(_problem(f"{key}[{index}]", raw[index], "is there twice; leave one out") for index in twice)
    return Choices(choices=tuple(values))


def _range(key: str, raw: dict[str, Any], info: FieldInfo, problems: list[str]) -> Range | None:
    """Bounds within what the setting allows; a step has to lead from one bound to the other exactly."""
    before = len(problems)
    low, high = (_checked(f"{key}.{bound}", raw[bound], info, problems) for bound in ("low", "high"))
    step, log = raw.get("step"), raw.get("log", False)
    if step is not None:
        positive: Any = Annotated[info.annotation, Field(gt=0)]
        step = _checked(f"{key}.step", step, FieldInfo.from_annotation(positive), problems)
    if not isinstance(log, bool):
        problems.append(_problem(f"{key}.log", log, "must be true or false"))
    if len(problems) > before:
        return None
    if low >= high:
        problems.append(_problem(f"{key}.low", raw["low"], f"must be less than {key}.high={_show(raw['high'])}", info))
    if log and low <= 0:
        problems.append(_problem(f"{key}.low", raw["low"], "must be greater than 0 when log is true; raise it", info))
    if log and step is not None:
        problems.append(_problem(f"{key}.step", raw["step"], "cannot stand with log: true; leave one of them out"))
    elif step is not None and low < high and (rest := (exact(high) - exact(low)) % exact(step)):
        last = float(exact(high) - rest)
        what = f"must be a whole number of steps of {step} above low={low}; the last one within is {_plain(last)}"
        problems.append(_problem(f"{key}.high", raw["high"], what))
    return Range(low=low, high=high, step=step, log=log) if len(problems) == before else None


def _checked(key: str, value: Any, info: FieldInfo, problems: list[str]) -> Any:
    """`value` as the field takes it; what is wrong with it goes to `problems`."""
    field: Any = Annotated[info.annotation, info]
    try:
        checked = TypeAdapter[Any](field).validate_python(value)
    except ValidationError as error:
        found = error.errors(include_url=False)
        for fault in found[:1] if value == [] else [fault for fault in found if fault["type"] != "too_short"]:
            parts = () if fault["type"] == "missing" else fault["loc"]
            place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts if part != "[key]")
            problems.append(_problem(key + place, fault["input"], _wanted(fault, info), info))
        return None
    if isinstance(value, bool) and not isinstance(checked, bool):
        problems.append(_problem(key, value, "must be a number, not yes or no", info))
    elif isinstance(checked, float) and not math.isfinite(checked):
        problems.append(_problem(key, value, "must be a finite number", info))
    return checked


_BOUNDS = {"gt": "greater than", "ge": "at least", "lt": "less than", "le": "at most"}
_TYPES = {
    "int": "must be a whole number",
    "float": "must be a number",
    "finite": "must be a finite number",
    "string": "must be text; put it in quotes",
    "tuple": "must be a list, as in [a, b]",
    "dict": "must be a mapping, as in {a: 1}",
}


def _wanted(fault: Any, info: FieldInfo) -> str:
    """What one of pydantic's faults asks for, in plain words, with the field's whole range."""
    kind, context = fault["type"], fault.get("ctx", {})
    limits = {name: getattr(part, name) for part in info.metadata for name in _BOUNDS if hasattr(part, name)} or context
    bounds = " and ".join(f"{words} {_plain(limits[name])}" for name, words in _BOUNDS.items() if name in limits)
    null = " or null" if type(None) in get_args(info.annotation) else ""
    if kind == "literal_error":
        return f"must be {context['expected']}"
    if kind.startswith(("greater_than", "less_than")):
        return f"must be {bounds}{null}"
    if kind == "string_pattern_mismatch":
        return "is not allowed as a name; change it"
    if kind in ("too_short", "string_too_short"):
        return f"must not be empty{null}"
    if kind == "string_too_long":
        return f"must have at most {context['max_length']} characters"
    if kind in ("missing", "too_long"):
        return f"must be a list of {len(get_args(info.annotation))} values"
    wanted = _TYPES.get(kind.split("_")[0], fault["msg"])
    return f"{wanted}{f', {bounds}' if bounds else ''}{null}"


def _check_across(values: Mapping[str, Any], problems: list[str]) -> None:
    """What one key asks of another."""
    weights, priorities = values.get("tradeoff_weights"), values.get("priorities")
    if weights is not None and not any(weights):
        problems.append(_problem("tradeoff_weights", list(weights), "must not all be 0; raise one"))
    if any(problem.startswith(("data=", "data.label_columns")) for problem in problems):
        return
    labels = values.get("data", {}).get("label_columns", DataConfig().label_columns)
    try:
        _critical_label(values.get("safety", {}).get("critical_label"), labels)
    except ValueError as error:
        problems.append(str(error))
    for label, weight in (priorities or {}).items():
        if label not in labels:
            problems.append(_problem(f"priorities.{label}", weight, f"no such label{_near(label, labels)}"))
    if priorities and set(priorities) >= set(labels) and not any(priorities.values()):
        problems.append(_problem("priorities", priorities, "must not all be 0; raise one"))


def _critical_label(named: str | None, labels: Sequence[str]) -> str:
    if named is None and ("threat" in labels or len(labels) == 1):
        return "threat" if "threat" in labels else labels[0]
    if named is None:
        what = f"must name the label whose misses matter most: {', '.join(labels)}"
        raise ValueError(_problem("safety.critical_label", named, what))
    if named not in labels:
        raise ValueError(_problem("safety.critical_label", named, f"no such label{_near(named, labels)}"))
    return named


def _defaults(model: type[StageConfig]) -> dict[str, Any]:
    return {name: info.default for name, info in model.model_fields.items()}


def _first(model: type[Config]) -> str:
    return next(iter(model.model_fields))


def _no_such(name: str, model: type[Config]) -> str:
    """That a key is unknown, with the nearest known one, or where else a setting of that name is."""
    near = difflib.get_close_matches(name, model.model_fields, 1)
    sections = {**{key: info.annotation for key, info in StudyConfig.model_fields.items()}, **STAGES}
    places = [f"{key}.{name}" for key, section in sections.items() if name in getattr(section, "model_fields", ())]
    if near or not places:
        return f"no such setting{_near(name, model.model_fields)}"
    return f"no such setting here (did you mean {' or '.join(places)}?)"


def _near(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), 1)
    return f" (did you mean {near[0]}?)" if near else f" (known: {', '.join(known)})"


def _problem(key: str, value: Any, what: str, info: FieldInfo | None = None) -> str:
    meaning = " ".join((info.description or "").split()).rstrip(".") if info else ""
    return f"{key}={_show(value)}: {what}{f' ({meaning})' if meaning else ''}"


def _show(value: Any) -> str:
    """A value on one line, much as the study file has it."""
    if isinstance(value, str):
        text = repr(value)
    elif isinstance(value, dict | list | tuple):
        plain = list(value) if isinstance(value, tuple) else value
        text = _dumped(plain, flow=True)
    else:
        text = json.dumps(value, default=str)
    return text if len(text) <= 100 else f"{text[:97]}…"


def _plain(number: float) -> str:
    return str(int(number)) if number == int(number) else str(number)


def _dumped(plain: Any, flow: bool | None) -> str:
    text = ""
    for readable in (
        True,
        False,
    ):  # PyYAML reads \x85 back as \n unless it is escaped, and then so is all other Unicode
        text = yaml.safe_dump(plain, default_flow_style=flow, allow_unicode=readable, sort_keys=False, width=math.inf)
        text = text.rstrip("\n")
        if text.splitlines() == text.split("\n"):
            break
    return text


def exact(number: float) -> Fraction:
    """The number as it is written: steps of 0.1 add up in these, in floats they do not."""
    return Fraction(str(number))


def check_paths(config: StudyConfig) -> list[str]:
    """Problems with the folders of teacher, results and store, a line each; never uses the network."""
    problems = _folder_problems("results_dir", config.results_dir, config.folder)
    if config.storage is not None and "://" in config.storage:
        problems.append(_problem("storage", config.storage, "must be a folder; mount the remote one and name it here"))
    elif config.storage is not None or not problems:
        key, value = ("results_dir", config.results_dir) if config.storage is None else ("storage", config.storage)
        problems += _folder_problems(key, value, config.store_root)
    if config.teacher.model == "scratch":
        return problems + _layer_problems(config, config.teacher.scratch_layers, "teacher.scratch_layers")
    key, folder = f"teacher.model={config.teacher.model!r}", _model_folder(config.teacher.model)
    if folder is None:
        return [*problems, f"{key}: {_missing_model(config.teacher.model)}"]
    problems += [f"{key}: {fault}" for fault in _model_faults(folder)]
    return problems + _layer_problems(config, _layers(folder), str(folder / "config.json"))


def _folder_problems(key: str, value: str, folder: Path) -> list[str]:
    """Root may write anywhere as far as permission bits go, so that a file in the way is looked for by itself."""
    nearest = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    if not nearest.is_dir():
        return [_problem(key, value, f"{nearest} is a file, not a folder; move it or name another folder")]
    if not os.access(nearest, os.W_OK | os.X_OK):
        return [_problem(key, value, f"{nearest} is not writable; make it so or name another folder")]
    return []


def _model_folder(model: str) -> Path | None:
    """The folder of a model: as named, or its snapshot in the Hugging Face cache."""
    if model and Path(model).exists():
        return Path(model)
    if not _is_hub_id(model):
        return None
    from huggingface_hub import try_to_load_from_cache

    try:
        cached = try_to_load_from_cache(model, "config.json")
    except ValueError:  # no valid hub id after all
        return None
    return Path(cached).parent if isinstance(cached, str) else None


def _is_hub_id(model: str) -> bool:
    return re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?", model) is not None


def _missing_model(model: str) -> str:
    if not _is_hub_id(model):
        return "no such folder; name one with config.json, *.safetensors and tokenizer.json"
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}
    where = " (HF_HUB_OFFLINE is set: it cannot be fetched from here)" if offline else ""
    return (
        f"no such folder, and no such model in the Hugging Face cache{where}; "
        f"name a folder, or fetch the model first: hf download {model}"
    )


def _model_faults(folder: Path) -> list[str]:
    """What keeps a folder from being loaded as a teacher without running any code of its own."""
    if not folder.is_dir():
        return ["is a file; name the folder that holds config.json, *.safetensors and tokenizer.json"]
    faults = []
    for name in ("config.json", "tokenizer_config.json"):
        content = _json_object(folder / name)
        if content is None and (name == "config.json" or (folder / name).exists()):
            state = "is no JSON object" if (folder / name).exists() else "is missing"
            faults.append(f"{name} {state}; save the model again with save_pretrained")
        elif content and "auto_map" in content:
            faults.append(f"{name} asks to run its own code (auto_map), never done here; take a built-in architecture")
    if not (folder / "tokenizer.json").is_file():
        faults.append("tokenizer.json is missing; save a fast tokenizer there with save_pretrained(folder)")
    weights = sorted(folder.glob("*.safetensors"))
    if not weights and any(folder.glob("pytorch_model*.bin")):
        faults.append(
            "has its weights only as a pickle (pytorch_model.bin), which may run code when loaded; "
            "convert them with save_pretrained(folder, safe_serialization=True)"
        )
    elif not weights:
        faults.append("has no *.safetensors weights; save the model there with save_pretrained")
    index = _json_object(folder / "model.safetensors.index.json") or {}
    for shard in sorted(set(index.get("weight_map", {}).values()) - {file.name for file in weights}):
        faults.append(f"{shard} is missing, though the index lists it; copy the folder again, whole")
    return faults + [f"{file.name} {fault}; copy it again, whole" for file in weights if (fault := _torn(file))]


def _torn(file: Path) -> str | None:
    """What is wrong with a safetensors file, by its header: 8 bytes of length, JSON, then the bytes it lists."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        header_bytes = int.from_bytes(stream.read(8), "little")
        if size < 8 or header_bytes > size - 8:
            return f"is cut off or no safetensors file ({size} bytes)"
        try:
            header = json.loads(stream.read(header_bytes))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        except (ValueError, KeyError, TypeError, AttributeError, IndexError):
            return "has an unreadable header"
    if not ends:
        return "holds no weights"
    expected = 8 + header_bytes + max(ends)
    return None if size == expected else f"has {size} bytes where its header asks for {expected}"


def _json_object(file: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _layers(folder: Path) -> int | None:
    content = _json_object(folder / "config.json") or {}
    names = ("num_hidden_layers", "n_layers", "num_layers", "n_layer")
    return next((content[name] for name in names if isinstance(content.get(name), int)), None)


def _layer_problems(config: StudyConfig, layers: int | None, source: str) -> list[str]:
    """Students deeper than their teacher; none when every student is the teacher itself."""
    settings = config.distil
    methods = _values("method", settings["method"])
    if layers is None or not any("layers" in DistilConfig.settings_of(str(method)) for method in methods.values()):
        return []
    what = f"more than the teacher's {layers} ({source}); take {layers} or less"
    asked = _values("distil.layers", settings["layers"])
    return [_problem(key, value, what) for key, value in asked.items() if isinstance(value, int) and value > layers]


def _values(key: str, setting: Setting) -> dict[str, Setting]:
    """The values a setting can take, of a range its highest, by the key under which the file has them."""
    if isinstance(setting, Choices):
        return {f"{key}.choices[{index}]": value for index, value in enumerate(setting.choices)}
    return {f"{key}.high": setting.high} if isinstance(setting, Range) else {key: setting}


_WEIGHT_FILES = ("config.json", "*.safetensors", "*.safetensors.index.json")
_TOKENIZER_FILES = ("*token*.json", "vocab*", "merges.txt", "*.model")


def resolve(config: StudyConfig) -> StudyConfig:
    """The study with the digest of the teacher's folder; raises InputError if the file already names another digest."""
    teacher, digest = config.teacher, None
    if teacher.model != "scratch" and Path(teacher.model).is_dir():
        digest = model_digest(Path(teacher.model))
        if teacher.model_digest not in (None, digest):
            what = f"the files in {teacher.model} give {digest}; bring the old ones back, or set null to take these"
            raise InputError([_problem("teacher.model_digest", teacher.model_digest, what)])
    return config.model_copy(update={"teacher": teacher.model_copy(update={"model_digest": digest})})


def model_digest(folder: Path) -> str:
    """SHA-256 over the names and contents of the files that make the model: config, weights, tokenizer."""
    files = {
        file.name for pattern in _WEIGHT_FILES + _TOKENIZER_FILES for file in folder.glob(pattern) if file.is_file()
    }
    whole = hashlib.sha256()
    for name in sorted(files):
        with (folder / name).open("rb") as stream:
            whole.update(f"{name}\0{hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode())
    return whole.hexdigest()


def to_yaml(config: StudyConfig) -> str:
    """The whole study as a file that `load_study` reads to an equal one."""
    file = shlex.quote(str(config.folder / "study.yaml"))
    lines = [f"# Repeat with: python search/pareto.py {file if file.isprintable() else ascii(file)}\n"]
    for key, value in _dump(config).items():
        if not isinstance(value, dict) or not value:
            lines.append(_entry(key, value))
        else:
            lines.append(f"{key}:\n")
            lines += [textwrap.indent(_entry(name, below), "  ") for name, below in value.items()]
    return "".join(lines)


def differences(old: StudyConfig, new: StudyConfig) -> list[str]:
    """What keeps `new` from going on where `old` stopped, a line a key; trials, resources and places may differ."""
    before, now = dict(_flat(_dump(old))), dict(_flat(_dump(new)))
    free = {"search.trials", "results_dir", "storage", *(f"resources.{name}" for name in ResourcesConfig.model_fields)}
    if old.teacher.model_digest is not None and old.teacher.model_digest == new.teacher.model_digest:
        free.add("teacher.model")  # the same files, moved
    return [
        f"{key}: {_show(before.get(key))} in the study's folder, {_show(now.get(key))} now"
        for key in before | now
        if key not in free and before.get(key) != now.get(key)
    ]


def _dump(config: StudyConfig) -> dict[str, Any]:
    """The study as plain YAML types, searched settings without what they leave open."""
    plain = config.model_dump(mode="json")
    for stage in STAGES:
        for name, setting in config.settings(stage).items():
            if isinstance(setting, Choices | Range):
                plain[stage][name] = setting.model_dump(mode="json", exclude_defaults=True)
    return plain


def _entry(key: str, value: Any) -> str:
    text = _dumped({key: value}, flow=isinstance(value, dict | list))
    return f"{text[1:-1] if text.startswith('{') else text}\n"


def _flat(plain: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Dotted keys and their values, two levels deep: a searched setting is one value."""
    for key, value in plain.items():
        if isinstance(value, dict) and key in StudyConfig.model_fields:
            yield from ((f"{key}.{name}", below) for name, below in value.items())
        else:
            yield key, value
