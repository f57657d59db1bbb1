"""What is raised when the user's input cannot be used."""

from __future__ import annotations

from collections.abc import Sequence


class InputError(ValueError):
    """Bad input or config: every problem found, each with its key, its value and the remedy."""

    problems: list[str]

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__(list(problems))  # args as given, so that the error survives pickling between processes
        self.problems = list(problems)

    def __str__(self) -> str:
        return "\n".join(self.problems)
