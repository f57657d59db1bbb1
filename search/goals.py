"""What a study optimises, all of it minimised: of a measured row, and of what the stage tree predicts of a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from evaluation.front import FloatArray
from evaluation.gained import losses, reference_point
from evaluation.tradeoff import FULL_COMPRESSION, FULL_SPEEDUP
from search.config import StudyConfig
from search.stage_tree.tree import Goal
from search.trial import Row, objectives

FRONT = ("f1_macro", "model_size_mb", "latency_ratio")
"""Objectives in the order of `evaluation.gained.losses`; the others are scores, each of which stands alone."""


def losses_of(row: Row | Mapping[str, Any]) -> FloatArray:
    """A row's `losses`, shape [3]; NaN where it has no such figure."""
    return losses(*objectives(row, FRONT))


def aims_of(row: Row | Mapping[str, Any], names: tuple[str, ...]) -> FloatArray:
    """What a row has of the study's objectives, each minimised, shape [m]; NaN where it has no such figure."""
    if _is_score(names):
        return -np.array(objectives(row, names))
    return losses_of(row)[_columns(names)]


def aims_not_worth_having(teacher: Mapping[str, Any], names: tuple[str, ...]) -> FloatArray:
    """What a model must be better than in each objective, [m], from the teacher's row."""
    if _is_score(names):
        return aims_of(teacher, names)
    return reference_point(losses_of(teacher))[_columns(names)]


def quality(config: StudyConfig) -> str:
    """The column of accuracy that the study's objectives hang on."""
    return "critical_f1" if config.search.objectives == ("safe_compression_score",) else "f1_macro"


def without_goal(config: StudyConfig, teacher: Mapping[str, Any]) -> str | None:
    """Why nothing can be better or worse by the study's objectives, with this row of the teacher; None if it can."""
    column, names = quality(config), config.search.objectives
    if not _is_score(names) or teacher[column]:
        return None
    score = f"search.objectives=[{names[0]}]: a share of the teacher's {column}"
    remedy = "take f1_macro, model_size_mb and latency_ratio, or a better teacher (teacher.epochs, teacher.model)"
    return f"{score}, which is {teacher[column]} on validation; {remedy}"


def goal(config: StudyConfig) -> Goal:
    """How the study's objectives follow from the losses of a model; infinite where one of these is."""
    match config.search.objectives:
        case ("tradeoff_score",):
            aim = _tradeoff(config.tradeoff_weights)
        case ("safe_compression_score",):
            aim = _safe_compression
        case names:
            columns = _columns(names)
            return lambda losses, teacher: losses if len(columns) == len(FRONT) else losses[..., columns]
    return lambda losses, teacher: np.where(
        np.isinf(losses).any(axis=-1, keepdims=True), np.inf, aim(np.where(np.isinf(losses), 0.0, losses), teacher)
    )


def _is_score(names: tuple[str, ...]) -> bool:
    return not set(names) <= set(FRONT)


def _columns(names: tuple[str, ...]) -> list[int]:
    """Of the losses, in their own order: that of the objectives changes nothing."""
    return [index for index, name in enumerate(FRONT) if name in names]


def _tradeoff(weights: tuple[float, float, float]) -> Goal:
    """`compute_tradeoff_score` below zero."""

    def aim(losses: FloatArray, teacher: FloatArray) -> FloatArray:
        retention = losses[..., 0] / teacher[0]
        smaller, faster = (10.0 ** (teacher[index] - losses[..., index]) for index in (1, 2))
        terms = retention, np.minimum(smaller / FULL_COMPRESSION, 1.0), np.minimum(faster / FULL_SPEEDUP, 1.0)
        return -np.asarray(sum(weight * term for weight, term in zip(weights, terms, strict=True)))[..., None]

    return aim


def _safe_compression(losses: FloatArray, teacher: FloatArray) -> FloatArray:
    """`compute_safe_compression_score` below zero; the quality is the critical label's F1."""
    retention = np.maximum(losses[..., 0] / teacher[0], 0.0)
    return -np.asarray(10.0 ** (teacher[1] - losses[..., 1]) * retention**2)[..., None]
