"""Is an exported model safe enough to replace another? `python -m evaluation.gate FOLDER --baseline FOLDER --data CSV`.

For a user's own continuous integration: the exit status is 0 only for `safe`. It fails closed: what cannot be computed,
or not be decided with so few comments, is 1, as a loss beyond a limit is.
"""

from __future__ import annotations

import argparse
import difflib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from evaluation.gate_result import GateResult, gate
from evaluation.labelled import listed, read_labelled
from evaluation.safety import SafetyLimits
from pipeline.arguments import thread_count
from pipeline.deployed import Deployed, load_deployed
from pipeline.duplicates import DuplicateReport
from pipeline.errors import InputError
from pipeline.reading import counted

if TYPE_CHECKING:
    from rich.console import Console

SAFE, NOT_SAFE, BAD_INPUT = 0, 1, 2
LIMITS: Final = {
    "f1": "max_f1_drop",
    "critical_f1": "max_critical_f1_drop",
    "critical_recall": "max_critical_recall_drop",
    "confidence": "confidence",
}
"""What `--limits` may name, and the field of `SafetyLimits` that it sets."""
_AS_OPTIONS = {
    "data.path=": "--data ",
    "data.text_column=": "--text-column ",
    "data.label_columns=": "label ",
    "safety.": "--limits ",
}
"""What the reader calls by the keys of a study, as this command calls it."""


@dataclass(frozen=True)
class Pair:
    """Two exported models that answer with the same labels."""

    candidate: Deployed
    baseline: Deployed

    @classmethod
    def open(cls, candidate: Path, baseline: Path, threads: int) -> Pair:
        """Both folders; raises InputError with every problem of both."""
        opened: list[Deployed] = []
        problems: list[str] = []
        for folder in (candidate, baseline):
            try:
                opened.append(load_deployed(folder, threads))
            except InputError as error:
                problems += error.problems
        if problems:
            raise InputError(problems)
        pair = cls(*opened)
        theirs = pair.baseline.decisions.labels
        if set(pair.labels) != set(theirs):
            raise InputError(
                [
                    f"{candidate} answers {listed(pair.labels)}, {baseline} answers {listed(theirs)}; "
                    "compare models of the same labels"
                ]
            )
        return pair

    @property
    def labels(self) -> tuple[str, ...]:
        """Of both, in the candidate's order."""
        return self.candidate.decisions.labels

    def critical_label(self, named: str | None) -> str:
        """The label named, else the one that both folders name; raises InputError if there is no such one."""
        ours, theirs = (model.decisions.critical_label for model in (self.candidate, self.baseline))
        if named is None and ours != theirs:
            problem = f"the model's critical label is {ours!r}, the baseline's {theirs!r}; choose with --critical-label"
            raise InputError([problem])
        if named is not None and named not in self.labels:
            near = difflib.get_close_matches(named, self.labels, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"the labels are {listed(self.labels)}"
            raise InputError([f"--critical-label {named!r}: no such label; {hint}"])
        return ours if named is None else named

    def decisions(self, texts: Sequence[str]) -> tuple[NDArray[np.int8], NDArray[np.int8]]:
        """What the baseline and the candidate say of each comment, 0 or 1, [comments, labels] in `labels`' order."""
        order = [self.baseline.decisions.labels.index(label) for label in self.labels]
        return _decided(self.baseline, texts)[:, order], _decided(self.candidate, texts)


def _decided(model: Deployed, texts: Sequence[str]) -> NDArray[np.int8]:
    probabilities = model.probabilities(texts)
    strange = ~np.isfinite(probabilities).all(axis=1)
    if strange.any():  # compared with a threshold, NaN would pass for "no"
        raise InputError(
            [f"{model.folder}: no probability for {counted(int(strange.sum()), 'comment')} (not a number)"]
        )
    return model.decide(probabilities)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 0 safe, 1 unsafe or inconclusive, 2 bad input."""
    options = parser().parse_args(arguments)
    try:
        pair = Pair.open(options.folder, options.baseline, options.threads)
        limits = _limits(pair.critical_label(options.critical_label), options.limits)
        comments = read_labelled(options.data, pair.labels, options.text_column, options.separator)
        progress = _console(stderr=True, quiet=options.quiet or options.json)
        with progress.status(f"asking both models about {counted(len(comments.texts), 'comment')}"):
            baseline, candidate = pair.decisions(comments.texts)
        result = gate(comments.labels, baseline, candidate, pair.labels, limits)
    except InputError as error:
        print(*(f"error: {_in_options(problem)}" for problem in error.problems), sep="\n", file=sys.stderr)
        return BAD_INPUT
    if options.json:
        counts = {"rows": comments.duplicates.rows, "duplicate_rows": comments.duplicates.duplicate_rows}
        folders = {"model": str(options.folder), "baseline": str(options.baseline), "data": options.data}
        print(json.dumps(folders | counts | result.as_json(), ensure_ascii=False, indent=1, allow_nan=False))
    else:
        _show(result, comments.duplicates, options.quiet)
    return SAFE if result.safety.safe_for_deployment else NOT_SAFE


def _show(result: GateResult, duplicates: DuplicateReport, quiet: bool) -> None:
    if not quiet:
        critical = repr(result.limits.critical_label)
        _console().print(result.as_table())
        print(f"at most: with {result.limits.level} confidence the drop is no larger")
        print(f"{counted(result.comments, 'different comment')}, {result.critical_positives:,} of them {critical}")
        print(f"{counted(duplicates.duplicate_rows, 'row')} with a text seen before, not counted again")
        if duplicates.conflicting_texts:
            print(f"{counted(duplicates.conflicting_texts, 'text')} with conflicting labels: the majority decides")
    print(result.why)


def _console(stderr: bool = False, quiet: bool = False) -> Console:
    from rich.console import Console

    return Console(stderr=stderr, quiet=quiet, highlight=False)


def _limits(critical_label: str, named: dict[str, float]) -> SafetyLimits:
    try:
        return SafetyLimits(critical_label, **{LIMITS[name]: value for name, value in named.items()})
    except ValueError as error:
        raise InputError([str(error)]) from error


def _in_options(problem: str) -> str:
    for key, option in _AS_OPTIONS.items():
        if problem.startswith(key):
            problem = option + problem.removeprefix(key)
    return problem.replace("set data.separator=", "give --separator ")


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    made = argparse.ArgumentParser(
        prog="python -m evaluation.gate",
        description="Judge an exported model against another on labelled comments: what it loses of macro F1, of the "
        "critical label's F1 and of its recall, each with an upper bound.",
        epilog="Exit status: 0 safe; 1 unsafe, inconclusive, or not to be computed; 2 bad input.",
    )
    made.add_argument("folder", type=Path, metavar="FOLDER", help="the model, as `python -m pipeline.export` wrote it")
    made.add_argument(
        "--baseline", type=Path, required=True, metavar="FOLDER", help="the exported model that it would replace"
    )
    made.add_argument(
        "--data", required=True, metavar="CSV", help="labelled comments that neither model has learnt from"
    )
    made.add_argument("--text-column", metavar="NAME", help="column of the comments; left out: the only one with words")
    made.add_argument(
        "--separator", type=_separator, metavar="CHARACTER", help="of the CSV file, or tab; left out: the one that fits"
    )
    made.add_argument(
        "--limits",
        type=_limit_values,
        default={},
        metavar="f1=0.05,critical_f1=0.03,critical_recall=0.03",
        help="largest drops, absolute (these are the defaults); confidence=0.95 sets the level of the bounds",
    )
    made.add_argument("--critical-label", metavar="NAME", help="left out: the one that both folders name")
    made.add_argument("--threads", type=thread_count, default=1, help="of each model's runtime (default 1)")
    output = made.add_mutually_exclusive_group()
    output.add_argument("--json", action="store_true", help="print the result as JSON")
    output.add_argument("--quiet", action="store_true", help="print the verdict alone, in one line")
    return made


def _separator(text: str) -> str:
    character = {"tab": "\t", "\\t": "\t"}.get(text, text)
    if len(character) != 1 or character in '"\r\n\0':
        raise argparse.ArgumentTypeError(f"{text!r} is not one character; give ',', ';', '|' or tab")
    return character


def _limit_values(text: str) -> dict[str, float]:
    values: dict[str, float] = {}
    for part in text.split(","):
        name, _, number = (piece.strip() for piece in part.partition("="))
        if name not in LIMITS:
            near = difflib.get_close_matches(name, LIMITS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(LIMITS)}"
            raise argparse.ArgumentTypeError(f"{part!r}: no such limit; {hint}")
        try:
            values[name] = float(number)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{part!r}: must be {name}=NUMBER, as in {name}=0.03") from error
    return values


if __name__ == "__main__":
    sys.exit(main())
