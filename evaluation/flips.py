"""Flips: the decisions that a compressed model takes otherwise than the teacher, comment by comment and label by label.

Averages hide who is harmed: two models of equal F1 may miss different comments. Hooker et al., "What Do Compressed Deep
Neural Networks Forget?", 2019, find the difference concentrated in few, rare examples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import pandas as pd

KINDS: Final = {
    (1, 0): "newly_missed",
    (0, 1): "newly_false",
    (1, 1): "newly_found",
    (0, 0): "newly_cleared",
}
"""What a flip is, by truth and the candidate's answer; the teacher gave the other answer. The first two are errors."""


def label_flips(
    labels: npt.NDArray[Any],
    teacher_predictions: npt.NDArray[Any],
    candidate_predictions: npt.NDArray[Any],
    label_names: Sequence[str],
) -> pd.DataFrame:
    """The decisions in which candidate and teacher differ, one row each, in the order of comments and labels.

    Args:
        labels: 0/1, shape [n, L].
        teacher_predictions: 0/1, shape [n, L].
        candidate_predictions: 0/1, shape [n, L].
        label_names: L names, in the order of the columns.

    Returns:
        columns `comment` (index of the row in the arrays), `label`, and `truth`, `teacher`, `candidate` (0 or 1).

    Raises:
        ValueError: shapes that do not fit, or values other than 0 and 1.
    """
    import pandas as pd

    arrays = {"truth": labels, "teacher": teacher_predictions, "candidate": candidate_predictions}
    _validate(arrays, label_names)
    comments, columns = np.nonzero(teacher_predictions != candidate_predictions)
    return pd.DataFrame(
        {
            "comment": comments.astype(np.int64),
            "label": pd.Series([label_names[column] for column in columns.tolist()], dtype="str"),
            **{name: values[comments, columns].astype(np.int8) for name, values in arrays.items()},
        }
    )


def count_flips(flips: pd.DataFrame, supports: Mapping[str, int]) -> pd.DataFrame:
    """How often each kind of flip occurs, label by label.

    Args:
        flips: of `label_flips`.
        supports: comments that have the label, by its name; the labels of the table, in its order.

    Returns:
        one row a label: `label, newly_missed, newly_false, newly_found, newly_cleared, support`. Newly missed and newly
        found comments are among the `support`; each kind is counted against the teacher.

    Raises:
        ValueError: a flip's label is not in `supports`.
    """
    import pandas as pd

    unknown = set(flips["label"]) - set(supports)
    if unknown:
        raise ValueError(f"flips: label {min(unknown)!r} is not in supports (has: {', '.join(supports)}); add it")
    counted = flips.groupby(["label", "truth", "candidate"]).size().to_dict()
    rows = [
        {
            "label": label,
            **{kind: int(counted.get((label, *case), 0)) for case, kind in KINDS.items()},
            "support": int(support),
        }
        for label, support in supports.items()
    ]
    return pd.DataFrame(rows, columns=["label", *KINDS.values(), "support"])


def flip_kinds(flips: pd.DataFrame) -> list[str]:
    """What each row of `label_flips` is: `newly_missed`, `newly_false`, `newly_found` or `newly_cleared`."""
    return [KINDS[case] for case in zip(flips["truth"], flips["candidate"], strict=True)]


def _validate(arrays: Mapping[str, npt.NDArray[Any]], label_names: Sequence[str]) -> None:
    shape = arrays["truth"].shape
    for name, values in arrays.items():
        if values.ndim != 2 or values.shape != shape or shape[1] != len(label_names):
            raise ValueError(
                f"{name}: shape {values.shape}, truth {shape}, {len(label_names)} label names; give arrays [n, L]"
            )
        wrong = ~np.isin(values, (0, 1))
        if wrong.any():
            raise ValueError(f"{name}: value {values[wrong].flat[0]} is neither 0 nor 1; apply the thresholds first")
