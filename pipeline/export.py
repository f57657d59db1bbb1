"""From the front to use: choose a model of a study, write it as a folder, check that it answers as it was measured."""

from __future__ import annotations

import argparse
import difflib
import json
import math
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import InputError

if TYPE_CHECKING:
    from pipeline.choice import Choice
    from pipeline.study_results import StudyResults

DONE, DIFFERS, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status.

    0 done; 1 what was written answers otherwise than the study's model; 2 bad input; 130 interrupted.
    """
    options = parser().parse_args(arguments)
    from pipeline.export_check import ExportedDiffers

    try:
        _export(options)
    except InputError as error:
        return _fail(error.problems, BAD_INPUT, options.json)
    except ExportedDiffers as error:
        return _fail([f"{error}; nothing was left at {options.to}"], DIFFERS, options.json)
    except OSError as error:
        return _fail([str(error)], BAD_INPUT, options.json)
    except KeyboardInterrupt:
        return _fail(["interrupted; nothing was written"], INTERRUPTED, options.json)
    return DONE


def _export(options: argparse.Namespace) -> None:
    """Choose, tell why, write, check, tell what to type next."""
    from pipeline.export_folder import already_exported, check_target, export_model
    from pipeline.export_wording import summary, told
    from pipeline.model_rows import warnings
    from pipeline.study_results import MODELS, read_results

    def say(line: str) -> None:
        if not (options.json or options.quiet):
            print(line, flush=True)

    if options.to is not None:
        check_target(Path(os.path.abspath(options.to)), options.overwrite)
    results = read_results(options.study)
    choice = chosen(results, options)
    named = options.to is not None
    options.to = options.to or options.study / MODELS / choice.row["model_key"]
    target = Path(os.path.abspath(options.to))
    there = None if named or options.overwrite else already_exported(target)
    if there is None:
        check_target(target, options.overwrite)
    for line in told(choice, results):
        say(line)
    unsafe = warnings(choice.row)
    for line in unsafe:
        print(f"WARNING: {line}; do not deploy it without a review of your own", file=sys.stderr, flush=True)
    store = options.store or results.store_place
    done = there or export_model(results, choice, target, store_root=store, overwrite=options.overwrite, say=say)
    following = f"python -m pipeline.predict {shlex.quote(str(options.to))} comments.txt"
    if options.json:
        print(json.dumps(summary(options.to, choice, done, unsafe, following), ensure_ascii=False, indent=1))
        return
    say(f"  {done.comparison or 'it was there already, each file as it was exported; --overwrite writes it anew'}")
    say(f"exported: {options.to} ({len(done.files)} files, {done.size_bytes / 2**20:.3g} MB; its README.md tells all)")
    say(f"next:\n  {following}")


def chosen(results: StudyResults, options: argparse.Namespace) -> Choice:
    """The model that the command line asks for.

    Raises:
        InputError: there is none, or the options do not fit together.
    """
    from pipeline.budgets import Budgets
    from pipeline.choice import REFERENCES, RULES, by_key, candidates, choose, reference

    budgets = Budgets(options.max_size_mb, options.max_latency_ms, options.min_speedup)
    if options.weights is not None and options.which != "best":
        raise InputError([f"--weights: belongs to best, not to {options.which}; leave it out, or ask for best"])
    if options.which not in RULES:
        if str(budgets):
            raise InputError(
                [f"{options.which!r}: names one model, so that no budget can choose; leave the budgets out"]
            )
        find = reference if options.which in REFERENCES else by_key
        return find(results.measured, options.which)
    if options.which == "best" and options.weights is None:
        raise InputError(["best: by which weights? add, for example, --weights f1=1,size=0.5,latency=0.5"])
    weights = parsed_weights(options.weights) if options.weights is not None else None
    rows = candidates(results.front, results.measured, results.limits, options.unsafe)
    return choose(rows, options.which, weights=weights, budgets=budgets)


def parsed_weights(text: str) -> dict[str, float]:
    """The weights of `f1=1,size=0.5,latency=0.5`; one left out is 0.

    Raises:
        InputError: an unknown name (says the nearest), no number of at least 0, or all 0.
    """
    from pipeline.choice import OBJECTIVES

    weights: dict[str, float] = {}
    for part in text.split(","):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if name not in OBJECTIVES:
            near = difflib.get_close_matches(name, OBJECTIVES, n=1)
            meant = f"; did you mean {near[0]!r}?" if near else ""
            known = f"has: {', '.join(OBJECTIVES)}; write, for example, f1=1,size=0.5,latency=0.5"
            raise InputError([f"--weights {part.strip()!r}: best weighs no {name!r}{meant} ({known})"])
        weights[name] = _number(value) if equals else math.nan
        if not (math.isfinite(weights[name]) and weights[name] >= 0):
            raise InputError([f"--weights {part.strip()!r}: give a number of at least 0, as in {name}=0.5"])
    if not any(weights.values()):
        raise InputError([f"--weights {text!r}: must not all be 0; raise one"])
    return weights


def _fail(problems: Sequence[str], status: int, as_json: bool) -> int:
    """Tell every problem; returns the status."""
    if as_json:
        print(json.dumps({"errors": list(problems)}, ensure_ascii=False, indent=1))
    else:
        for problem in problems:
            print(f"error: {problem}", file=sys.stderr)
    return status


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    made = argparse.ArgumentParser(
        prog="python -m pipeline.export",
        description="Write a model of a study as a folder to deploy. Named choices take one of the models that are "
        "safe on validation and not unsafe on test.",
        epilog="Exit status: 0 done; 1 the written model answers otherwise than the study's; 2 bad input.",
    )
    made.add_argument("study", type=Path, metavar="results/STUDY", help="folder of a study that has run")
    made.add_argument(
        "which",
        metavar="WHICH",
        help="knee, smallest, fastest, most_accurate, best (with --weights), teacher, floor, or the first digits "
        "of any model's key",
    )
    made.add_argument(
        "--to",
        type=Path,
        metavar="FOLDER",
        help="where to write it; must be new or empty (default: models/KEY in the study's folder, where a finished "
        "study has those it recommends)",
    )
    made.add_argument("--overwrite", action="store_true", help="replace the exported model that FOLDER holds")
    made.add_argument(
        "--weights", metavar="f1=1,size=0.5,latency=0.5", help="what best weighs, each scaled from 0 to 1"
    )
    made.add_argument(
        "--max-size-mb", type=_positive, metavar="MB", help="budget of the weight files; a tokenizer comes on top"
    )
    made.add_argument("--max-latency-ms", type=_positive, metavar="MS", help="budget of one comment's mean latency")
    made.add_argument("--min-speedup", type=_positive, metavar="X", help="times the teacher's speed, at least")
    made.add_argument("--unsafe", action="store_true", help="choose among all of the front, whatever the verdicts")
    made.add_argument(
        "--store", metavar="PLACE", help="folder or s3://BUCKET/PREFIX where the artifacts lie now, if they were moved"
    )
    made.add_argument("--json", action="store_true", help="print one JSON object, and nothing else")
    made.add_argument("--quiet", action="store_true", help="print warnings and errors alone")
    return made


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _positive(text: str) -> float:
    value = _number(text)
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return value


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    sys.exit(main())
