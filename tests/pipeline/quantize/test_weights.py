"""Rounding against loops over single weights."""

import numpy as np
import pytest

from pipeline.quantize.weights import int4_blocks, int8_weights, pack_nibbles, uint8_range


def matrix(seed, rows=12, columns=64):
    """Rows of different size, some zeros, a column and a block of nothing but zeros, one of one sign."""
    random = np.random.default_rng(seed)
    weight = random.standard_normal((rows, columns)) * np.exp(random.normal(size=(rows, 1)))
    weight[random.random((rows, columns)) < 0.3] = 0.0
    weight[:, 3], weight[2, :32], weight[4] = 0.0, 0.0, np.abs(weight[4]) + 1.0
    return weight.astype(np.float32)


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_int8_is_within_half_a_scale_and_uses_its_range(seed, per_channel):
    weight = matrix(seed)
    stored, scale = int8_weights(weight, per_channel)
    assert stored.dtype == np.int8 and scale.dtype == np.float32
    assert stored.shape == weight.shape and scale.shape == ((64,) if per_channel else ())
    for (row, column), value in np.ndenumerate(weight):
        step = float(scale[column] if per_channel else scale)
        assert abs(int(stored[row, column]) * step - float(value)) <= 0.5 * step * (1 + 1e-5)
    assert (stored[weight == 0] == 0).all(), "zero stays zero"
    groups = [stored[:, c] for c in range(64) if weight[:, c].any()] if per_channel else [stored]
    assert all(np.abs(group.astype(int)).max() == 127 for group in groups)


@pytest.mark.parametrize("block_size", [16, 32, 64])
def test_int4_blocks_are_within_half_a_scale_and_hold_zero(block_size):
    weight = matrix(7)
    stored, scale, zero = int4_blocks(weight, block_size)
    assert stored.shape == weight.shape and scale.shape == zero.shape == (12, 64 // block_size)
    assert stored.max() == 15 and zero.max() <= 15 and stored.min() == 0
    for (row, column), value in np.ndenumerate(weight):
        block = column // block_size
        step = float(scale[row, block])
        assert abs((int(stored[row, column]) - int(zero[row, block])) * step - float(value)) <= 0.5 * step * (1 + 1e-5)
        if value == 0:
            assert stored[row, column] == zero[row, block]
    for row in range(12):
        for block in range(64 // block_size):
            part = weight[row, block * block_size : (block + 1) * block_size]
            span = max(part.max(), 0) - min(part.min(), 0)
            assert scale[row, block] == pytest.approx(span / 15 if span else 1 / 15)


@pytest.mark.parametrize("columns", [1, 2, 7, 8])
def test_packed_numbers_come_back(columns):
    values = np.random.default_rng(columns).integers(0, 16, (5, columns)).astype(np.uint8)
    packed = pack_nibbles(values)
    assert packed.dtype == np.uint8 and packed.shape == (5, -(-columns // 2))
    for (row, column), value in np.ndenumerate(values):
        byte = int(packed[row, column // 2])
        assert (byte // 16 if column % 2 else byte % 16) == value


@pytest.mark.parametrize(("low", "high"), [(-1.0, 3.0), (0.5, 3.0), (-3.0, -0.5), (-1e-30, 1e-30), (0.0, 0.0), (-7, 0)])
def test_a_range_is_mapped_to_256_numbers_with_zero_among_them(low, high):
    scale, zero = uint8_range(low, high)
    assert scale > 0 and scale.dtype == np.float32 and 0 <= int(zero) <= 255
    for value in (low, high, 0.0, 0.5 * (low + high)):
        number = np.clip(np.rint(value / float(scale)) + int(zero), 0, 255)
        assert abs((number - int(zero)) * float(scale) - value) <= 0.51 * float(scale)
    if high > low:
        assert scale == pytest.approx((max(high, 0) - min(low, 0)) / 255)
