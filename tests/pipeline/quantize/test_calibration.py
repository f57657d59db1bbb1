"""Ranges against loops over single, unpadded comments, quantiles, and the definition of the divergence."""

import math

import numpy as np
import pytest
import torch

from pipeline.quantize.calibration import (
    BINS,
    LEVELS,
    activation_ranges,
    calibration_rows,
    entropy_range,
    merging_divergence,
    percentile_range,
    quantizable,
)
from pipeline.tokens import Tokens


@pytest.fixture(scope="module")
def tokens():
    """50 comments of 1 to 24 tokens."""
    random = np.random.default_rng(5)
    lengths = random.integers(1, 25, 50)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return Tokens(random.integers(1, 300, offsets[-1]).astype(np.int32), offsets)


@pytest.fixture(scope="module")
def inputs(encoder, tokens):
    """What each layer is fed with, every comment alone and without padding."""
    seen = {name: [] for name in quantizable(encoder.model)}
    handles = [
        layer.register_forward_pre_hook(lambda _, given, name=name: seen[name].append(given[0].numpy().ravel()))
        for name, layer in quantizable(encoder.model).items()
    ]
    with torch.inference_mode():
        for start, end in zip(tokens.offsets[:-1], tokens.offsets[1:], strict=True):
            ids = torch.from_numpy(tokens.ids[start:end].astype(np.int64))[None]
            encoder.model(ids, torch.ones_like(ids))
    for handle in handles:
        handle.remove()
    return {name: np.concatenate(parts) for name, parts in seen.items()}


def test_minmax_is_that_of_the_real_tokens_alone(encoder, tokens, inputs):
    ranges = activation_ranges(encoder.model, tokens)
    assert set(ranges) == set(inputs) and len(ranges) == 12
    for name, values in inputs.items():
        assert ranges[name] == pytest.approx((values.min(), values.max()), abs=1e-5), name


def test_calibration_leaves_the_model_as_it_was(encoder, tokens):
    activation_ranges(encoder.model, tokens)
    assert not any(module._forward_pre_hooks for module in encoder.model.modules())
    assert (encoder.torch(encoder.model) == encoder.logits).all()


def test_percentile_cuts_the_tails_of_the_layers_inputs(encoder, tokens, inputs):
    ranges = activation_ranges(encoder.model, tokens, "percentile")
    for name, values in inputs.items():
        bin_width = float(values.max() - values.min()) / BINS
        low, high = np.quantile(values, [0.00005, 0.99995], method="inverted_cdf")
        assert ranges[name] == pytest.approx((low, high), abs=1.01 * bin_width + 1e-5), name


@pytest.mark.parametrize("percentile", [100.0, 99.0, 90.0])
def test_percentile_range_is_the_quantiles_to_a_bin(percentile):
    values = np.random.default_rng(0).gamma(2.0, size=20_000) - 1.0
    low, high = values.min(), values.max()
    counts = np.histogram(values, BINS, (low, high))[0]
    cut = (1 - percentile / 100) / 2
    expected = np.quantile(values, [cut, 1 - cut])
    assert percentile_range(counts, low, high, percentile) == pytest.approx(expected, abs=1.01 * (high - low) / BINS)


def merged_by_hand(counts, bins):
    """The divergence, bin by bin."""
    first = [float(count) for count in counts[:bins]]
    second = [0.0] * bins
    edges = [round(level * bins / LEVELS) for level in range(LEVELS + 1)]
    for start, end in zip(edges[:-1], edges[1:], strict=True):
        filled = [i for i in range(start, end) if counts[i] > 0]
        for i in filled:
            second[i] = sum(counts[start:end]) / len(filled)
    first[-1] += sum(counts[bins:])
    total, levels = sum(first), sum(second)
    return sum(p / total * math.log(p / total / (q / levels)) for p, q in zip(first, second, strict=True) if p > 0)


@pytest.mark.parametrize("bins", [128, 144, 1024, 2048])
def test_the_divergence_is_that_of_its_definition(bins):
    counts = np.random.default_rng(1).poisson(np.linspace(50, 1, 2048)) + 1.0
    counts[::7] = 0
    counts[bins - 1] += 1
    assert merging_divergence(counts, bins) == pytest.approx(merged_by_hand(counts, bins), rel=1e-9, abs=1e-12)


def test_entropy_gives_up_outliers_and_nothing_of_what_is_full_to_the_edge():
    random = np.random.default_rng(2)
    outliers = np.concatenate([random.standard_normal(100_000), [60.0, -55.0]])
    low, high = entropy_range(np.histogram(outliers, BINS, (-55.0, 60.0))[0], -55.0, 60.0)
    assert -8 < low < -2.5 and 2.5 < high < 8
    flat = random.uniform(-1.0, 1.0, 500_000)
    low, high = entropy_range(np.histogram(flat, BINS, (-1.0, 1.0))[0], -1.0, 1.0)
    assert low < -0.97 and high > 0.97


def test_entropy_stays_within_what_was_seen(encoder, tokens, inputs):
    ranges = activation_ranges(encoder.model, tokens, "entropy")
    for name, values in inputs.items():
        low, high = ranges[name]
        assert values.min() - 1e-5 <= low < 0 < high <= values.max() + 1e-5, name


def test_nothing_seen_is_no_range():
    assert entropy_range(np.zeros(BINS, dtype=np.int64), 0.0, 0.0) == (0.0, 0.0)
    assert percentile_range(np.array([4] + [0] * (BINS - 1)), 0.0, 0.0) == (0.0, 0.0)


def test_calibration_rows_are_drawn_by_the_seed():
    rows = calibration_rows(1000, 100, 3)
    assert len(set(rows)) == 100 and (np.diff(rows) > 0).all() and rows[0] >= 0 and rows[-1] < 1000
    assert (rows == calibration_rows(1000, 100, 3)).all()
    assert (rows != calibration_rows(1000, 100, 4)).any()
    assert (calibration_rows(7, 100, 0) == np.arange(7)).all()
