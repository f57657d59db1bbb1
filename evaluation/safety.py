"""Is the candidate as safe as the baseline? Drops of macro F1, critical F1 and critical recall with upper bounds.

The bounds come from a paired bootstrap over comments in Rubin's Bayesian form: each round weighs the comments at random
(exponential weights) and computes both models' metrics under the same weights. A plain bootstrap never shows a comment
that was not sampled: with no discordant pair its upper bound is 0, however few comments there are. So each round also
weighs one comment that was *not* seen: the one that the baseline gets right, the candidate gets wrong, and that costs
the metric most. For recall the bound is then the quantile of a Dirichlet variable whose margins are Clopper and
Pearson's exact limits (upper for newly missed positives, lower for newly found ones), the "melding" of Fay, Proschan
and Brittain (Biometrics 2015); for the F1s, which are nearly weighted sums of rare events, it is the idea of Fay and
Feuer (Statistics in Medicine 1997). With m critical positives and identical predictions the recall bound is
1 - (1 - confidence)^(1/m): at a limit of 0.03 and 95 %, some 100 positives are the least that can be `safe`.

How often `safe` is wrong just beyond a limit: `benchmarks/safety_calibration.py`. Macro F1 needs its unseen comment to
have all labels of some comment that was seen, and to have a label that none has: with a single supported label, `safe`
was wrong in up to 12 % of cases (other labels with 2 to 10 positives, lost together), now in at most 5 %.

Why not an exact test of recall: `benchmarks/recall_bounds.py`. Where nothing is lost, the exact unconditional score
test says `safe` up to 7 points more often at 200 positives (49 % for 42 %) and up to 2 at 1000, the conditional one
(McNemar, Clopper and Pearson) up to 50 points less often; Tango's asymptotic bound is wrong in 5.8 % at worst. The
bootstrap was never wrong in over 5 %, gives the bound that is reported and not only a verdict, in milliseconds (one
exact test takes seconds at 1000 positives, its bound a dozen tests), and treats the F1s alike, whose limits mostly
decide.

Rubin, "The Bayesian Bootstrap", Annals of Statistics 1981; Clopper and Pearson, Biometrika 1934.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from evaluation.bootstrap import Pairs
from pipeline.thresholds import FloatArray

Verdict: TypeAlias = Literal["safe", "inconclusive", "unsafe"]

ROUNDING: Final = 1e-9
"""A drop is beyond its limit only by more than this: 97/100 against 100/100 is a drop of 0.03, not more."""


@dataclass(frozen=True)
class SafetyLimits:
    """What may be lost against the baseline; drops are absolute differences of values in [0, 1]."""

    critical_label: str
    """The label whose misses matter most."""
    max_f1_drop: float = 0.05
    """Limit of the drop of macro F1."""
    max_critical_f1_drop: float = 0.03
    """Limit of the drop of the critical label's F1."""
    max_critical_recall_drop: float = 0.03
    """Limit of the drop of the critical label's recall."""
    confidence: float = 0.95
    """Of each one-sided upper bound, in (0.5, 1)."""

    def __post_init__(self) -> None:
        for name in ("max_f1_drop", "max_critical_f1_drop", "max_critical_recall_drop"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"safety.{name}={getattr(self, name)}: give a number in [0, 1]")
        if not 0.5 < self.confidence < 1:
            raise ValueError(f"safety.confidence={self.confidence}: give a number between 0.5 and 1, such as 0.95")

    @property
    def level(self) -> str:
        """The confidence as it is told: `95%`, `99.5%`."""
        return f"{100 * self.confidence:.10g}%"

    @property
    def of_drops(self) -> FloatArray:
        """The limits in the order of `SafetyResult`'s drops, shape [3]."""
        return np.array([self.max_f1_drop, self.max_critical_f1_drop, self.max_critical_recall_drop])


@dataclass(frozen=True, kw_only=True)
class SafetyResult:
    """The verdict, and the drops behind it; a drop that is not defined is None."""

    safety_verdict: Verdict
    reason: str
    """Why the verdict is what it is, in words."""
    f1_drop: float | None = None
    f1_drop_upper: float | None = None
    critical_f1_drop: float | None = None
    critical_f1_drop_upper: float | None = None
    critical_recall_drop: float | None = None
    critical_recall_drop_upper: float | None = None
    positives_needed: int | None = None
    """Critical positives at which about half of such samples are `safe` if the models go on to differ as observed."""

    @property
    def safe_for_deployment(self) -> bool:
        """True only for `safe`."""
        return self.safety_verdict == "safe"

    def to_flat_dict(self) -> dict[str, str | float | int | bool | None]:
        """The columns of `trials.parquet`; `reason` is not one of them."""
        drops = {name + end: getattr(self, name + end) for name in DROPS for end in ("", "_upper")}
        return {
            "safety_verdict": self.safety_verdict,
            **drops,
            "positives_needed": self.positives_needed,
            "safe_for_deployment": self.safe_for_deployment,
        }


DROPS: Final = ("f1_drop", "critical_f1_drop", "critical_recall_drop")


def check_safety_thresholds(
    labels: npt.NDArray[Any],
    baseline_predictions: npt.NDArray[Any],
    candidate_predictions: npt.NDArray[Any],
    label_names: Sequence[str],
    limits: SafetyLimits,
    *,
    rounds: int = 10_000,
    seed: int = 0,
    same_model: bool = False,
    plan: bool = True,
) -> SafetyResult:
    """The candidate's verdict against the baseline on the same comments.

    `unsafe` when a drop is beyond its limit, `safe` when each upper bound is within, else `inconclusive`. What cannot
    be computed is never `safe`: no critical positive leaves two drops undefined, and a label without positives leaves
    the bound of macro F1 at 1 / L or above. Macro F1 is `pipeline.thresholds.f1_macro`; with one binary label the
    critical label is its positive class.

    Args:
        labels: 0/1, shape [n, L].
        baseline_predictions: 0/1, shape [n, L].
        candidate_predictions: 0/1, shape [n, L].
        label_names: L names, in the order of the columns.
        limits: the limits and the confidence of the bounds.
        rounds: bootstrap rounds, at least 100.
        seed: of the bootstrap; equal seeds give equal bounds.
        same_model: both predictions are one model's (the baseline's own row): nothing can drop, `safe` at any support.
        plan: False leaves out `positives_needed`, which takes longer than the verdict.

    Raises:
        ValueError: shapes that do not fit, values other than 0 and 1 (NaN too), an unknown critical label, too few
            rounds, or `same_model` with predictions that differ.
    """
    arrays = {
        "labels": labels,
        "baseline_predictions": baseline_predictions,
        "candidate_predictions": candidate_predictions,
    }
    _validate(arrays, label_names, limits, rounds)
    if same_model:
        return _same_model(baseline_predictions, candidate_predictions)
    pairs = Pairs.of(labels, baseline_predictions, candidate_predictions, label_names.index(limits.critical_label))
    absent = [name for name, support in zip(label_names, labels.sum(axis=0), strict=True) if support == 0]
    return judge(pairs, limits, rounds=rounds, seed=seed, absent=absent, plan=plan)


def judge(
    pairs: Pairs,
    limits: SafetyLimits,
    *,
    rounds: int,
    seed: int,
    absent: Sequence[str] = (),
    plan: bool = True,
) -> SafetyResult:
    """The verdict on comments counted by pattern; `check_safety_thresholds` checks and counts them first.

    Args:
        pairs: the comments, at least one.
        limits: the limits and the confidence of the bounds; the critical label is the one of `pairs`.
        rounds: bootstrap rounds, at least 100.
        seed: of the bootstrap.
        absent: labels without positives, named in the reason.
        plan: False leaves out `positives_needed`, which takes longer than the verdict.
    """
    drops = pairs.drops(pairs.counts @ pairs.features)
    uppers = np.maximum(pairs.upper_bounds(limits.confidence, rounds, seed), drops)
    verdict, reason = _verdict(drops, uppers, limits)
    if verdict == "inconclusive" and absent and not np.isnan(drops).any():
        reason += f"; no comment has the label {', '.join(map(repr, absent))}"
    needed = _positives_needed(pairs, drops, limits, seed) if plan and verdict == "inconclusive" else None
    values = {name: _or_none(drop) for name, drop in zip(DROPS, drops, strict=True)}
    values |= {f"{name}_upper": _or_none(upper) for name, upper in zip(DROPS, uppers, strict=True)}
    return SafetyResult(safety_verdict=verdict, reason=reason, positives_needed=needed, **values)


def _verdict(drops: FloatArray, uppers: FloatArray, limits: SafetyLimits) -> tuple[Verdict, str]:
    """The verdict and its reason; comparisons with NaN are false, so that it can only lead to `inconclusive`."""
    most = limits.of_drops

    def listed(values: FloatArray, chosen: npt.NDArray[np.bool_]) -> str:
        parts = zip(DROPS, values, most, chosen, strict=True)
        return ", ".join(f"{name} {value:.4f} (limit {limit:g})" for name, value, limit, shown in parts if shown)

    beyond, within = drops > most + ROUNDING, uppers <= most + ROUNDING
    if beyond.any():
        return "unsafe", f"beyond the limit: {listed(drops, beyond)}"
    if np.isnan(drops).any():
        return "inconclusive", f"no comment has the critical label {limits.critical_label!r}"
    if within.all():
        return "safe", f"every {limits.level} upper bound is within its limit"
    return "inconclusive", f"{limits.level} upper bound beyond the limit: {listed(uppers, ~within)}"


def _positives_needed(pairs: Pairs, drops: FloatArray, limits: SafetyLimits, seed: int) -> int | None:
    """Critical positives at which the same rates of difference would be `safe`, to 1 %; None where none would do."""
    most, positives = limits.of_drops, pairs.critical_positives()
    if (most == 0).any() or (drops >= most).any():
        return None
    # What identical predictions need, from the closed form of the recall bound; limits of 1 need no evidence.
    recall_limit = limits.max_critical_recall_drop
    least = math.ceil(math.log(1 - limits.confidence) / math.log1p(-recall_limit)) if recall_limit < 1 else 1
    if positives == 0:
        return least
    scale = pairs.scale_within(most, limits.confidence, seed)
    return None if scale is None else max(math.ceil(scale * positives), least if drops[2] >= 0 else 1)


def _same_model(baseline: npt.NDArray[Any], candidate: npt.NDArray[Any]) -> SafetyResult:
    differing = int((baseline != candidate).any(axis=1).sum())
    if differing:
        raise ValueError(f"same_model=True, but the predictions differ on {differing} comments; leave it False")
    zeros = {name + end: 0.0 for name in DROPS for end in ("", "_upper")}
    return SafetyResult(safety_verdict="safe", reason="the baseline itself", positives_needed=None, **zeros)


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _validate(
    arrays: dict[str, npt.NDArray[Any]], label_names: Sequence[str], limits: SafetyLimits, rounds: int
) -> None:
    if limits.critical_label not in label_names:
        raise ValueError(
            f"safety.critical_label={limits.critical_label!r}: no such label (has: {', '.join(label_names)}); name one"
        )
    if rounds < 100:
        raise ValueError(f"rounds={rounds}: too few for a {limits.level} bound; give at least 100")
    shape = arrays["labels"].shape
    for name, values in arrays.items():
        if values.ndim != 2 or values.shape != shape or shape[1] != len(label_names) or shape[0] == 0:
            raise ValueError(
                f"{name}: shape {values.shape}, labels {shape}, {len(label_names)} label names; give non-empty [n, L]"
            )
        strange = ~np.isin(values, (0, 1))
        if strange.any():
            raise ValueError(f"{name}: value {values[strange].flat[0]} is neither 0 nor 1; apply the thresholds first")
