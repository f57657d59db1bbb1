"""Multi-label stratified splits and folds.

Rows with the same combination of labels are dealt in proportion; the few that rounding leaves over are dealt one by
one, those with the most labels first, to the part that lacks their labels most. (Iterative stratification, Sechidis et
al. 2011, deals all rows that way; done for the remainders alone it is fast at a million rows and comes closer.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.config import DataConfig

if TYPE_CHECKING:
    from pandas import DataFrame

SPLITS = ("train", "validation", "test")
"""Names of the splits, in the order in which everything lists them."""


def split(frame: DataFrame, config: DataConfig) -> dict[str, NDArray[np.intp]]:
    """Ascending row positions of each of `SPLITS`; together they are every row once.

    Args:
        frame: different texts, one a row: `deduplicate` first, or a text may stand on both sides.
        config: label columns, fractions and seed.
    """
    labels = frame[list(config.label_columns)].to_numpy(dtype=np.int8)
    held_out = (config.validation_fraction, config.test_fraction)
    part = deal(labels, (1 - sum(held_out), *held_out), config.seed)
    return {name: np.flatnonzero(part == index) for index, name in enumerate(SPLITS)}


def folds(labels: ArrayLike, k: int, seed: int) -> list[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """The k pairs (train positions, validation positions) of a stratified cross-validation, each ascending.

    Args:
        labels: 0 or 1, shape (rows, labels).
        k: folds, from 2 to the number of rows; every row is validated in exactly one.
        seed: of the draw.

    Raises:
        ValueError: k is out of range.
    """
    labels = np.asarray(labels)
    if not 2 <= k <= len(labels):
        raise ValueError(f"k={k}: {len(labels)} rows can be cut into 2 to {len(labels)} folds")
    part = deal(labels, [1 / k] * k, seed)
    return [(np.flatnonzero(part != fold), np.flatnonzero(part == fold)) for fold in range(k)]


def deal(labels: ArrayLike, shares: ArrayLike, seed: int) -> NDArray[np.intp]:
    """The part that each row goes to, shape (rows,): parts and labels within parts have their shares up to rounding.

    Args:
        labels: 0 or 1, shape (rows, labels).
        shares: positive, sum 1, shape (parts,).
        seed: of the draw.
    """
    labels = np.asarray(labels, dtype=bool)
    shares = np.asarray(shares, dtype=np.float64)
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    _, combination = np.unique(np.packbits(labels, axis=1), axis=0, return_inverse=True)
    combination = combination.reshape(-1)[shuffled]
    ordered = shuffled[np.argsort(combination, kind="stable")]

    part = np.empty(len(labels), dtype=np.intp)
    remainders = []
    for rows in np.split(ordered, np.cumsum(np.bincount(combination))[:-1]):
        whole = np.floor(len(rows) * shares).astype(int)
        part[rows[: whole.sum()]] = np.repeat(np.arange(len(shares)), whole)
        remainders.append(rows[whole.sum() :])
    _deal_remainders(part, np.concatenate(remainders), labels, shares)
    return part


def _deal_remainders(
    part: NDArray[np.intp], remainders: NDArray[np.intp], labels: NDArray[np.bool_], shares: NDArray[np.float64]
) -> None:
    """Fills `part` at the positions `remainders`; all other rows are dealt already."""
    traits = np.column_stack([labels, np.ones(len(labels), dtype=bool)])  # the last one balances the sizes of the parts
    totals = np.maximum(traits.sum(axis=0), 1)
    dealt = np.setdiff1d(np.arange(len(labels)), remainders)
    lacking = shares[:, None] * np.ones(len(totals))
    for index in range(len(shares)):
        lacking[index] -= traits[dealt[part[dealt] == index]].sum(axis=0) / totals
    for row in remainders[np.argsort(-traits[remainders].sum(axis=1), kind="stable")]:
        own = traits[row]
        part[row] = chosen = lacking[:, own].sum(axis=1).argmax()
        lacking[chosen, own] -= 1 / totals[own]
