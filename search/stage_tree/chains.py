"""Whole chains of settings, drawn from a define-by-run space, and their features stage by stage."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from itertools import combinations
from typing import Any, Protocol

import numpy as np

from search.stage_tree.effects import PAIR

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


@dataclass(frozen=True, eq=False)
class Answer:
    """A setting, its value, and what it was chosen from. `kept_answer` has one object for each: equals are the same."""

    name: str
    value: Any
    choices: tuple[Any, ...] = ()
    """Empty for a number of a range."""
    low: float = 0.0
    high: float = 0.0
    log: bool = False

    @cached_property
    def decides(self) -> bool:
        """Whether it is a word, such as a method: what later stages do may hang on it."""
        return isinstance(self.value, str)


kept_answer = lru_cache(maxsize=1 << 16, typed=True)(Answer)


@dataclass(frozen=True)
class Chain:
    """One point of the space, cut into stages."""

    answers: tuple[Answer, ...]
    stages: tuple[str, ...]

    @cached_property
    def params(self) -> Mapping[str, Any]:
        """As Optuna names them."""
        return {answer.name: answer.value for answer in self.answers}

    @cached_property
    def prefixes(self) -> tuple[Prefix, ...]:
        """The settings up to each stage, that one included."""
        parts: list[Prefix] = []
        before: Prefix = ()
        for stage in self.stages:
            before += tuple((plain(one.name), one.value) for one in self._by_stage[stage])
            parts.append(before)
        return tuple(parts)

    @cached_property
    def _by_stage(self) -> Mapping[str, tuple[Answer, ...]]:
        parts: dict[str, list[Answer]] = {stage: [] for stage in self.stages}
        for one in self.answers:
            parts[stage_of(one.name)].append(one)
        return {stage: tuple(answers) for stage, answers in parts.items()}

    def features(self, stage: str) -> Mapping[str, float]:
        """What the stage's effect is learnt from: its settings, alone and with each method of the stages before.

        And the products of any two of its numbers, under names with `PAIR`: whether they do more together.
        """
        before = self.stages[: self.stages.index(stage)]
        methods = tuple(one for earlier in before for one in self._by_stage[earlier] if one.decides)
        return _features(self._by_stage[stage], methods)

    def places(self, stage: str) -> Mapping[str, float]:
        """Where the settings up to this stage are among their choices, from -1 to 1; 1 for a word that was chosen."""
        upto = self.stages[: self.stages.index(stage) + 1]
        return _places(tuple(answer for one in upto for answer in self._by_stage[one]))

    def own(self, stage: str) -> Prefix:
        """The settings of this stage alone."""
        at = self.stages.index(stage)
        return self.prefixes[at][len(self.prefixes[at - 1]) if at else 0 :]


class Draw:
    """Answers a space's questions: with a given value where there is one that fits, else at random."""

    def __init__(self, generator: np.random.Generator, given: Mapping[str, Any]) -> None:
        """Take values by plain name, see `plain`."""
        self._generator, self._given = generator, given
        self.answers: list[Answer] = []

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """One of the choices."""
        given = self._given.get(plain(name), self)
        value = given if given in choices else choices[int(self._generator.random() * len(choices))]
        self.answers.append(kept_answer(name, value, tuple(choices)))
        return value

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """A whole number of the range."""
        given = self._given.get(plain(name))
        steps = (high - low) // step
        if log:
            drawn = round(math.exp(self._generator.uniform(math.log(low), math.log(high))))
        else:
            drawn = low + int(self._generator.integers(steps + 1)) * step
        value = given if isinstance(given, int) and low <= given <= high and (given - low) % step == 0 else drawn
        self.answers.append(kept_answer(name, int(value), (), low, high, log))
        return int(value)

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
        self.answers.append(kept_answer(name, float(value), (), low, high, log))
        return float(value)


def draw_chain(
    space: Space, stages: tuple[str, ...], generator: np.random.Generator, given: Mapping[str, Any] | None = None
) -> Chain:
    """A chain with these values where the space asks for them and they fit, and random ones elsewhere."""
    draw = Draw(generator, given or {})
    space(draw)
    return Chain(tuple(draw.answers), stages)


@cache
def plain(name: str) -> str:
    """A setting's name without the list of choices that are left, as in `distil.layers[1|2]`."""
    return name.partition("[")[0]


@cache
def stage_of(name: str) -> str:
    """The stage that a setting belongs to."""
    return name.partition(".")[0]


@lru_cache(maxsize=1 << 16)
def _features(answers: tuple[Answer, ...], methods: tuple[Answer, ...]) -> Mapping[str, float]:
    """Those of a stage's answers, each alone and together with each method."""
    with_methods = [""] + [f"&{plain(method.name)}={method.value}" for method in methods]
    alone = {"": 1.0}
    for answer in answers:
        alone |= {plain(answer.name) + end: number for end, number in _numbers(answer).items()}
    ordered = [(plain(answer.name), place) for answer in answers if (place := _place(answer)) is not None]
    pairs = {one + PAIR + other: here * there for (one, here), (other, there) in combinations(ordered, 2)}
    return {name + method: number for method in with_methods for name, number in alone.items()} | pairs


@lru_cache(maxsize=1 << 16)
def _places(answers: tuple[Answer, ...]) -> Mapping[str, float]:
    words = {f"{plain(one.name)}={one.value}": 1.0 for one in answers if one.decides and len(one.choices) > 1}
    return words | {plain(one.name): place for one in answers if (place := _place(one)) is not None}


def _numbers(answer: Answer) -> dict[str, float]:
    """An answer as numbers, by what they are added to the setting's name with."""
    if not answer.choices:
        return _curve(answer.value, answer.low, answer.high, answer.log)
    found = {f"={answer.value}": 1.0}
    largest = max((abs(one) for one in answer.choices if _is_number(one)), default=0)
    return found | ({"~": answer.value / largest} if _is_number(answer.value) and largest else {})


def _place(answer: Answer) -> float | None:
    """Where a number is among those that were possible, from -1 to 1; None for a word, and where there is one alone."""
    if not answer.choices:
        return _curve(answer.value, answer.low, answer.high, answer.log)["~"] if answer.high > answer.low else None
    if len(answer.choices) < 2 or not all(_is_number(choice) for choice in answer.choices):
        return None
    return 2.0 * sorted(answer.choices).index(answer.value) / (len(answer.choices) - 1) - 1.0


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
