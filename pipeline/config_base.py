"""What the configs of all stages have in common: frozen, typed, and only what is used counts."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from pydantic import BaseModel, ConfigDict


class Config(BaseModel):
    """A frozen group of settings; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    def key_fields(self) -> dict[str, Any]:
        """The settings that decide the result, as plain JSON types: what a cache key is made of."""
        return self.model_dump(mode="json")


class StageConfig(Config):
    """Settings of a stage that has several methods; a setting counts only where it is used.

    A field made with `when(method=("a", "b"))` is used while the field `method`, which stands above it, is used itself
    and has one of these values. The value of `method` may chain several methods with `+`, in the order in which they
    are applied; one of them that matches is enough.
    """

    method: str

    @classmethod
    def is_used(cls, name: str, values: Mapping[str, Any]) -> bool:
        """Whether the setting `name` counts, given the values of all settings above it."""
        return all(
            key in values and not allowed.isdisjoint(str(values[key]).split("+"))
            for key, allowed in _conditions(cls)[name].items()
        )

    @property
    def methods(self) -> list[str]:
        """The methods in the order in which they are applied; empty for `none`."""
        return [] if self.method == "none" else self.method.split("+")

    def used(self) -> dict[str, Any]:
        """The settings that count, as plain JSON types."""
        used: dict[str, Any] = {}
        for name, value in self.model_dump(mode="json").items():
            if self.is_used(name, used):
                used[name] = value
        return used

    def key_fields(self) -> dict[str, Any]:
        return self.used()


@cache
def _conditions(config: type[StageConfig]) -> dict[str, dict[str, frozenset[str]]]:
    """By setting: the earlier settings that it depends on, with the values under which it is used."""
    conditions: dict[str, dict[str, frozenset[str]]] = {}
    for name, field in config.model_fields.items():
        extra: Any = field.json_schema_extra
        stated = extra.get("when", {}) if isinstance(extra, dict) else {}
        conditions[name] = {key: frozenset(allowed) for key, allowed in stated.items()}
    return conditions


def when(**conditions: tuple[str, ...]) -> dict[str, Any]:
    """For `Field(json_schema_extra=...)`: the values of earlier settings under which this one is used."""
    return {"when": {name: list(values) for name, values in conditions.items()}}
