"""Who teaches: the teacher alone, or the mean of several models that err differently."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

Logits = NDArray[np.float32]
Rows = NDArray[np.int64]
SPLITS = ("train", "validation", "test")
IN_SAMPLE = {
    "train": "logits_train_in_sample.npy",
    "validation": "logits_validation.npy",
    "test": "logits_test.npy",
}
OUT_OF_FOLD = "logits_train_out_of_fold.npy"


@dataclass(frozen=True)
class Member:
    """What one model, or the mean of several of a kind, answers."""

    in_sample: dict[str, Logits]
    """By split, [comments, labels]; of train as answered by models that were trained on it."""
    out_of_fold: Logits | None = None
    """Of train, each comment answered by the model whose fold left it out; None without folds."""

    def save(self, folder: Path) -> None:
        """Write what later stages learn from, and the answers on test, which nothing learns from."""
        for split, logits in self.in_sample.items():
            np.save(folder / IN_SAMPLE[split], logits)
        if self.out_of_fold is not None:
            np.save(folder / OUT_OF_FOLD, self.out_of_fold)

    @classmethod
    def load(cls, folder: Path) -> Member:
        """What `save` wrote."""
        outside = np.load(folder / OUT_OF_FOLD, allow_pickle=False) if (folder / OUT_OF_FOLD).exists() else None
        return cls({split: np.load(folder / IN_SAMPLE[split], allow_pickle=False) for split in SPLITS}, outside)

    def scaled(self, factor: float) -> Member:
        """All logits times a factor."""
        outside = None if self.out_of_fold is None else (self.out_of_fold * factor).astype(np.float32)
        return Member({name: (logits * factor).astype(np.float32) for name, logits in self.in_sample.items()}, outside)


def mean_member(members: Sequence[Member]) -> Member:
    """The mean of the members' logits, split by split; out of fold only over those that have them."""
    in_sample = {name: mean([member.in_sample[name] for member in members]) for name in SPLITS}
    outside = [member.out_of_fold for member in members if member.out_of_fold is not None]
    return Member(in_sample, mean(outside) if outside else None)


def ensemble(members: Sequence[Member], labels: NDArray[np.int8]) -> Member:
    """The mean of the members, each first calibrated on validation, so that none is heard more for being overconfident.

    Args:
        members: at least one; a single one stays as it is.
        labels: of validation, [comments, labels].
    """
    if len(members) == 1:
        return members[0]
    return mean_member([one.scaled(1.0 / best_temperature(one.in_sample["validation"], labels)) for one in members])


def best_temperature(logits: Logits, labels: NDArray[np.int8]) -> float:
    """The divisor of the logits with the least cross-entropy, in [0.1, 10] (Guo et al. 2017, arXiv:1706.04599).

    Args:
        logits: [comments, labels].
        labels: [comments, labels], 0 or 1.
    """

    def cross_entropy(log_temperature: float) -> float:
        scaled = logits.astype(np.float64) / np.exp(log_temperature)
        return float((np.logaddexp(0.0, scaled) - labels * scaled).mean())

    return float(np.exp(minimize_scalar(cross_entropy, bounds=(np.log(0.1), np.log(10.0)), method="bounded").x))


def mean(logits: Sequence[Logits]) -> Logits:
    """Mean of equally shaped arrays."""
    average: Logits = np.mean(logits, axis=0, dtype=np.float32)
    return average


def over_folds(answer: Callable[[Rows, Rows], dict[str, Logits]], parts: Sequence[tuple[Rows, Rows]]) -> Member:
    """Several models of a kind, each trained without one fold.

    Args:
        answer: trains on the rows inside (first) with those outside at hand, and answers every split.
        parts: rows of train inside and outside of each fold; each row is outside of one.
    """
    answered = [answer(inside, outside) for inside, outside in parts]
    out_of_fold = np.empty_like(answered[0]["train"])
    for (_, outside), logits in zip(parts, answered, strict=True):
        out_of_fold[outside] = logits["train"][outside]
    return Member({name: mean([logits[name] for logits in answered]) for name in SPLITS}, out_of_fold)
