"""What faults do to a search: each is put on a running study, at a random moment, and the end is compared.

    python benchmarks/faults.py [--kinds 'driver killed' hang] [--repeats 3] [--keep FOLDER] [--json FILE]

The smoke study runs undisturbed first, once in each setting that is needed: on this machine alone, on a cluster of
three raylets, with its store on an S3 server. Then it runs with a fault, each time from an empty store and results
folder, as a process of `search/pareto.py`. The table says how often the fault hit, how often the study came to the same
end (same exit status, every trial in the same state), how much of what was finished before the fault was lost or done
again, and whether the final rows are those of the undisturbed run, timings apart.

Everything is put on from outside: signals to real processes, bytes on the disk, a server that is held up. Only the hang
and the endless allocation come from a `sitecustomize.py` that the run's interpreters load. Needs Linux, and for a full
disk the right to mount a file system. Exit status: 0 when all holds, 1 when something does not.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from random import Random

from fault_injection.flips import FILE_KINDS, FLIPPED, flipped
from fault_injection.kinds import Kind, kinds, limits_broken
from fault_injection.outcomes import Outcome, as_json, end_of, show, summarised
from fault_injection.processes import adopt_orphans, end_all
from fault_injection.runs import ROOT, Reference, Run, Unfinished, placed, reference_of
from fault_injection.storage import NotPossible
from rich.console import Console

OVERRIDES = ("search.sampler=random", "search.trials=6", "search.stop_margin=1", "measure.seconds=0.05")


def main() -> int:
    """Put the faults on, print the table; 0 when all holds."""
    arguments = parsed()
    adopt_orphans()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    console = Console(width=140, highlight=False)
    folder = arguments.keep or Path(tempfile.mkdtemp(prefix="faults-"))
    folder.mkdir(parents=True, exist_ok=True)
    bench = Bench(folder, arguments.study, (*OVERRIDES, *arguments.set), arguments.seed, console)
    end = time.monotonic() + 60 * arguments.minutes
    try:
        for name in arguments.kinds:
            for repeat in range(arguments.repeats):
                if time.monotonic() > end:
                    bench.outcomes += [Outcome(fault, repeat, told="no time left") for fault in rows_of(name)]
                    continue
                bench.put_on(name, repeat)
                end_all()
    finally:
        end_all()
        if not arguments.keep:
            shutil.rmtree(folder, ignore_errors=True)
    rows = summarised(bench.outcomes, arguments.repeats)
    show(rows, bench.outcomes, console)
    if arguments.json:
        told = {
            "undisturbed_seconds": {", ".join(named): one.seconds for named, one in bench.references.items()},
            "faults": rows,
            "runs": as_json(bench.outcomes),
        }
        arguments.json.write_text(json.dumps(told, indent=1), encoding="utf-8")
    return 0 if all(row["holds"] or not row["possible"] for row in rows) else 1


class Bench:
    """The undisturbed runs, and the outcomes so far."""

    def __init__(self, folder: Path, study: Path, overrides: tuple[str, ...], seed: int, console: Console) -> None:
        """Work below `folder`; `seed` decides the moments and the victims."""
        self.references: dict[tuple[str, ...], Reference] = {}
        """By setting and by what makes another study of it."""
        self.outcomes: list[Outcome] = []
        self._folder, self._study, self._overrides, self._seed = folder, study, overrides, seed
        self._console = console

    def put_on(self, name: str, repeat: int) -> None:
        """One fault; whatever goes wrong is an outcome too."""
        rng = Random(f"{self._seed} {name} {repeat}")
        place = self._folder / f"{name.replace(': ', '-').replace(' ', '_')}-{repeat}"
        try:
            if name == FLIPPED:
                self._told(self._flipped(place, rng, repeat))
            else:
                self._told([self._injected(kinds()[name], place, rng, repeat)])
        except NotPossible as error:
            self._told([Outcome(fault, repeat, told=str(error), possible=False) for fault in rows_of(name)])
        except Exception as error:  # the other kinds shall run all the same
            self._console.print(traceback.format_exc(), markup=False)
            told = f"{type(error).__name__}: {error}"
            self._told([Outcome(fault, repeat, told=told) for fault in rows_of(name)])

    def _injected(self, kind: Kind, place: Path, rng: Random, repeat: int) -> Outcome:
        reference = self._reference(kind.setting, kind.study)
        overrides = (*self._overrides, *kind.study, *kind.overrides)
        with placed(kind.setting, place, self._study, overrides) as run, kind.prepare(run, reference, rng):
            started = time.monotonic()
            run.start()
            try:
                injected = kind.inject(run, reference, rng)
            except Unfinished as error:
                return Outcome(kind.name, repeat, told=str(error))
            status, needless = self._to_the_end(run, kind, reference)
            extra = time.monotonic() - started - reference.seconds
            end = end_of(run, reference, injected.before, status)
            end.problems.extend([*filter(None, [needless]), *limits_broken(run)])
            return Outcome(kind.name, repeat, True, injected.told, extra_seconds=extra, **vars(end))

    def _to_the_end(self, run: Run, kind: Kind, reference: Reference) -> tuple[int | None, str]:
        """The exit status of the last process, and why the study was resumed if it should not have needed that."""
        status = run.wait(reference.patience)
        if kind.resume == "always" or status not in (reference.status, None):
            needless = "" if kind.resume != "never" else f"ended with status {status} before --resume: {run.told()}"
            run.start(resume=True)
            return run.wait(reference.patience), needless
        return status, ""

    def _flipped(self, place: Path, rng: Random, repeat: int) -> list[Outcome]:
        reference = self._reference("local")
        with placed("local", place, self._study, self._overrides) as run:
            try:
                return flipped(run, reference, rng, repeat)
            except Unfinished as error:
                return [Outcome(fault, repeat, told=str(error)) for fault in rows_of(FLIPPED)]

    def _reference(self, setting: str, study: tuple[str, ...] = ()) -> Reference:
        """The undisturbed run of a setting, made when it is first needed."""
        named = (setting, *study)
        if named not in self.references:
            place = self._folder / f"undisturbed-{len(self.references) + 1}"
            with placed(setting, place, self._study, (*self._overrides, *study)) as run:
                self.references[named] = made = reference_of(run)
            told = f"undisturbed, {', '.join(named)}: {made.seconds:.0f} s, {len(made.rows)} rows"
            self._console.print(told, markup=False, soft_wrap=True)
        return self.references[named]

    def _told(self, outcomes: Sequence[Outcome]) -> None:
        for outcome in outcomes:
            verdict = "holds" if outcome.holds else "not possible here" if not outcome.possible else "DOES NOT HOLD"
            told = "; ".join([outcome.told, *outcome.problems[:1], *outcome.differences[:1]])
            line = f"{outcome.fault}, {outcome.repeat + 1}: {verdict} ({told})"
            self._console.print(line, markup=False, soft_wrap=True)
        self.outcomes += outcomes


def rows_of(name: str) -> list[str]:
    """The rows of the table that a name of `--kinds` has."""
    return [f"{FLIPPED}: {kind}" for kind in FILE_KINDS] if name == FLIPPED else [name]


def parsed() -> argparse.Namespace:
    """The command line."""
    known = [*kinds(), FLIPPED]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", default=known, choices=known, metavar="KIND")
    parser.add_argument("--repeats", type=int, default=3, help="injections of each kind")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and the victims")
    parser.add_argument("--minutes", type=float, default=55.0, help="after which no further injection starts")
    parser.add_argument("--study", type=Path, default=ROOT / "search" / "studies" / "smoke.yaml", help="study file")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a key of the study")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep every run's place below this folder")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    parser.epilog = "kinds: " + ", ".join(known)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
