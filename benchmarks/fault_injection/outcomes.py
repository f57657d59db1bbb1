"""What came of each injected fault, and the table of all."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from .evidence import Evidence, built_again, lost, row_differences, run_again
from .runs import Reference, Run


@dataclass
class Outcome:
    """One fault, put on one run."""

    fault: str
    repeat: int
    injected: bool = False
    told: str = ""
    """What was done, in words, or why it was not."""
    problems: list[str] = field(default_factory=list)
    """In words, what keeps it from having survived."""
    lost: list[str] = field(default_factory=list)
    """Models and artifacts that were finished before the fault, and not there at the end."""
    run_again: list[int] = field(default_factory=list)
    """Trials that were complete before the fault, and ran again."""
    built_again: list[str] = field(default_factory=list)
    """Artifacts that were finished before the fault, and were built again."""
    differences: list[str] = field(default_factory=list)
    """What the final rows differ in from the undisturbed run's."""
    extra_seconds: float | None = None
    """Beyond the undisturbed run, resumption included."""
    possible: bool = True
    """False where the machine does not allow the fault."""

    @property
    def survived(self) -> bool:
        """Whether the study came to the undisturbed run's end."""
        return self.injected and not self.problems

    @property
    def holds(self) -> bool:
        """Whether everything is as if nothing had been."""
        return self.survived and not (self.lost or self.run_again or self.built_again or self.differences)


@dataclass(frozen=True)
class End:
    """What a run has come to."""

    problems: list[str]
    lost: list[str]
    run_again: list[int]
    built_again: list[str]
    differences: list[str]


def end_of(run: Run, reference: Reference, before: Evidence, status: int | None, but: Collection[str] = ()) -> End:
    """Compare a finished run with the undisturbed one.

    Args:
        run: all of whose processes have ended.
        reference: the undisturbed run.
        before: what was finished when the fault came.
        status: of the last process; None when it had to be killed.
        but: damaged artifacts, which are to be built again when they are next asked for.
    """
    problems = []
    if status != reference.status:
        how = "had to be killed" if status is None else f"ended with status {status}"
        problems.append(f"{how}, the undisturbed one with {reference.status}: {run.told()}")
    after = run.evidence()
    states = {number: state for number, (state, _) in after.trials.items()}
    expected = {number: state for number, (state, _) in reference.evidence.trials.items()}
    problems += [
        f"trial {number} is {states.get(number, 'missing')}, was {state}"
        for number, state in expected.items()
        if states.get(number) != state
    ]
    try:
        differences = row_differences(reference.rows, run.rows())
    except (OSError, ValueError) as error:
        differences = [f"no rows: {error}"]
    return End(
        problems,
        [name for name in lost(before, after) if name not in but],
        run_again(before, after, len(expected)),
        [name for name in built_again(before, after) if name not in but],
        differences,
    )


def summarised(outcomes: Sequence[Outcome], repeats: int) -> list[dict[str, Any]]:
    """A row for each fault, in their order, with the sums and medians over its repeats."""
    rows = []
    for fault in dict.fromkeys(outcome.fault for outcome in outcomes):
        its = [outcome for outcome in outcomes if outcome.fault == fault]
        extra = [one.extra_seconds for one in its if one.extra_seconds is not None]
        rows.append(
            {
                "fault": fault,
                "repeats": repeats,
                "possible": all(one.possible for one in its),
                "injected": sum(one.injected for one in its),
                "survived": sum(one.survived for one in its),
                "results_lost": sum(len(one.lost) for one in its),
                "trials_run_again": sum(len(one.run_again) for one in its),
                "artifacts_built_again": sum(len(one.built_again) for one in its),
                "rows_equal": sum(one.injected and not one.differences for one in its),
                "extra_seconds": median(extra) if extra else None,
                "holds": len(its) == repeats and all(one.holds for one in its),
            }
        )
    return rows


def show(rows: Sequence[dict[str, Any]], outcomes: Sequence[Outcome], console: Console) -> None:
    """The table, and below it what did not hold."""
    columns = ("fault", "injected", "survived", "results lost", "trials run again", "artifacts built again")
    table = Table(*columns, "rows equal", "extra s")
    for row in rows:
        of = row["repeats"]
        if not row["possible"]:
            table.add_row(row["fault"], "not possible here")
            continue
        table.add_row(
            row["fault"],
            f"{row['injected']} of {of}",
            f"{row['survived']} of {of}",
            str(row["results_lost"]),
            str(row["trials_run_again"]),
            str(row["artifacts_built_again"]),
            f"{row['rows_equal']} of {of}",
            "" if row["extra_seconds"] is None else f"{row['extra_seconds']:.0f}",
        )
    console.print(table)
    for outcome in outcomes:
        if not outcome.holds:
            told = [*outcome.problems, *outcome.lost[:3], *outcome.built_again[:3], *outcome.differences]
            line = f"{outcome.fault}, {outcome.repeat + 1}: {outcome.told or 'not injected'}; {'; '.join(told)}"
            console.print(line, markup=False, soft_wrap=True)


def as_json(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Every outcome in full."""
    return [{**asdict(one), "survived": one.survived, "holds": one.holds} for one in outcomes]
