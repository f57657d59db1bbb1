"""The study file: read with its overrides, checked as a whole, written again, compared.

Every problem of a file and its overrides is a line; they are collected and raised once, as one `InputError`.
"""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from pipeline.config import DataConfig
from pipeline.errors import InputError
from search.config import STAGES, Choices, Range, StudyConfig, defaults, find_critical_label, preset_stages
from search.settings import check_section
from search.wording import problem, shown, suggestion, yaml_text

_BUDGET = ("search.trials", "search.max_seconds", "search.patience", "search.min_growth_percent")
MAY_CHANGE = ("tracking.", "resources.", "results_dir", "storage", "write_models", *_BUDGET)
"""Keys, and beginnings of keys, that `--resume` may change: how much is run, on what, and what is written where."""
EMBEDDED_STUDY = Path(__file__).parent / "studies" / "embedded.yaml"
"""The study that runs when none is named."""

_SEEDED = ("data", "teacher", "classical", "distil", "prune")


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
    values = check_section(StudyConfig, dict(raw), "", problems)
    _check_across(values, problems)
    if problems:
        raise InputError(problems)
    kept = preset_stages(values.get("preset", StudyConfig.model_fields["preset"].default))
    for name in _SEEDED:
        values.setdefault(name, {}).setdefault("seed", values.get("seed", 0))
    for stage, model in STAGES.items():
        values[stage] = defaults(model) | values.get(stage, {})
        if stage not in kept:
            values[stage]["method"] = "none"
    labels = DataConfig(**values["data"]).label_columns
    safety = values.setdefault("safety", {})
    safety["critical_label"] = find_critical_label(safety.get("critical_label"), labels)
    return StudyConfig.model_validate(values)


class _EachKeyOnce(yaml.SafeLoader):
    """Plain YAML, in which a key that stands twice is an error: of two sections the first would be lost in silence."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """See `yaml.composer.Composer`."""
        node = super().compose_mapping_node(anchor)
        first: dict[str, yaml.ScalarNode] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and (earlier := first.setdefault(key.value, key)) is not key:
                twice = f"{key.value} stands twice, first in line {earlier.start_mark.line + 1}"
                raise yaml.composer.ComposerError(None, None, f"{twice}; take one out", key.start_mark)
        return node


def _read(path: Path, problems: list[str]) -> dict[str, Any]:
    if not path.is_file():
        ready = ", ".join(sorted(str(file) for file in EMBEDDED_STUDY.parent.glob("*.yaml")))
        problems.append(f"{path}: no such study file; name a YAML file, such as one of {ready}")
        return {}
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), _EachKeyOnce)
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


def _check_across(values: Mapping[str, Any], problems: list[str]) -> None:
    """What one key asks of another."""
    weights, priorities = values.get("tradeoff_weights"), values.get("priorities")
    if weights is not None and not any(weights):
        problems.append(problem("tradeoff_weights", list(weights), "must not all be 0; raise one"))
    if any(line.startswith(("data=", "data.label_columns")) for line in problems):
        return
    labels = values.get("data", {}).get("label_columns", DataConfig().label_columns)
    try:
        find_critical_label(values.get("safety", {}).get("critical_label"), labels)
    except ValueError as error:
        problems.append(str(error))
    for label, weight in (priorities or {}).items():
        if label not in labels:
            problems.append(problem(f"priorities.{label}", weight, f"no such label{suggestion(label, labels)}"))
    if priorities and set(priorities) >= set(labels) and not any(priorities.values()):
        problems.append(problem("priorities", priorities, "must not all be 0; raise one"))


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
    moved = old.teacher.model_digest is not None and old.teacher.model_digest == new.teacher.model_digest
    free = {"teacher.model"} if moved else set()
    return [
        f"{key}: {shown(before.get(key))} in the study's folder, {shown(now.get(key))} now"
        for key in before | now
        if key not in free and not key.startswith(MAY_CHANGE) and before.get(key) != now.get(key)
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
    text = yaml_text({key: value}, flow=isinstance(value, dict | list))
    return f"{text[1:-1] if text.startswith('{') else text}\n"


def _flat(plain: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Dotted keys and their values, two levels deep: a searched setting is one value."""
    for key, value in plain.items():
        if isinstance(value, dict) and key in StudyConfig.model_fields:
            yield from ((f"{key}.{name}", below) for name, below in value.items())
        else:
            yield key, value
