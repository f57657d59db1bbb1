"""Telling an Optuna study how a trial ended: with objectives and constraints of its last model, or with its error."""

from __future__ import annotations

import math

import optuna
from optuna.trial import Trial, TrialState

from search.config import StudyConfig
from search.study_keys import ERROR, ROWS
from search.trial import Row, constraints, objectives


def finish_trial(study: optuna.Study, trial: Trial, config: StudyConfig, rows: list[Row], problem: str | None) -> None:
    """End a trial: FAILED with its error, or COMPLETE with constraints and objectives of its last model."""
    names = config.search.objectives
    values = objectives(rows[-1], names) if rows else []
    if not problem and not rows:
        problem = "the trial returned no measured model"
    if not problem and not all(math.isfinite(value) for value in values):
        wrong = ", ".join(
            f"{name}={value}" for name, value in zip(names, values, strict=True) if not math.isfinite(value)
        )
        problem = f"objective is not finite: {wrong}"
    if problem:
        last = rows[-1] if rows else {}
        settings = {name: value for name, value in trial.params.items() if "." in name}
        failed = {
            "study": config.study,
            "stage": last.get("stage", "baseline"),
            "status": "failed",
            ERROR: problem,
            **settings,
        }
        kept = [row for row in rows if row.get("model_key") and math.isfinite(objectives(row, ("f1_macro",))[0])]
        trial.set_user_attr(ROWS, [*(row for row in kept if row.get("status") == "ok"), failed])
        trial.set_user_attr(ERROR, problem)
        study.tell(trial, state=TrialState.FAIL)
        return
    for name, value in constraints(rows[-1], config).items():
        trial.set_constraint(name, value)
    trial.set_user_attr(ROWS, rows)
    study.tell(trial, values)
