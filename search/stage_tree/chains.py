"""Whole chains of settings, drawn from a define-by-run space, and their features stage by stage."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np

Prefix = tuple[tuple[str, Any], ...]
"""The settings of the first stages of a chain, by name without what follows a `[`, in the order they were asked for."""


class Suggesting(Protocol):
    """What a space asks of a trial; `optuna.Trial` has it."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any: ...
    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int: ...
    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float: ...


Space = Callable[[Suggesting], Any]
"""A define-by-run space: asks for its settings, each after those it depends on."""


@dataclass(frozen=True)
class Chain:
    """One point of the space, cut into stages."""

    params: Mapping[str, Any]
    """As Optuna names them."""
    stages: tuple[str, ...]
    features: Mapping[str, Mapping[str, float]]
    """By stage: what its effect is learnt from."""

    @cached_property
    def prefixes(self) -> tuple[Prefix, ...]:
        """The settings up to each stage, that one included."""
        parts: list[Prefix] = []
        before: Prefix = ()
        for stage in self.stages:
            before += tuple((plain(name), value) for name, value in self.params.items() if stage_of(name) == stage)
            parts.append(before)
        return tuple(parts)

    def own(self, stage: str) -> Prefix:
        """The settings of this stage alone."""
        at = self.stages.index(stage)
        return self.prefixes[at][len(self.prefixes[at - 1]) if at else 0 :]


class Draw:
    """Answers a space's questions: with a given value where there is one that fits, else at random."""

    def __init__(self, generator: np.random.Generator, given: Mapping[str, Any]) -> None:
        """Take values by plain name, see `plain`."""
        self._generator, self._given = generator, given
        self.params: dict[str, Any] = {}
        self._features: dict[str, dict[str, float]] = {}
        self._context: list[str] = []

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """One of the choices."""
        given = self._given.get(plain(name), self)
        value = given if given in choices else choices[int(self._generator.integers(len(choices)))]
        largest = max((abs(one) for one in choices if _is_number(one)), default=0)
        if _is_number(value) and largest:
            self._note(name, value, {"~": value / largest})
        return self._note(name, value, {f"={value}": 1.0}, decisive=isinstance(value, str))

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """A whole number of the range."""
        given = self._given.get(plain(name))
        steps = (high - low) // step
        if log:
            drawn = round(math.exp(self._generator.uniform(math.log(low), math.log(high))))
        else:
            drawn = low + int(self._generator.integers(steps + 1)) * step
        value = given if isinstance(given, int) and low <= given <= high and (given - low) % step == 0 else drawn
        return int(self._note(name, int(value), _curve(value, low, high, log)))

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """A number of the range."""
        given = self._given.get(plain(name))
        if log:
            drawn = math.exp(self._generator.uniform(math.log(low), math.log(high)))
        elif step is None:
            drawn = self._generator.uniform(low, high)
        else:
            drawn = round(low + int(self._generator.integers(round((high - low) / step) + 1)) * step, 12)
        fits = isinstance(given, int | float) and not isinstance(given, bool) and low <= given <= high
        value = given if fits and given is not None else drawn
        return float(self._note(name, float(value), _curve(value, low, high, log)))

    def chain(self, stages: tuple[str, ...]) -> Chain:
        """What was answered; to be called when the space has asked everything."""
        return Chain(self.params, stages, {stage: self._features.get(stage, {"": 1.0}) for stage in stages})

    def _note(self, name: str, value: Any, features: Mapping[str, float], decisive: bool = False) -> Any:
        """Keep the answer; its features count alone and together with every method chosen in earlier stages."""
        self.params[name] = value
        stage = stage_of(name)
        known = self._features.setdefault(stage, {"": 1.0} | {f"&{method}": 1.0 for method in self._methods(stage)})
        for end, number in features.items():
            feature = plain(name) + end
            known[feature] = number
            known |= {f"{feature}&{method}": number for method in self._methods(stage)}
        if decisive:
            self._context.append(f"{plain(name)}={value}")
        return value

    def _methods(self, stage: str) -> list[str]:
        return [method for method in self._context if stage_of(method) != stage]


def draw_chain(
    space: Space, stages: tuple[str, ...], generator: np.random.Generator, given: Mapping[str, Any] | None = None
) -> Chain:
    """A chain with these values where the space asks for them and they fit, and random ones elsewhere."""
    draw = Draw(generator, given or {})
    space(draw)
    return draw.chain(stages)


def plain(name: str) -> str:
    """A setting's name without the list of choices that are left, as in `distil.layers[1|2]`."""
    return name.partition("[")[0]


def stage_of(name: str) -> str:
    """The stage that a setting belongs to."""
    return name.partition(".")[0]


def _curve(value: float, low: float, high: float, log: bool) -> dict[str, float]:
    """A straight and a bent feature of a number in a range."""
    if high == low:
        return {"~": 0.0}
    share = math.log(value / low) / math.log(high / low) if log else (value - low) / (high - low)
    centred = 2.0 * share - 1.0
    bent = math.log(value / low) / math.log(high / low) if low > 0 and not log else centred**2
    return {"~": centred, "^": 2.0 * bent - 1.0}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
