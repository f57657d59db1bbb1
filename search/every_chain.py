"""Every chain of a space whose settings are listed or have steps: to run it whole, or to know its best front."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from search.config import StudyConfig
from search.space import Space


def every_chain(config: StudyConfig) -> Iterator[dict[str, Any]]:
    """The settings of each chain of the space, those that share a prefix one after another.

    Raises:
        ValueError: a searched setting has a range without steps.
    """
    space = Space(config)
    path: list[int] | None = []
    while path is not None:
        enumeration = _Enumeration(path)
        yield space.suggest(enumeration)
        path = enumeration.next_path()


class _Enumeration:
    """Answers a space's questions along one path; `next_path` gives the path after it, depth first."""

    def __init__(self, path: Sequence[int]) -> None:
        self._path, self._taken = list(path), list[tuple[int, int]]()

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """The choice that the path says, or the first."""
        return choices[self._index(len(choices))]

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """The step that the path says, or the lowest."""
        return low + step * self._index((high - low) // step + 1)

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """The step that the path says, or the lowest."""
        if step is None:
            raise ValueError(f"{name}: a range without steps has no last chain; give it a `step`, or list its choices")
        return low + step * self._index(math.floor((high - low) / step + 1e-9) + 1)

    def next_path(self) -> list[int] | None:
        """The next path; None after the last."""
        taken = list(self._taken)
        while taken and taken[-1][0] + 1 == taken[-1][1]:
            taken.pop()
        return [index for index, _ in taken[:-1]] + [taken[-1][0] + 1] if taken else None

    def _index(self, count: int) -> int:
        at = len(self._taken)
        index = self._path[at] if at < len(self._path) else 0
        self._taken.append((index, count))
        return index
