"""Columns of records as arrays, whatever their nulls."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from evaluation.records import plain_value


def numbers(frame: pd.DataFrame, name: str) -> npt.NDArray[np.float64]:
    """The column as floats, NaN where null; all NaN when there is none. Shape [rows]."""
    if name not in frame.columns:
        return np.full(len(frame), np.nan)
    column = pd.to_numeric(frame[name])
    if column.dtype == object:  # nothing but None
        return np.full(len(frame), np.nan)
    return column.to_numpy(dtype=np.float64, na_value=np.nan)


def truth(frame: pd.DataFrame, name: str) -> npt.NDArray[np.bool_]:
    """The boolean column, False where null; all False when there is none. Shape [rows]."""
    if name not in frame.columns:
        return np.zeros(len(frame), dtype=np.bool_)
    return np.array([plain_value(value) is True for value in frame[name]], dtype=np.bool_)


def equals(frame: pd.DataFrame, name: str, value: str) -> npt.NDArray[np.bool_]:
    """Where the column of texts is `value`; False where null. Shape [rows]."""
    return (frame[name].astype(object) == value).to_numpy(dtype=np.bool_)
