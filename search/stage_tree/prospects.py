"""What chains promise: hypervolume for seconds, of the whole chain and of its first missing stage alone.

A chain may be run whole, or begun and gone on with only where the model that its first stage leaves is worth it. The
second pays where the later stages cost as much as the first, as with small students of little data; where a student
trains for minutes and is quantized in seconds, it is as good to run the chain whole, and takes fewer trials.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from search.stage_tree.effects import FloatArray

SHORTEST_SECONDS = 0.1
PUT_OFF = 1.5
"""A chain is only begun if that promises this many times as much a second."""


@dataclass(frozen=True)
class Prospects:
    """Of several chains under each of several beliefs: all of shape [beliefs, chains]."""

    gain: FloatArray
    """Hypervolume, in any unit."""
    seconds: FloatArray
    begun_gain: FloatArray
    """Of the first missing stage's model alone."""
    begun_seconds: FloatArray

    @property
    def per_second(self) -> FloatArray:
        """Of the whole chain, shape [beliefs, chains]."""
        return np.asarray(self.gain / np.maximum(self.seconds, SHORTEST_SECONDS), dtype=np.float64)

    @property
    def better_begun(self) -> npt.NDArray[np.bool_]:
        """Whether it pays to decide on the rest when the first missing stage is measured, shape [chains].

        Then the rest is run under those beliefs alone in which it gives more a second than such chains do.
        """
        rate = _mean_rate(self.gain, self.seconds)
        more, longer = self.gain - self.begun_gain, self.seconds - self.begun_seconds
        goes_on = more > PUT_OFF * rate * longer
        begun = _mean_rate(self.begun_gain + more * goes_on, self.begun_seconds + longer * goes_on)
        return np.asarray(begun > PUT_OFF * rate, dtype=np.bool_)


def _mean_rate(gain: FloatArray, seconds: FloatArray) -> FloatArray:
    """Mean gain by mean seconds over beliefs, shape [chains]."""
    return np.asarray(gain.mean(axis=0) / np.maximum(seconds.mean(axis=0), SHORTEST_SECONDS), dtype=np.float64)
