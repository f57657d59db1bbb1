"""Schedules against the paper's formula at every step, and the stage against the sparsity that was asked for."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from pipeline.config import PruneConfig
from pipeline.prune.gradual import Gradual, gradual_sparsity
from pipeline.prune.masks import Masks, matrices_in


def config_of(**settings):
    return PruneConfig(**{"method": "gradual", "sparsity": 0.8, "frequency": 1, **settings})


def by_the_paper(total, config):
    """Sparsity after each of the steps 0 to `total`, from the list of gradual steps t0, t0 + f, ..."""
    begin, end = round(config.begin_fraction * total), round(config.end_fraction * total)
    initial, final, values, current = config.initial_sparsity, config.sparsity, [], 0.0
    for step in range(total + 1):
        if step == end:
            current = final
        elif begin <= step < end and (step - begin) % config.frequency == 0:
            p = (step - begin) / (end - begin)
            if config.gradual_schedule == "cubic":  # equation 1
                current = final + (initial - final) * (1 - p) ** 3
            elif config.gradual_schedule == "linear":
                current = initial + p * (final - initial)
            else:  # density falls from 1 - initial to 1 - final at a constant rate
                current = 1 - math.exp((1 - p) * math.log(1 - initial) + p * math.log(1 - final))
        values.append(current)
    return values


@pytest.mark.parametrize("schedule", ["linear", "cubic", "exponential"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"initial_sparsity": 0.2, "begin_fraction": 0.1, "end_fraction": 0.5, "frequency": 7},
        {"end_fraction": 1.0, "frequency": 13},
        {"frequency": 1000, "begin_fraction": 0.5, "end_fraction": 0.9},
    ],
)
def test_the_schedule_is_its_formula_at_every_step(schedule, settings):
    config = config_of(gradual_schedule=schedule, **settings)
    ours = [gradual_sparsity(step, 200, config) for step in range(201)]
    np.testing.assert_allclose(ours, by_the_paper(200, config), rtol=0, atol=1e-12)
    assert ours[200] == 0.8


@given(
    st.sampled_from(["linear", "cubic", "exponential"]),
    st.integers(1, 60),
    st.integers(1, 70),
    st.lists(st.floats(0.0, 0.99), min_size=2, max_size=2, unique=True),
    st.lists(st.floats(0.01, 0.99), min_size=2, max_size=2, unique=True),
)
def test_it_never_falls_and_ends_with_the_whole_sparsity(schedule, total, frequency, window, sparsities):
    (begin, end), (initial, final) = sorted(window), sorted(sparsities)
    config = config_of(
        gradual_schedule=schedule,
        frequency=frequency,
        begin_fraction=begin,
        end_fraction=max(end, 0.01),
        initial_sparsity=initial,
        sparsity=final,
    )
    values = [gradual_sparsity(step, total, config) for step in range(total + 1)]
    assert np.diff(values).min() > -1e-12 and values[-1] == final
    assert all(value == 0.0 or initial - 1e-12 < value < final + 1e-12 for value in values)


@pytest.mark.parametrize("granularity", ["layer", "row", "global"])
def test_the_zeros_of_a_model_in_training_follow_the_schedule_and_never_come_back(random_encoder, granularity):
    config = config_of(scope="ffn", sparsity=0.7, end_fraction=0.6, frequency=3, granularity=granularity)
    model = random_encoder()
    masks = Masks(model)
    gradual, matrices, gone = Gradual(masks, config, granularity), matrices_in(model, "ffn"), None
    random = torch.Generator().manual_seed(0)
    for step in range(1, 21):
        with torch.no_grad():
            for matrix in matrices.values():
                matrix.weight.add_(0.1 * torch.randn(matrix.weight.shape, generator=random))
        gradual(step, 20)
        zeros = [matrix.weight == 0 for matrix in matrices.values()]
        asked = gradual_sparsity(step, 20, config)
        if granularity == "layer":
            assert [int(zero.sum()) for zero in zeros] == [round(asked * 480)] * 4
        elif granularity == "row":
            assert all((zero.sum(1) == round(asked * zero.shape[1])).all() for zero in zeros)
        else:
            assert sum(int(zero.sum()) for zero in zeros) == round(asked * 4 * 480)
        assert gone is None or all((now | ~then).all() for now, then in zip(zeros, gone, strict=True))
        gone = zeros
    assert sum(int(zero.sum()) for zero in gone) == pytest.approx(0.7 * 1920, abs=25)
    attention = matrices_in(model, "attention")
    assert all((matrix.weight != 0).all() for matrix in attention.values())


def test_an_epoch_of_less_sparsity_gives_way_to_the_last_and_one_of_the_whole_stays(random_encoder):
    model, config = random_encoder(), config_of(scope="attention", end_fraction=0.5)
    gradual = Gradual(Masks(model), config, "layer")
    weights = [matrix.weight for matrix in matrices_in(model, "attention").values()]
    states = {}
    for step in range(1, 11):
        with torch.no_grad():
            for weight in weights:
                weight.mul_(0.99)
        gradual(step, 10)
        states[step] = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for chosen, kept in ((2, 10), (4, 10), (5, 5), (8, 8), (10, 10)):
        model.load_state_dict(states[chosen])
        gradual.keep_full_sparsity()
        assert all(torch.equal(tensor, states[kept][name]) for name, tensor in model.state_dict().items()), chosen


@pytest.mark.parametrize("schedule", ["linear", "cubic", "exponential"])
@pytest.mark.parametrize(("epochs", "end"), [(1, 1.0), (3, 0.9)])
def test_the_stage_reaches_the_sparsity_to_the_weight(run_prune, schedule, epochs, end):
    pruned = run_prune(
        method="gradual",
        sparsity=0.613,
        gradual_schedule=schedule,
        epochs=epochs,
        end_fraction=end,
        frequency=3,
        learning_rate=2e-3,
    )
    matrices = [
        m for name, m in load_file(pruned.path / "model.safetensors").items() if ".layer." in name and m.ndim > 1
    ]
    assert len(matrices) == 12 and len(pruned.notes["history"]) == epochs
    assert all((matrix == 0).sum() == round(0.613 * matrix.size) for matrix in matrices)
    assert all(not np.signbit(matrix[matrix == 0]).any() for matrix in matrices)
    assert pruned.notes["scope_sparsity"] == pytest.approx(0.613, abs=1e-3)
