"""The settings of a study's sections, each checked by itself; whatever is wrong becomes a line of `problems`."""

from __future__ import annotations

import difflib
import math
from typing import Annotated, Any, get_args

from pydantic import Field, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from pipeline.config import Config, StageConfig
from search.config import STAGES, Choices, Range, Setting, StudyConfig, exact
from search.wording import problem, shown, suggestion

_SEARCH_KEYS = {"choices", "low", "high", "step", "log"}


def check_section(model: type[Config], raw: Any, key: str, problems: list[str]) -> dict[str, Any]:
    """The settings of one section that the file sets, each checked by itself, then together."""
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        problems.append(problem(key, raw, f"must be a section of settings, as in {key}: {{{_first(model)}: …}}"))
        return {}
    values: dict[str, Any] = {}
    before = len(problems)
    for name, value in raw.items():
        dotted = f"{key}.{name}" if key else str(name)
        info = model.model_fields.get(name) if isinstance(name, str) else None
        if info is None:
            problems.append(problem(dotted, value, _no_such(str(name), model)))
        elif name in STAGES and model is StudyConfig:
            values[name] = check_section(STAGES[name], value, dotted, problems)
        elif isinstance(info.annotation, type) and issubclass(info.annotation, Config):
            values[name] = check_section(info.annotation, value, dotted, problems)
        elif issubclass(model, StageConfig):
            values[name] = _setting(dotted, value, info, problems)
        elif name != "priorities" and isinstance(value, dict) and value and value.keys() <= _SEARCH_KEYS:
            what = "cannot be searched, only settings of distil, prune and quantize can; give one value"
            problems.append(problem(dotted, value, what, info))
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
        problems.append(problem(key, raw, "has no range, it is no number; list values as {choices: […]}", info))
        return None
    what = "must be one value, {choices: [a, b]}, or {low: a, high: b} with step or log if wished"
    problems.append(problem(key, raw, what, info))
    return None


def _choices(key: str, raw: Any, info: FieldInfo, problems: list[str]) -> Choices | None:
    if not isinstance(raw, list) or not raw:
        problems.append(problem(key, raw, "must be a list of at least one value", info))
        return None
    before = len(problems)
    values = [_checked(f"{key}[{index}]", value, info, problems) for index, value in enumerate(raw)]
    if len(problems) > before:
        return None
    twice = [index for index, value in enumerate(values) if value in values[:index]]
    problems.extend(problem(f"{key}[{index}]", raw[index], "is there twice; leave one out") for index in twice)
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
        problems.append(problem(f"{key}.log", log, "must be true or false"))
    if len(problems) > before:
        return None
    if low >= high:
        problems.append(problem(f"{key}.low", raw["low"], f"must be less than {key}.high={shown(raw['high'])}", info))
    if log and low <= 0:
        problems.append(problem(f"{key}.low", raw["low"], "must be greater than 0 when log is true; raise it", info))
    if log and step is not None:
        problems.append(problem(f"{key}.step", raw["step"], "cannot stand with log: true; leave one of them out"))
    elif step is not None and low < high and (rest := (exact(high) - exact(low)) % exact(step)):
        last = float(exact(high) - rest)
        what = f"must be a whole number of steps of {step} above low={low}; the last one within is {_plain(last)}"
        problems.append(problem(f"{key}.high", raw["high"], what))
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
            problems.append(problem(key + place, fault["input"], _wanted(fault, info), info))
        return None
    if isinstance(value, bool) and not isinstance(checked, bool):
        problems.append(problem(key, value, "must be a number, not yes or no", info))
    elif isinstance(checked, float) and not math.isfinite(checked):
        problems.append(problem(key, value, "must be a finite number", info))
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


def _first(model: type[Config]) -> str:
    return next(iter(model.model_fields))


def _no_such(name: str, model: type[Config]) -> str:
    """That a key is unknown, with the nearest known one, or where else a setting of that name is."""
    near = difflib.get_close_matches(name, model.model_fields, 1)
    sections = {**{key: info.annotation for key, info in StudyConfig.model_fields.items()}, **STAGES}
    places = [f"{key}.{name}" for key, section in sections.items() if name in getattr(section, "model_fields", ())]
    if near or not places:
        return f"no such setting{suggestion(name, model.model_fields)}"
    return f"no such setting here (did you mean {' or '.join(places)}?)"


def _plain(number: float) -> str:
    return str(int(number)) if number == int(number) else str(number)
