"""When a study has ended: each model that can be recommended, written as a folder to deploy, `models/<model_key>/`."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.progress import track

from pipeline.choice import Choice, recommended
from pipeline.errors import InputError
from pipeline.model_rows import SHOWN_KEY, records
from pipeline.study_results import MODELS, read_results
from search.config import StudyConfig

COMPARED = 256
"""Test comments that each folder answers again: a large model takes long, and a cluster waits meanwhile."""
WHY = "it is on the safe front: safe on validation, and not unsafe on test"


def write_models(config: StudyConfig, console: Console) -> None:
    """Write the folders that are not there yet; one that is there stays as it is.

    A model that cannot be written is told, and costs the study nothing else.

    Args:
        config: of a study whose results are written.
        console: shows how long it takes, and what went wrong.
    """
    from pipeline.export_check import ExportedDiffers  # both bring the runtimes: not for a driver's start-up
    from pipeline.export_folder import export_model

    results = read_results(config.folder)
    rows = [row for row in records(recommended(results.front)) if not folder_of(config, row["model_key"]).exists()]
    shown = console.is_terminal and not console.quiet
    for row in track(rows, "models to deploy", console=console, transient=True, disable=not shown):
        target = folder_of(config, row["model_key"])
        try:
            export_model(results, Choice(row, WHY), target, store_root=config.store_place, compared=COMPARED)
        except (InputError, ExportedDiffers, OSError) as error:
            told = f"warning: {target}: the model {row['model_key'][:SHOWN_KEY]} was not written: {error}"
            console.print(told, highlight=False, markup=False, soft_wrap=True, style="yellow")


def folder_of(config: StudyConfig, model_key: str) -> Path:
    """Where a model's folder to deploy is, or would be."""
    return config.folder / MODELS / model_key
