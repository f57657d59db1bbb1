"""Settings that cannot stand together: known before any time is spent, and never proposed by a search."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from search.config import STAGES, Choices, Range, Setting, StudyConfig
from search.model_folder import HEADS, LAYERS, WIDTH, encoder_fact, model_folder
from search.wording import problem

NGRAM_QUANTIZATION = ("none", "fp16", "int8_dynamic", "int4")
DECIDING = (
    "distil.method",
    "distil.student",
    "distil.width",
    "distil.dimension",
    "distil.smallest_ngram",
    "distil.loss",
    "prune.method",
    "prune.sparsity",
    "prune.begin_fraction",
    "prune.structures",
    "quantize.method",
)
"""The settings on which others depend."""
ACROSS = ("distil.student", "distil.width", "distil.dimension", "prune.method", "prune.structures")
"""Those of them on which settings of later stages depend."""
UNEVEN = ("distil.width", "distil.buckets", "distil.dimension", "quantize.block_size")
"""Whole numbers that must divide another or be divided: what holds for both ends of a range may not hold within."""


@dataclass(frozen=True)
class TeacherShape:
    """What a combination of settings depends on; None is not known before the teacher is loaded."""

    layers: int | None
    heads: int | None
    width: int | None
    folds: int


def teacher_shape(config: StudyConfig) -> TeacherShape:
    """What the study file and the teacher's `config.json` say of the teacher."""
    teacher = config.teacher
    if teacher.model == "scratch":
        return TeacherShape(teacher.scratch_layers, teacher.scratch_heads, teacher.scratch_width, teacher.folds)
    folder = model_folder(teacher.model)
    layers, heads, width = (encoder_fact(folder, names) if folder else None for names in (LAYERS, HEADS, WIDTH))
    return TeacherShape(layers, heads, width, teacher.folds)


def obstacle(key: str, value: Any, earlier: Mapping[str, Any], teacher: TeacherShape) -> str | None:
    """Why a setting cannot have this value after the settings above it; None if it can.

    Args:
        key: as `prune.method`.
        value: what is asked for.
        earlier: the settings of the chain above this one, by key, as far as they are used.
        teacher: what is known of it.
    """
    student, taught = earlier.get("distil.student"), earlier.get("distil.method")
    if key == "distil.student" and value != "layers" and taught != "logit":
        return f"distil.method={taught} compares the inside of both models token by token; take distil.student=layers"
    if key == "distil.layers" and teacher.layers is not None and value > teacher.layers:
        return f"more than the teacher's {teacher.layers}; take {teacher.layers} or less"
    if key == "distil.width" and value:
        if teacher.width is not None and value > teacher.width:
            return f"more than the teacher's {teacher.width}; take {teacher.width} or less, or 0 to keep it"
        if teacher.heads is not None and value % teacher.heads:
            return f"no multiple of the teacher's {teacher.heads} heads; make it one, each head gets an equal part"
    if key == "distil.longest_ngram" and value < earlier["distil.smallest_ngram"]:
        return f"less than distil.smallest_ngram={earlier['distil.smallest_ngram']}; raise it"
    if key == "distil.buckets" and value & (value - 1):
        return f"no power of two; take {1 << (value - 1).bit_length()}"
    if key == "distil.teacher_logits" and value == "out_of_fold" and teacher.folds < 2:
        return "there are none without folds; set teacher.folds to 2 or more, or take in_sample"
    if key == "prune.method" and value != "none" and student == "ngram":
        return "an n-gram student has no layers to prune; take none, and a smaller distil.buckets or distil.dimension"
    if key == "prune.initial_sparsity" and value >= earlier["prune.sparsity"]:
        return f"not less than prune.sparsity={earlier['prune.sparsity']}; lower it"
    if key == "prune.end_fraction" and value <= earlier["prune.begin_fraction"]:
        return f"not more than prune.begin_fraction={earlier['prune.begin_fraction']}; raise it"
    if key == "prune.heads_left" and teacher.heads is not None and value > teacher.heads:
        return f"more heads than the {teacher.heads} that a layer has; take {teacher.heads} or less"
    if key == "prune.epochs" and value == 0 and "gradual" in str(earlier["prune.method"]).split("+"):
        return "gradual pruning happens while the model is trained; raise it to 1 or more"
    if key == "quantize.method" and student == "ngram" and value not in NGRAM_QUANTIZATION:
        return f"not for an n-gram student, which has no activations to scale; take {', '.join(NGRAM_QUANTIZATION)}"
    if key == "quantize.method" and value == "int4" and _neurons_removed(earlier):
        return (
            "structured pruning leaves widths that no block of weights divides; take int8_dynamic, or keep the neurons"
        )
    if key == "quantize.block_size":
        if value & (value - 1):
            return f"no power of two; take {1 << (value - 1).bit_length()}"
        if student != "ngram" and value < 16:
            return "ONNX Runtime's 4-bit kernels take blocks of 16 weights or more; raise it"
        width = _width(earlier, teacher)
        if width is not None and width % value:
            return f"does not divide the model's width {width}; take a power of two that does"
    return None


def _neurons_removed(earlier: Mapping[str, Any]) -> bool:
    """Whether the chain has removed feed-forward neurons, as many as it happened to be in each layer."""
    structured = "structured" in str(earlier.get("prune.method")).split("+")
    return structured and earlier.get("prune.structures") != "heads"


def _width(earlier: Mapping[str, Any], teacher: TeacherShape) -> int | None:
    """Inner width of the chain's matrices; None if not known."""
    student = earlier.get("distil.student")
    if student == "ngram":
        return int(earlier["distil.dimension"])
    return None if student == "encoder" else earlier.get("distil.width") or teacher.width


def allowed(key: str, setting: Setting, earlier: Mapping[str, Any], teacher: TeacherShape) -> tuple[Any, ...]:
    """The values of a fixed or listed setting that can follow these, in their order."""
    values = setting.choices if isinstance(setting, Choices) else (setting,)
    return tuple(value for value in values if obstacle(key, value, earlier, teacher) is None)


def compatibility_problems(config: StudyConfig) -> list[str]:
    """A line for each setting that cannot have any of its values, or not all of its range, after some choice above it.

    Every choice is followed that a later setting may depend on; choices that differ in nothing else are followed once.
    """
    teacher = teacher_shape(config)
    keys = [(stage, name) for stage, model in STAGES.items() for name in model.model_fields]
    problems: dict[str, None] = {}
    followed: set[str] = set()

    def follow(position: int, values: dict[str, Any]) -> None:
        if position == len(keys):
            return
        stage, name = keys[position]
        state = json.dumps([position, deciding(stage, values)])
        if state in followed:
            return
        followed.add(state)
        above = {key.partition(".")[2]: value for key, value in values.items() if key.startswith(f"{stage}.")}
        if not STAGES[stage].is_used(name, above):
            return follow(position + 1, values)
        key, setting = f"{stage}.{name}", config.settings(stage)[name]
        reasons = ((value, obstacle(key, value, values, teacher)) for value in _asked(key, setting))
        wrong, reason = next(((value, reason) for value, reason in reasons if reason), (None, None))
        if reason and (isinstance(setting, Range) or not allowed(key, setting, values, teacher)):
            if isinstance(setting, Range) and key in UNEVEN:
                reason += f" (of {setting.low} to {setting.high}, list as choices those that can be)"
            problems.setdefault(problem(key, wrong, reason))
            return None
        for value in telling_values(key, setting, values, teacher):
            follow(position + 1, {**values, key: value})

    follow(0, {})
    return list(problems)


def deciding(stage: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Of the settings up to some place in a stage, those on which what follows may depend."""
    return {key: values[key] for key in DECIDING if key in values and (key in ACROSS or key.startswith(f"{stage}."))}


def telling_values(key: str, setting: Setting, earlier: Mapping[str, Any], teacher: TeacherShape) -> Sequence[Any]:
    """Of the values that a setting can have after these, in their order, those that differ in what can follow them.

    Args:
        key: of the setting.
        setting: fixed or searched; every number of a range must be one that it can have.
        earlier: the settings of the chain above this one, as in `obstacle`.
        teacher: what is known of it.
    """
    fitting = _asked(key, setting) if isinstance(setting, Range) else allowed(key, setting, earlier, teacher)
    if key not in DECIDING:
        return fitting[:1]
    if key not in UNEVEN:
        return fitting
    by_power_of_two: dict[int, int] = {}  # the largest that divides a width says which blocks do
    for value in fitting:
        by_power_of_two.setdefault(value & -value, value)
    return list(by_power_of_two.values())


def _asked(key: str, setting: Setting) -> Sequence[Any]:
    """All listed values, both ends of a range or all within if these do not tell enough, or the one value."""
    if isinstance(setting, Choices):
        return setting.choices
    if not isinstance(setting, Range):
        return (setting,)
    if key in UNEVEN:
        return range(int(setting.low), int(setting.high) + 1, int(setting.step or 1))
    return (setting.low, setting.high)
