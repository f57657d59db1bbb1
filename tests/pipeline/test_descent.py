"""The optimiser's settings, the schedule, and the state that a checkpoint takes from it."""

import numpy as np
import pytest
import torch
from transformers import get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup

from pipeline.config import TeacherConfig
from pipeline.descent import Descent, adamw, rate
from pipeline.models import build_scratch
from pipeline.objective import Examples, Recipe
from pipeline.tokens import Tokens
from pipeline.training import seeded


def model_of(seed=0):
    config = TeacherConfig(scratch_layers=1, scratch_width=16, scratch_heads=2, max_tokens=16, encoder_dropout=0.1)
    with seeded(seed):
        return build_scratch(config, 2, 30)


def recipe(**changes):
    return Recipe(**{"epochs": 2, "learning_rate": 1e-2, "batch_size": 16, "seed": 0} | changes)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize(("total", "fraction"), [(100, 0.1), (37, 0.3), (10, 0.0), (2, 0.1)])
def test_the_schedule_is_transformers_with_a_first_step_that_counts(schedule, total, fraction):
    rates = [rate(step, total, recipe(schedule=schedule, warmup_fraction=fraction)) for step in range(total)]
    warmup = max(1, round(fraction * total))
    make = {"linear": get_linear_schedule_with_warmup, "cosine": get_cosine_schedule_with_warmup}[schedule]
    parameter = torch.nn.Parameter(torch.zeros(1))
    theirs = make(torch.optim.SGD([parameter], lr=1.0), warmup, total).lr_lambdas[0]
    # Transformers begins at 0, a step that trains nothing; ours is one step ahead while warming up.
    expected = [theirs(step + 1) if step < warmup else theirs(step) for step in range(total)]
    np.testing.assert_allclose(rates, expected, atol=1e-12)
    assert max(rates) == pytest.approx(1.0) and min(rates) > 0
    if total == 100:
        assert np.all(np.diff(rates[:10]) > 0) and np.all(np.diff(rates[10:]) < 0) and rates[-1] < 0.03


def test_a_run_of_one_step_takes_it_at_the_fullrate():
    assert rate(0, 1, recipe()) == 1.0


def test_the_head_has_its_own_rate_and_only_matrices_decay():
    model = model_of()
    optimizer = adamw(model, recipe(learning_rate=0.01, head_learning_rate=0.5, weight_decay=0.07))
    found = {id(p): (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]}
    assert len(found) == len(list(model.parameters()))
    for name, parameter in model.named_parameters():
        rate = 0.5 if name.startswith("head.") else 0.01
        assert found[id(parameter)] == (rate, 0.07 if parameter.ndim == 2 else 0.0), name


def drawn(count, seed):
    random = np.random.default_rng(seed)
    tokens = Tokens(random.integers(5, 30, 6 * count, dtype=np.int32), np.arange(0, 6 * count + 1, 6))
    return Examples(tokens, random.integers(0, 2, (count, 2)).astype(np.float32))


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_another_descent_goes_on_from_the_state_as_the_first_one_does(schedule):
    examples = drawn(40, 1)
    batches = [np.arange(start, start + 8) for start in range(0, 40, 8)]
    settings = recipe(schedule=schedule, head_learning_rate=0.03, warmup_fraction=0.3)

    def begun(seed):
        model = model_of(seed)
        return model, Descent(model, examples, settings, None, 10, None)

    with seeded(3):
        model, descent = begun(0)
        descent.epoch(batches, 1)
        facts, tensors = descent.state()
        tensors = {name: tensor.clone() for name, tensor in tensors.items()}
        expected = descent.epoch(batches, 2)
    with seeded(4):
        other, later = begun(1)
        later.load_state(facts, tensors)
        assert later.epoch(batches, 2) == expected
    states = zip(model.state_dict().items(), other.state_dict().items(), strict=True)
    assert all(name == also and torch.equal(one, another) for (name, one), (also, another) in states)
    assert facts["rates"] == pytest.approx([peak * rate(5, 10, settings) for peak in (0.01, 0.01, 0.03, 0.03)])
