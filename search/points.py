"""Points of a study: settings of a chain that is tried first. All that a point names is what runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from search.compatibility import TeacherShape, allowed, deciding, obstacle, telling_values
from search.config import STAGES, Choices, Range, Setting

KEYS = tuple(f"{stage}.{name}" for stage, model in STAGES.items() for name in model.model_fields)
"""Every setting that may be searched, in the order of the chain."""
BOUNDS = {
    "distil.smallest_ngram": "distil.longest_ngram",
    "prune.sparsity": "prune.initial_sparsity",
    "prune.begin_fraction": "prune.end_fraction",
}
"""Numbers with those that have to be larger or smaller."""


class Point:
    """Settings that a point names, and those that have to be settled for all of these to count.

    What a point leaves open stays open unless some value of it would keep a named setting from counting, or from having
    its value: then it is settled to the first value that does not.
    """

    def __init__(
        self, named: Mapping[str, Any], settings: Mapping[str, Mapping[str, Setting]], teacher: TeacherShape
    ) -> None:
        """Settle what has to be.

        Args:
            named: values by key, each of them one of its setting's.
            settings: of each stage, by name, such that no value of a range meets an obstacle.
            teacher: what is known of it.
        """
        self._settings, self._teacher = settings, teacher
        self.named = {key: as_held(self._setting(key), named[key]) for key in KEYS if key in named}
        """Values by key, in the order of the chain."""
        self._last = max(map(KEYS.index, named), default=-1)
        self._possible: dict[str, bool] = {}
        self._done: set[str] = set()
        self._given, self._names = dict(self.named), dict[str, Any]()
        self.kept = self._settle(0, {})
        """Whether all that is named counts."""

    @property
    def names(self) -> dict[str, Any]:
        """What is named and what is settled, under all names by which a search may ask for it."""
        return dict(self._names)

    def why_not(self, key: str, value: Any) -> str:
        """Why a setting that is below all of these cannot be named too."""
        above = self._above(KEYS.index(key), 0, {}, set())
        if above is not None:
            return str(obstacle(key, as_held(self._setting(key), value), above, self._teacher))
        stage, name = key.split(".")
        extra: Any = STAGES[stage].model_fields[name].json_schema_extra
        needs = " and ".join(f"{stage}.{other}={' or '.join(values)}" for other, values in extra["when"].items())
        return f"counts only with {needs}, which cannot be here; take it out, or change what stands above it"

    def _above(self, end: int, position: int, params: dict[str, Any], dead: set[str]) -> dict[str, Any] | None:
        """Settings above the one at `end`, those that are named among them, with which it is used."""
        if position == end:
            return params if self._is_used(end, params) else None
        state, key = self._state(position, params), KEYS[position]
        following = [params]
        if self._is_used(position, params):
            following = [{**params, key: value} for value in self._values(key, params, self.named)]
        elif key in self.named:
            following = []
        found = (self._above(end, position + 1, each, dead) for each in following if state not in dead)
        above = next((each for each in found if each is not None), None)
        if above is None:
            dead.add(state)
        return above

    def _settle(self, position: int, params: Mapping[str, Any]) -> bool:
        """Settle what has to be from this place on; False if something that is named cannot count."""
        if position > self._last or (state := self._state(position, params)) in self._done:
            return True
        if not self._can_follow(position, params):
            return False
        if not self._is_used(position, params):
            return self._settle(position + 1, params)
        key = KEYS[position]
        values = self._values(key, params, self._given)
        before = dict(self._given), dict(self._names), set(self._done)
        found = key not in self._given and not self._bounds_a_list(key, params)
        found = found and all(self._settle(position + 1, {**params, key: value}) for value in values)
        for value in () if found else values:
            self._given, self._names, self._done = dict(before[0]), dict(before[1]), set(before[2])
            self._given[key] = self._names[self._name(key, params)] = value
            if found := self._settle(position + 1, {**params, key: value}):
                break
        if found:
            self._done.add(state)
        return found

    def _can_follow(self, position: int, params: Mapping[str, Any]) -> bool:
        """Whether something can follow in which all counts that is named from this place on."""
        if position > self._last:
            return True
        state = self._state(position, params)
        if state not in self._possible:
            key = KEYS[position]
            if self._is_used(position, params):
                following = ({**params, key: value} for value in self._values(key, params, self.named))
                self._possible[state] = any(self._can_follow(position + 1, each) for each in following)
            else:
                self._possible[state] = key not in self.named and self._can_follow(position + 1, params)
        return self._possible[state]

    def _values(self, key: str, params: Mapping[str, Any], given: Mapping[str, Any]) -> Sequence[Any]:
        """The given value if it fits; where none is given, those that differ in what can follow them."""
        setting = self._setting(key)
        if key not in given:
            return telling_values(key, setting, params, self._teacher)
        value = given[key]
        return [value] if isinstance(setting, Range) or value in allowed(key, setting, params, self._teacher) else []

    def _bounds_a_list(self, key: str, params: Mapping[str, Any]) -> bool:
        """Whether what is left of a named setting, and so its name, hangs on where in its range this one is."""
        bounded = BOUNDS.get(key)
        if bounded not in self.named or not isinstance(listed := self._setting(bounded), Choices):
            return False
        values = self._values(key, params, self._given)
        return len({allowed(bounded, listed, {**params, key: value}, self._teacher) for value in values}) > 1

    def _name(self, key: str, params: Mapping[str, Any]) -> str:
        setting = self._setting(key)
        fitting = allowed(key, setting, params, self._teacher) if isinstance(setting, Choices) else ()
        return asked_name(key, setting, fitting)

    def _is_used(self, position: int, params: Mapping[str, Any]) -> bool:
        stage, name = KEYS[position].split(".")
        above = {key.partition(".")[2]: value for key, value in params.items() if key.startswith(f"{stage}.")}
        return STAGES[stage].is_used(name, above)

    def _setting(self, key: str) -> Setting:
        stage, name = key.split(".")
        return self._settings[stage][name]

    def _state(self, position: int, params: Mapping[str, Any]) -> str:
        return f"{position} {deciding(KEYS[position].partition('.')[0], params)}"


def lost_settings(
    named: Mapping[str, Any], settings: Mapping[str, Mapping[str, Setting]], teacher: TeacherShape
) -> dict[str, str]:
    """Of a point's settings those that cannot count with the ones above them, with the reason; see `Point`."""
    kept = Point({}, settings, teacher)
    lost: dict[str, str] = {}
    for key in filter(named.__contains__, KEYS):
        longer = Point({**kept.named, key: named[key]}, settings, teacher)
        if longer.kept:
            kept = longer
        else:
            lost[key] = kept.why_not(key, named[key])
    return lost


def asked_name(key: str, setting: Setting, fitting: Sequence[Any]) -> str:
    """The name by which a search asks: of a listed setting that has lost some of its values, with those that fit."""
    if not isinstance(setting, Choices) or len(fitting) == len(setting.choices):
        return key
    return f"{key}[{'|'.join(map(str, fitting))}]"


def holds(setting: Setting, value: Any) -> bool:
    """Whether a value is one of a setting's."""
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


def as_held(setting: Setting, value: Any) -> Any:
    """A value as the setting has it: a table may have made 2.0 of 2."""
    if isinstance(setting, Choices):
        return next((choice for choice in setting.choices if choice == value), value)
    whole = isinstance(setting, Range) and isinstance(setting.low, int) and isinstance(setting.high, int)
    return int(value) if whole and not isinstance(value, str) else value
