"""Samplers by name. `random` depends on seed and trial number alone; the others learn from finished trials."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import torch  # noqa: F401  (must be loaded before Optuna's samplers load it, or the process can crash)
from optuna import Study
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, GPSampler
from optuna.trial import FrozenTrial

from search.config import STAGES, StudyConfig
from search.goals import goal
from search.independent import IndependentSampler
from search.nsgaii import RememberingNSGAIISampler
from search.space import Space
from search.stage_tree import StageTreeSampler

STARTUP_TRIALS = 6
"""Trials that one of Optuna's learning samplers draws at random before it begins to learn."""

POPULATION = 50
"""Trials of a generation of `nsgaii`, as in Optuna; fewer where a study has not ten such generations."""


class NumberedRandomSampler(IndependentSampler):
    """Uniform suggestions that are a function of seed, trial number and setting name, and of nothing else.

    Two runs, or a run and its resumption, therefore suggest the same, however many workers finish in whatever order.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A value drawn uniformly (on a log scale where the distribution says so)."""
        generator = np.random.default_rng([self._seed, trial.number, zlib.crc32(param_name.encode())])
        if isinstance(param_distribution, CategoricalDistribution):
            return param_distribution.choices[int(generator.integers(len(param_distribution.choices)))]
        if not isinstance(param_distribution, IntDistribution | FloatDistribution):
            raise TypeError(f"{param_name}: cannot draw from {param_distribution!r}")
        low, high, step = param_distribution.low, param_distribution.high, param_distribution.step
        if param_distribution.log:
            value = float(np.exp(generator.uniform(np.log(low), np.log(high))))
            return value if isinstance(param_distribution, FloatDistribution) else min(max(round(value), low), high)
        if step is None:
            return float(generator.uniform(low, high))
        drawn = low + int(generator.integers(round((high - low) / step) + 1)) * step
        return int(drawn) if isinstance(param_distribution, IntDistribution) else round(float(drawn), 12)


def study_sampler(config: StudyConfig) -> BaseSampler:
    """The sampler that a study names."""
    search = config.search
    if search.sampler != "stage_tree":
        population = max(4, min(POPULATION, search.trials // 10))
        return make_sampler(search.sampler, config.seed, STARTUP_TRIALS, population)
    from search.stage_tree.reading import StudyOutcomes, study_shapes

    outcomes = StudyOutcomes(config)
    return StageTreeSampler(
        Space(config).suggest,
        tuple(STAGES),
        outcomes,
        seed=config.seed,
        startup_trials=0,
        expected=outcomes.expected,
        without={stage: {f"{stage}.method": "none"} for stage in STAGES},
        shapes=study_shapes(config),
        promise=outcomes.patience,
        goal=goal(config),
    )


def make_sampler(name: str, seed: int, startup_trials: int, population: int = POPULATION) -> BaseSampler:
    """Optuna's sampler of this name: `random`, `tpe`, `nsgaii` or `gp`.

    Args:
        name: as in `search.sampler`.
        seed: of its random numbers.
        startup_trials: trials drawn at random before a learning sampler begins to learn.
        population: trials of a generation of `nsgaii`, the first of which is drawn at random.
    """
    if name == "random":
        return NumberedRandomSampler(seed)
    if name == "tpe":
        from search.tpe import RememberingTPESampler  # of Optuna's inner parts: when they move, no other sampler breaks

        return RememberingTPESampler(seed, startup_trials)
    if name == "nsgaii":
        return RememberingNSGAIISampler(seed, population)
    if name == "gp":
        return GPSampler(seed=seed, n_startup_trials=startup_trials)
    raise ValueError(f"search.sampler={name!r}: no such sampler; take random, tpe, nsgaii or gp")
