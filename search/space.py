"""The search space of a study: suggestions of Optuna ↔ typed configs of the stages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.config import DistilConfig, PruneConfig, QuantizeConfig, StageConfig
from search.compatibility import DECIDING, allowed, compatibility_problems, teacher_shape
from search.config import STAGES, Choices, Range, Setting, StudyConfig, exact
from search.model_folder import model_digest, model_folder
from search.points import Point, as_held, asked_name, holds, lost_settings

if TYPE_CHECKING:
    from search.stage_tree.chains import Suggesting


MOST_QUESTIONS = 20_000
"""Remembered at a time."""


@dataclass
class _Question:
    """What a space asks next, which hangs on the deciding answers alone: samplers that try many chains ask often."""

    fixed: dict[str, Any]
    """Settings that go without asking, before the question."""
    key: str | None = None
    name: str = ""
    setting: Setting = None
    decides: bool = False
    after: dict[Any, _Question] = field(default_factory=dict)
    """The next question by the answer; by None where the answer decides nothing."""


class Space:
    """Define-by-run: a setting is suggested only where the settings above it use it, and only with values that fit."""

    def __init__(self, config: StudyConfig) -> None:
        self._settings = {stage: config.settings(stage) for stage in STAGES}
        self._teacher = teacher_shape(config)
        self._start, self._questions = self._next({}), 1

    def suggest(self, trial: Suggesting) -> dict[str, Any]:
        """Every setting that the suggested methods use, by `stage.name`; fixed ones are included, not suggested."""
        params: dict[str, Any] = {}
        question = self._start
        while True:
            params.update(question.fixed)
            if question.key is None:
                return params
            params[question.key] = value = _suggest(trial, question.name, question.setting)
            answer = value if question.decides else None
            if answer not in question.after:
                question.after[answer] = self._next(params)
                self._questions += 1
            question = question.after[answer]
            if self._questions > MOST_QUESTIONS:
                self._start, self._questions = self._next({}), 1

    def _next(self, answered: Mapping[str, Any]) -> _Question:
        """The first searched setting that counts after these, and the fixed ones on the way to it."""
        params: dict[str, Any] = {}
        fixed: dict[str, Any] = {}
        for key, setting in self._used(params):
            if key in answered:
                params[key] = answered[key]
            elif isinstance(setting, Choices | Range):
                words = isinstance(setting, Choices) and any(isinstance(choice, str) for choice in setting.choices)
                return _Question(fixed, key, self._name(key, setting), setting, words or key in DECIDING)
            else:
                params[key] = fixed[key] = setting
        return _Question(fixed)

    def named(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """The settings of a point under the names by which `suggest` asks for them there, whatever else is suggested.

        Optuna knows a listed setting by its values: where only some of them fit, it is another parameter. What a point
        leaves open is among them where it is settled, see `Point`.

        Raises:
            ValueError: the point names settings that cannot all count, see `point_problems`.
        """
        found = Point(point, self._settings, self._teacher)
        if not found.kept:
            raise ValueError(f"{dict(point)}: not all of these can count together; take out what does not")
        return found.names

    def point_of(self, settings: Mapping[str, Any]) -> dict[str, Any] | None:
        """A chain's settings as a point of this space; None where one of them is not in it.

        Numbers that the study fixes, such as epochs, are the study's own. Settings that are not given stay open.
        """
        params: dict[str, Any] = {}
        point: dict[str, Any] = {}
        for key, setting in self._used(params):
            given = settings.get(key)
            searched = isinstance(setting, Choices | Range)
            params[key] = _any(setting) if given is None or not searched else as_held(setting, given)
            if given is None or (not searched and isinstance(setting, int | float)):
                continue
            if not holds(setting, given):
                return None
            if searched:
                point[key] = params[key]
        return point

    def _name(self, key: str, setting: Setting) -> str:
        """The key; of a listed setting that has lost some of its values, with those that are left."""
        stage, name = key.split(".")
        return asked_name(key, self._settings[stage][name], setting.choices if isinstance(setting, Choices) else ())

    def _used(self, params: Mapping[str, Any]) -> Iterator[tuple[str, Setting]]:
        """The settings that count, each after `params` has got the ones above it, with the choices that fit."""
        for stage, model in STAGES.items():
            own: dict[str, Any] = {}
            for name in model.model_fields:
                if model.is_used(name, own):
                    key, setting = f"{stage}.{name}", self._settings[stage][name]
                    if isinstance(setting, Choices):
                        fitting = allowed(key, setting, params, self._teacher)
                        setting = setting if len(fitting) == len(setting.choices) else Choices(choices=fitting)
                    yield key, setting
                    own[name] = params[key]

    def configs(self, params: Mapping[str, Any]) -> tuple[DistilConfig, PruneConfig, QuantizeConfig]:
        """The stages' configs from what `suggest` returned; other keys of `params` are left alone."""
        distil = _of_stage(params, "distil")
        if distil.get("student") == "encoder" and (folder := model_folder(distil["model"])) is not None:
            distil["model_digest"] = _digest(folder)
        return (
            DistilConfig.model_validate(distil),
            PruneConfig.model_validate(_of_stage(params, "prune")),
            QuantizeConfig.model_validate(_of_stage(params, "quantize")),
        )


def point_problems(config: StudyConfig) -> list[str]:
    """What is wrong with `search.points`: no such setting, a value not in the space, or one that cannot count there.

    The last is told of studies alone whose settings are compatible.
    """
    problems = []
    settings, teacher = {stage: config.settings(stage) for stage in STAGES}, teacher_shape(config)
    compatible = bool(config.search.points) and not compatibility_problems(config)
    for index, point in enumerate(config.search.points):
        reasons: dict[str, str] = {}
        for key, value in point.items():
            stage, _, name = key.partition(".")
            if name not in settings.get(stage, {}):
                reasons[key] = "no such setting of distil, prune or quantize; take it out"
            elif not holds(setting := settings[stage][name], value):
                held = setting.model_dump(exclude_defaults=True) if isinstance(setting, Choices | Range) else setting
                reasons[key] = f"not in the study's {key}: {held}; add it there, or change this"
        if not reasons and compatible and not Point(point, settings, teacher).kept:
            reasons = lost_settings(point, settings, teacher)
        problems += [f"search.points[{index}].{key}={point[key]!r}: {reason}" for key, reason in reasons.items()]
    return problems


@cache
def _digest(folder: Path) -> str:
    """`model_digest`, once a process: a trial should not read the weights again."""
    return model_digest(folder)


def flat_settings(stage: str, config: StageConfig) -> dict[str, Any]:
    """The settings that `config` uses as `stage.name`: columns of `trials.parquet`, parameters of a trial."""
    return {f"{stage}.{name}": value for name, value in config.used().items() if name != "model_digest"}


def _suggest(trial: Suggesting, name: str, setting: Setting) -> Any:
    if isinstance(setting, Choices):
        return trial.suggest_categorical(name, setting.choices)
    if not isinstance(setting, Range):
        return setting
    if isinstance(setting.low, int) and isinstance(setting.high, int):
        step = 1 if setting.step is None else int(setting.step)
        return trial.suggest_int(name, setting.low, setting.high, step=step, log=setting.log)
    value = trial.suggest_float(name, setting.low, setting.high, step=setting.step, log=setting.log)
    if setting.step is None:
        return value
    return _on_grid(value, setting.low, setting.step)


@lru_cache(maxsize=1 << 12)
def _on_grid(value: float, low: float, step: float) -> float:
    """The same point of the grid is the same number whichever sampler reached it: it becomes part of a cache key."""
    return float(exact(low) + round((exact(value) - exact(low)) / exact(step)) * exact(step))


def _any(setting: Setting) -> Any:
    """Some value of a setting."""
    if isinstance(setting, Choices):
        return setting.choices[0]
    return setting.low if isinstance(setting, Range) else setting


def _of_stage(params: Mapping[str, Any], stage: str) -> dict[str, Any]:
    prefix = f"{stage}."
    return {key.removeprefix(prefix): value for key, value in params.items() if key.startswith(prefix)}
