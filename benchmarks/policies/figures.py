"""Medians and quartiles over seeds, and how they are printed."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table


def judged(runs: list[dict[str, Any]], soonest: Sequence[float]) -> list[dict[str, Any]]:
    """For each policy and number of workers: number of seeds, median and quartiles over them.

    Args:
        runs: as `one_run` returns them.
        soonest: seconds to the share at best, by seed.
    """
    groups: dict[tuple[int, str, bool], list[dict[str, Any]]] = defaultdict(list)
    for run in runs:
        groups[run["workers"], run["sampler"], run["reuse"]].append(run)
    rows = []
    for (workers, sampler, reuse), members in sorted(groups.items()):
        costs = [run["cost"] for run in members]
        clocks = [run["clock"] for run in members]
        rows.append(
            {
                "workers": workers,
                "sampler": sampler,
                "reuse": reuse,
                "seeds": len(members),
                **quartiles("cost", costs),
                **quartiles("held", [workers * clock for clock in clocks]),
                "reached": float(np.mean(np.isfinite(costs))),
                "clock_median": quantile(clocks, 0.5),
                "cost_end": float(np.median([run["cost_end"] for run in members])),
                "share_end": float(np.median([run["share_end"] for run in members])),
                "share_at": shares_at(members),
                "cost_bound": workers * float(np.median([soonest[run["seed"]] for run in members])),
                "utilisation": float(np.median([run["utilisation"] for run in members])),
                "trials": float(np.median([run["trials"] for run in members])),
                "program_seconds": float(np.median([run["program_seconds"] for run in members])),
            }
        )
    return rows


def quartiles(name: str, costs: Sequence[float]) -> dict[str, float]:
    """`name_median`, `name_low` and `name_high`."""
    return {f"{name}_{end}": quantile(costs, share) for end, share in (("median", 0.5), ("low", 0.25), ("high", 0.75))}


def quantile(costs: Sequence[float], share: float) -> float:
    """With the mean of the two in the middle, as is usual; infinite where one that counts is."""
    ordered = sorted(costs)
    place = share * (len(ordered) - 1)
    low, high = ordered[math.floor(place)], ordered[math.ceil(place)]
    return low if low == high else low + (high - low) * (place - math.floor(place))


def shares_at(runs: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Median share of the hypervolume by computing seconds, as far as all searches are known.

    Of one that ended because it had the share that was asked for, that counts from there on: it would have had more.
    """
    known: dict[str, float] = {}
    for cost in sorted({cost for run in runs for cost in run["share_at"]}, key=float):
        later = [run["share_end"] if math.isfinite(run["cost"]) else math.nan for run in runs]
        shares = [run["share_at"].get(cost, end) for run, end in zip(runs, later, strict=True)]
        if np.isfinite(shares).all():
            known[cost] = float(np.median(shares))
    return known


def show(rows: list[dict[str, Any]]) -> None:
    """One table for each number of workers."""
    for workers in sorted({row["workers"] for row in rows}):
        table = Table("sampler", "reuse", "seeds")
        for name in ("computing to 95 %, s [quartiles]", "times ours", "held to 95 %, s [quartiles]", "times ours"):
            table.add_column(name)
        for name in ("reached", "clock, s", "ended at, s", "hypervolume", "utilisation", "trials", "program, s"):
            table.add_column(name)
        members = [row for row in rows if row["workers"] == workers]
        table.title = f"{workers} worker{'s' if workers > 1 else ''}"
        table.caption = (
            f"With everything known before and no worker idle: {spelled(members[0]['cost_bound'])} s or more."
        )
        ours = next((row for row in members if row["sampler"] == "stage_tree"), None)
        for row in sorted(members, key=lambda row: row["cost_median"]):
            table.add_row(
                row["sampler"],
                "yes" if row["reuse"] else "no",
                str(row["seeds"]),
                *spelled_against("cost", row, ours),
                *spelled_against("held", row, ours),
                f"{row['reached']:.0%}",
                spelled(row["clock_median"], ",.1f"),
                spelled(row["cost_end"]),
                f"{row['share_end']:.0%}",
                f"{row['utilisation']:.1%}",
                f"{row['trials']:,.0f}",
                f"{row['program_seconds']:,.0f}",
            )
        Console(width=190).print(table)


def spelled_against(name: str, row: Mapping[str, Any], ours: Mapping[str, Any] | None) -> tuple[str, str]:
    """Median with quartiles, and how many times ours it is."""
    middle, low, high = (row[f"{name}_{end}"] for end in ("median", "low", "high"))
    times = spelled(middle / ours[f"{name}_median"], ".2f") if ours else ""
    return f"{spelled(middle)} [{spelled(low)}, {spelled(high)}]", times


def spelled(number: float, form: str = ",.0f") -> str:
    """A number as it is printed; a cost is infinite where the search ended before."""
    return format(number, form) if math.isfinite(number) else "not reached"
