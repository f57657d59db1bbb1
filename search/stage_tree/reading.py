"""How the stage-tree sampler reads a study of ours: rows of trials as outcomes of stages."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from optuna import Study
from optuna.trial import FrozenTrial

from search.config import STAGES, StudyConfig
from search.goals import quality
from search.stage_tree.beliefs import StageOutcome
from search.stage_tree.chains import Chain, plain
from search.stage_tree.effects import FloatArray
from search.stage_tree.expected import Expected
from search.stage_tree.shapes import Shapes
from search.stage_tree.tree import NOTHING
from search.study_keys import ERROR, REFERENCES, ROWS
from search.timings import is_untimed
from search.trial import ROW_STAGES, Row, constraints

OF_TRAINING = {
    "distil": (
        "method teacher_logits alpha temperature hidden_weight attention_weight loss focal_gamma class_weights epochs "
        "learning_rate schedule warmup_fraction batch_size ngram_epochs ngram_learning_rate ngram_dropout seed"
    ),
    "prune": "importance calibration_rows epochs learning_rate batch_size alpha temperature seed",
    "quantize": "calibration calibration_rows epochs learning_rate batch_size alpha temperature seed",
}
"""Settings that leave a model's shape as it is, by stage."""
TIMING_SECONDS, TIMING_OF_MEASURE = 3.0, 2.0
"""To measure latency, throughput and memory of a shape takes so long, and so many times `measure.seconds` more."""


def study_shapes(config: StudyConfig) -> Shapes:
    """Shapes of models as a study builds and times them."""
    names = [f"{stage}.{name}" for stage, settings in OF_TRAINING.items() for name in settings.split()]
    return Shapes(names, TIMING_SECONDS + TIMING_OF_MEASURE * config.measure.seconds)


class StudyOutcomes:
    """Reads the root of a study and the outcomes of its trials."""

    def __init__(self, config: StudyConfig) -> None:
        self._config, self._quality = config, quality(config)
        self._guess: Expected | None = None

    def root(self, study: Study) -> StageOutcome | None:
        """The teacher; None before it was measured."""
        references: list[Row] = study.user_attrs.get(REFERENCES, [])
        teacher = next((row for row in references if row["stage"] == "baseline"), None)
        if teacher is None:
            return None
        self._guess = Expected(self._config, teacher["model_size_mb"], float(teacher.get("stage_seconds") or 0.0))
        return self._outcome(teacher)

    def expected(self, chain: Chain) -> Mapping[str, FloatArray]:
        """What the stages of a chain should do, see `Expected`; nothing before the root is known."""
        if self._guess is None:
            return dict.fromkeys(STAGES, NOTHING)
        return self._guess(_plain(chain))

    def patience(self, chain: Chain) -> float:
        """How long its student trains, log2 of 1 + epochs; 1 for a chain without a student.

        What distillation gives goes on growing with the length of training (Beyer et al. 2022, arXiv:2106.05237).
        """
        own = self._config.settings("distil")
        own = own | {name.removeprefix("distil."): value for name, value in _plain(chain).items()}
        if own["method"] == "none":
            return 1.0
        epochs: Any = own["ngram_epochs" if own["student"] == "ngram" else "epochs"]
        return math.log2(1.0 + epochs)

    def of(self, trial: FrozenTrial, root: StageOutcome | None) -> Sequence[StageOutcome]:
        """In the order of the stages; a stage that was left out has its parent's model and took no time.

        Fewer than there are stages when the trial was stopped; the last one without losses when it failed.
        """
        rows: dict[str, Row] = {row["stage"]: row for row in trial.user_attrs.get(ROWS, []) if row.get("model_key")}
        methods = {name.partition("[")[0]: value for name, value in trial.params.items()}
        outcomes: list[StageOutcome] = []
        for stage in STAGES:
            row = rows.get(ROW_STAGES[stage])
            parent = outcomes[-1] if outcomes else root
            if row is not None:
                outcomes.append(self._outcome(row))
                if row["status"] == "stopped_unsafe":
                    break
                continue
            method = methods.get(f"{stage}.method", self._config.settings(stage)["method"])
            if method != "none" and trial.user_attrs.get(ERROR):
                outcomes.append(StageOutcome(None))
                break
            if parent is None:
                break
            outcomes.append(StageOutcome(parent.losses, parent.excess, None))
        return outcomes

    def _outcome(self, row: Mapping[str, Any]) -> StageOutcome:
        timed = not is_untimed(row)
        values = row.get(self._quality), row.get("model_size_mb"), row.get("speedup_factor") if timed else 1.0
        if any(value is None or not math.isfinite(value) for value in values):
            return StageOutcome(None)
        good, size, speedup = (float(value) for value in values if value is not None)
        losses = (-good, math.log10(size), -math.log10(speedup) if timed else math.nan)
        return StageOutcome(
            losses,
            max(constraints(row, self._config).values()),
            float(row.get("stage_seconds") or 0.0),
            row.get("timed_model") or row["model_key"],
        )


def _plain(chain: Chain) -> dict[str, Any]:
    """The searched settings of a chain by plain name."""
    return {plain(name): value for name, value in chain.params.items()}
