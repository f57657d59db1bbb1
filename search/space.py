"""The search space of a study: suggestions of Optuna ↔ typed configs of the stages."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pipeline.config import DistilConfig, PruneConfig, QuantizeConfig, StageConfig
from search.config import STAGES, Choices, Range, Setting, StudyConfig, exact

if TYPE_CHECKING:
    import optuna


class Space:
    """Define-by-run: a setting is suggested only when the suggested method of its stage uses it."""

    def __init__(self, config: StudyConfig) -> None:
        self._settings = {stage: config.settings(stage) for stage in STAGES}

    def suggest(self, trial: optuna.Trial) -> dict[str, Any]:
        """Every setting that the suggested methods use, by `stage.name`; fixed ones are included, not suggested."""
        params: dict[str, Any] = {}
        for stage, model in STAGES.items():
            settings = self._settings[stage]
            method = params[f"{stage}.method"] = _suggest(trial, f"{stage}.method", settings["method"])
            for name in model.settings_of(method):
                params[f"{stage}.{name}"] = _suggest(trial, f"{stage}.{name}", settings[name])
        return params

    def configs(self, params: Mapping[str, Any]) -> tuple[DistilConfig, PruneConfig, QuantizeConfig]:
        """The stages' configs from what `suggest` returned; other keys of `params` are left alone."""
        return (
            DistilConfig.model_validate(_of_stage(params, "distil")),
            PruneConfig.model_validate(_of_stage(params, "prune")),
            QuantizeConfig.model_validate(_of_stage(params, "quantize")),
        )

    def size(self) -> int | None:
        """How many different chains there are to suggest; None if a setting that some method uses is continuous."""
        sizes = [_stage_size(model, self._settings[stage]) for stage, model in STAGES.items()]
        return _product(sizes)


def point_problems(config: StudyConfig) -> list[str]:
    """What is wrong with `search.points`: keys that are no setting, and values that the space does not hold."""
    problems = []
    for index, point in enumerate(config.search.points):
        for key, value in point.items():
            stage, _, name = key.partition(".")
            where = f"search.points[{index}].{key}"
            if stage not in STAGES or name not in STAGES[stage].model_fields:
                problems.append(f"{where}={value!r}: no such setting of distil, prune or quantize; take it out")
            elif not _holds(setting := config.settings(stage)[name], value):
                held = setting.model_dump(exclude_defaults=True) if isinstance(setting, Choices | Range) else setting
                problems.append(f"{where}={value!r}: not in the study's {key}: {held}; add it there, or change this")
    return problems


def _holds(setting: Setting, value: Any) -> bool:
    if isinstance(setting, Choices):
        return value in setting.choices
    if isinstance(setting, Range):
        if isinstance(value, str) or not setting.low <= value <= setting.high:
            return False
        whole = isinstance(setting.low, int) and isinstance(setting.high, int)
        step = setting.step or (1 if whole else None)
        steps = (value - setting.low) / step if step else 0.0
        return math.isclose(steps, round(steps), abs_tol=1e-9)
    return bool(value == setting)


def flat_settings(stage: str, config: StageConfig) -> dict[str, Any]:
    """The settings that `config` uses as `stage.name`: columns of `trials.parquet`, parameters of a trial."""
    return {f"{stage}.{name}": value for name, value in config.key_fields().items()}


def _suggest(trial: optuna.Trial, name: str, setting: Setting) -> Any:
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
    # The same point of the grid is the same number whichever sampler reached it: it becomes part of a cache key.
    low, step_size = exact(setting.low), exact(setting.step)
    return float(low + round((exact(value) - low) / step_size) * step_size)


def _of_stage(params: Mapping[str, Any], stage: str) -> dict[str, Any]:
    prefix = f"{stage}."
    return {key.removeprefix(prefix): value for key, value in params.items() if key.startswith(prefix)}


def _stage_size(model: type[StageConfig], settings: Mapping[str, Setting]) -> int | None:
    """Sum over the methods of the product over the settings each one uses."""
    method = settings["method"]
    methods = method.choices if isinstance(method, Choices) else (method,)
    sizes = [_product([_points(settings[name]) for name in model.settings_of(str(chosen))]) for chosen in methods]
    finite = [size for size in sizes if size is not None]
    return sum(finite) if len(finite) == len(sizes) else None


def _points(setting: Setting) -> int | None:
    """How many values a setting takes; None for a continuous range."""
    if isinstance(setting, Choices):
        return len(setting.choices)
    if not isinstance(setting, Range):
        return 1
    if setting.step is not None:
        return int((exact(setting.high) - exact(setting.low)) / exact(setting.step)) + 1
    whole = isinstance(setting.low, int) and isinstance(setting.high, int)
    return int(setting.high - setting.low) + 1 if whole else None


def _product(sizes: list[int | None]) -> int | None:
    finite = [size for size in sizes if size is not None]
    return math.prod(finite) if len(finite) == len(sizes) else None
