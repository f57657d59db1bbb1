"""A study that begins with what earlier studies found: the settings on their fronts are its first trials."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from search.config import STAGES, StudyConfig
from search.space import Space
from search.wording import problem

Settings = dict[str, Any]
"""Of a chain, as `distil.method` and so on."""

TRIALS_FILE = "trials.parquet"
POINTS = 16
"""At most so many points of each earlier study."""
REFERENCES = ("baseline", "classical")


def earlier_fronts(config: StudyConfig) -> tuple[dict[str, list[Settings]], list[str]]:
    """The chains on the fronts of `search.warm_start`, see `front_chains`, and a line for each that cannot be read."""
    fronts: dict[str, list[Settings]] = {}
    problems: list[str] = []
    for index, place in enumerate(config.search.warm_start):
        try:
            fronts[place] = front_chains(Path(place))
        except (OSError, ValueError) as error:
            remedy = f"name the results folder of an earlier study, or its {TRIALS_FILE}"
            problems.append(problem(f"search.warm_start[{index}]", place, f"{error}; {remedy}"))
    return fronts, problems


def warm_started(config: StudyConfig, fronts: Mapping[str, Sequence[Settings]]) -> tuple[StudyConfig, list[str]]:
    """The study with these chains as points after its own, where they fit, and a line for each earlier study.

    The study that comes out needs the earlier ones no more: its own file repeats it.
    """
    points = list(config.search.points)
    told: list[str] = []
    space = Space(config)
    for place, chains in fronts.items():
        fitting = [point for chain in chains if (point := space.point_of(chain)) is not None]
        before = len(points)
        for point in fitting:
            if point not in points and len(points) < before + POINTS:
                points.append(point)
        no_room = max(0, len(points) - max(before, config.search.trials))
        line = (
            f"warm start from {place}: {len(points) - before - no_room} of the {len(chains)} chains on its front "
            f"are tried first, {len(chains) - len(fitting)} do not fit this study's space"
        )
        if no_room:
            line += f"; {no_room} more have no room in search.trials={config.search.trials}: raise it to {len(points)}"
        told.append(line)
    search = config.search.model_copy(update={"points": tuple(points), "warm_start": ()})
    return config.model_copy(update={"search": search}), told


def front_chains(place: Path) -> list[Settings]:
    """The settings of the chains on an earlier study's front, unsafe ones left out, the best trade-off first.

    Args:
        place: of `trials.parquet` or `front.parquet`, or the folder that holds the former.

    Returns:
        settings of each chain; a stage that was left out has the method `none`.

    Raises:
        OSError: there is no such file.
        ValueError: it holds no study.
    """
    from evaluation.front import front_rows
    from evaluation.records import plain_value, read_records

    file = place / TRIALS_FILE if place.is_dir() else place
    if not file.is_file():
        raise FileNotFoundError("no such file" if file == place else f"no {TRIALS_FILE} there")
    front = front_rows(read_records(file))
    front = front[front["on_front"] & ~front["stage"].isin(REFERENCES)]
    front = front.sort_values("tradeoff_score", ascending=False, na_position="last", kind="stable")
    nothing = {f"{stage}.method": "none" for stage in STAGES}
    rows = ({str(name): plain_value(value) for name, value in row.items()} for row in front.to_dict("records"))
    return [
        nothing | {name: value for name, value in row.items() if name.partition(".")[0] in STAGES and value is not None}
        for row in rows
    ]
