"""`results/STUDY/logs/trial_0012.log`: what a trial did and when, stage by stage, a file a trial.

The driver writes what the trials report. What the workers themselves print goes to Ray's logs, which its dashboard
shows.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline.study_results import STORED_AS
from search.lean import TRACEBACK
from search.progress import in_words
from search.study_keys import ERROR
from search.trial import Row
from search.trial_names import short_name
from search.wording import duration

FOLDER = "logs"
MOST_LINES = 200
"""Of an error's text; the last ones are kept."""
_ATTEMPT = re.compile(r"^\S+  attempt \d+ begins: ", re.MULTILINE)
_JOINERS = "\u200c\u200d"
"""Format characters that Bangla is written with."""


@dataclass
class _Attempt:
    """A trial that runs."""

    stage: str | None = None
    """At work since `since`."""
    since: float = 0.0
    has_place: bool = False
    has_traceback: bool = False


class TrialLogs:
    """Appends to the trials' logs. A log that cannot be written, for a full disk, never ends the search."""

    def __init__(self, folder: Path, warn: Callable[[str], None]) -> None:
        """Write below `folder`, made when first needed; `warn` is told the first line that was lost, and no other."""
        self._folder, self._warn = folder, warn
        self._warned = False
        self._running: dict[int, _Attempt] = {}

    def begins(self, number: int, name: str, params: Mapping[str, Any]) -> None:
        """A worker took the trial, for the first time or once more; attempts of an earlier run of the study count."""
        self._running[number] = _Attempt()
        attempt = 1 + self._attempts(number)
        lines = [f"attempt {attempt} begins: {name}"]
        if attempt == 1:
            lines.append("settings: " + ", ".join(f"{key}={value}" for key, value in params.items()))
        self._append(number, lines)

    def reports(self, number: int, result: Mapping[str, Any], fresh: Sequence[Row] = ()) -> None:
        """Write a report of `search.worker`: a stage that begins, a model that is measured, an error.

        Args:
            number: of the trial.
            result: the report.
            fresh: those of its rows that the report before it had not.
        """
        attempt = self._running.setdefault(number, _Attempt())
        lines: list[str] = []
        if not attempt.has_place:
            attempt.has_place = True
            lines.append(f"runs on {result.get('hostname')} ({result.get('node_ip')}), process {result.get('pid')}")
        if attempt.stage and ERROR not in result and attempt.stage != result.get("at_stage"):
            lines.append(f"{attempt.stage} ends after {_lasted(attempt)}")
            attempt.stage = None
        lines += [_row_line(row) for row in fresh if row.get("model_key")]
        if ERROR in result:
            lines += [f"error{_place(attempt)}: {result[ERROR]}", *_indented(str(result.get(TRACEBACK, "")))]
            attempt.stage, attempt.has_traceback = None, True
        elif attempt.stage is None and result.get("at_stage") in STORED_AS.values():
            attempt.stage, attempt.since = str(result["at_stage"]), time.monotonic()
            lines.append(f"{attempt.stage} begins")
        self._append(number, lines)

    def breaks_off(self, number: int, why: str) -> None:
        """The attempt failed; `why` is told unless the trial has said so itself."""
        attempt = self._running.pop(number, _Attempt())
        told = [] if attempt.has_traceback else _indented(why)
        self._append(number, [f"attempt failed{_place(attempt)}", *told])

    def ends(self, number: int, how: str) -> None:
        """The trial has ended, and is not run again."""
        self._running.pop(number, None)
        self._append(number, [f"trial ended: {how}"])

    def _file(self, number: int) -> Path:
        return self._folder / f"{short_name(number)}.log"

    def _attempts(self, number: int) -> int:
        file = self._file(number)
        try:
            text = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
        except OSError:
            return 0
        return len(_ATTEMPT.findall(text))

    def _append(self, number: int, lines: list[str]) -> None:
        if not lines:
            return
        stamp = datetime.now(UTC).isoformat(timespec="seconds")
        text = "".join(f"{stamp}  {printable(line)}\n" for line in lines)
        try:
            self._write(self._file(number), text)
        except OSError as error:
            if not self._warned:
                self._warned = True
                self._warn(
                    f"{self._file(number)}: cannot be written ({error.strerror or error}); the search goes "
                    "on, lines of the trials' logs are lost until it can be"
                )

    def _write(self, file: Path, text: str) -> None:
        try:
            opened = file.open("a", encoding="utf-8")
        except FileNotFoundError:
            self._folder.mkdir(parents=True, exist_ok=True)
            opened = file.open("a", encoding="utf-8")
        with opened:
            opened.write(text)


def printable(text: str) -> str:
    """The text on one line; control characters, changes of direction and the like are written as escapes."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() or character in _JOINERS else _escaped(character) for character in text
    )


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def _indented(text: str) -> list[str]:
    return [f"    {line.expandtabs()}" for line in text.strip().splitlines()[-MOST_LINES:]]


def _place(attempt: _Attempt) -> str:
    return f" in {attempt.stage} after {_lasted(attempt)}" if attempt.stage else ""


def _lasted(attempt: _Attempt) -> str:
    seconds = time.monotonic() - attempt.since
    return f"{seconds:.1f} s" if seconds < 60 else duration(seconds)


def _row_line(row: Row) -> str:
    seconds = row.get("stage_seconds")
    built = "" if seconds is None else f"built in {seconds:.1f} s"
    origin = "found in the store" + (f" ({built} once)" if built else "") if row.get("cache_hit") else built
    return "; ".join(filter(None, [f"{row['stage']} {row['model_key'][:12]}: {in_words(row)}", origin]))
