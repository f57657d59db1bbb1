"""The training loop on sets that can be learnt, must not be learnt, or blow up."""

import copy

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score, log_loss

from pipeline.config import DistilConfig, TeacherConfig
from pipeline.models import build_scratch
from pipeline.ngram_student import NgramBag
from pipeline.tokens import Tokens
from pipeline.training import (
    Examples,
    Recipe,
    TrainingDiverged,
    predict_logits,
    seeded,
    train,
    validate,
)

VOCABULARY = 30


def examples_of(comments, labels, teacher_logits=None):
    flat = np.array([token for comment in comments for token in comment], dtype=np.int32)
    tokens = Tokens(flat, np.cumsum([0, *map(len, comments)]))
    return Examples(tokens, np.array(labels, dtype=np.float32), teacher_logits)


def learnable(count, seed):
    """Comments of 2 to 9 tokens; label 0 holds where token 5 occurs, label 1 where token 6 does."""
    random = np.random.default_rng(seed)
    comments = [random.integers(5, VOCABULARY, random.integers(2, 10)).tolist() for _ in range(count)]
    for token in (5, 6):
        for comment in comments:
            if random.random() < 0.4:
                comment[int(random.integers(len(comment)))] = token
    return examples_of(comments, [[5 in comment, 6 in comment] for comment in comments])


def model_of(seed=0, dropout=0.1):
    config = TeacherConfig(
        scratch_layers=1, scratch_width=16, scratch_heads=2, max_tokens=16, pooling="max", dropout=dropout
    )
    with seeded(seed):
        return build_scratch(config, 2, VOCABULARY)


def recipe(**changes):
    return Recipe(**{"epochs": 2, "learning_rate": 1e-2, "batch_size": 16, "seed": 0} | changes)


def trained(settings, examples, validation, seed=0):
    model = model_of()
    with seeded(seed):
        history = train(model, examples, validation, settings)
    return model, history


def same_weights(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def test_a_learnable_set_is_learnt():
    validation = learnable(100, 2)
    model, history = trained(recipe(epochs=8), learnable(300, 1), validation)
    losses = [entry["total_loss"] for entry in history]
    assert losses[-1] < 0.3 * losses[0]
    assert [entry["epoch"] for entry in history] == list(range(1, 9))
    assert max(entry["val_macro_f1"] for entry in history) > 0.9
    predicted = predict_logits(model, validation.tokens) > 0
    assert f1_score(validation.labels > 0, predicted, average="macro") > 0.85
    assert not model.training


def test_the_same_seed_gives_the_same_weights_and_another_seed_others():
    examples, validation = learnable(60, 1), learnable(40, 2)
    model, history = trained(recipe(), examples, validation)
    torch.rand(3)  # what happened before in the process does not matter
    again, again_history = trained(recipe(), examples, validation)
    assert same_weights(model, again)
    without_seconds = [{k: v for k, v in entry.items() if k != "seconds"} for entry in history]
    assert without_seconds == [{k: v for k, v in entry.items() if k != "seconds"} for entry in again_history]
    assert not same_weights(model, trained(recipe(seed=1), examples, validation)[0]), "another order"
    assert not same_weights(model, trained(recipe(), examples, validation, seed=1)[0]), "another dropout"


def test_seeded_repeats_its_numbers_and_gives_the_old_state_back():
    torch.manual_seed(5)
    expected = torch.rand(4)
    torch.manual_seed(5)
    with seeded(9):
        first = torch.rand(2)
    assert torch.equal(torch.rand(4), expected)
    with seeded(9):
        assert torch.equal(torch.rand(2), first)


def test_the_weights_of_the_best_epoch_are_kept():
    # Trained on the opposite of what validation asks for, the model gets worse with every epoch.
    examples, validation = learnable(200, 1), learnable(100, 2)
    opposite = Examples(examples.tokens, 1.0 - examples.labels)
    model, history = trained(recipe(epochs=4, learning_rate=3e-3), opposite, validation)
    scores = [entry["val_macro_f1"] for entry in history]
    best = history[int(np.argmax(scores))]
    assert scores[-1] < max(scores) - 0.05
    now = validate(model, validation)
    assert now == {name: best[name] for name in now}


def test_after_step_holds_a_mask():
    examples, validation = learnable(60, 1), learnable(40, 2)

    def run(held):
        model = model_of()
        weight = model.encoder.encoder.layer[0].intermediate.dense.weight
        mask = torch.rand(weight.shape, generator=torch.Generator().manual_seed(3)) < 0.5
        calls = []

        def hold(done=0, total=9):
            calls.append((done, total))
            with torch.no_grad():
                weight.mul_(mask)

        hold()
        before = weight.detach().clone()
        train(model, examples, validation, recipe(epochs=3, batch_size=20), after_step=hold if held else None)
        return weight.detach(), mask, before, calls[1:]

    weight, mask, before, steps = run(held=True)
    assert [done for done, _ in steps] == list(range(1, len(steps) + 1)), "after every step, counted from one"
    assert len(steps) >= 3 * 3 and {total for _, total in steps} == {len(steps)}, "all steps of three epochs"
    assert (weight[~mask] == 0).all()
    assert (weight[mask] != before[mask]).float().mean() > 0.9
    free, mask, _, _ = run(held=False)
    assert (free[~mask] != 0).float().mean() > 0.9, "nothing but the callback holds the zeros"


@pytest.mark.parametrize("rows", [20, 300], ids=["one-step", "many-steps"])
def test_a_huge_learning_rate_is_reported_as_divergence(rows):
    settings = recipe(learning_rate=1e38, epochs=1, batch_size=20, clip_norm=1e30)
    with pytest.raises(TrainingDiverged, match="lower the learning rate"):
        train(model_of(), learnable(rows, 1), learnable(20, 2), settings)


def test_nan_weights_and_nan_teachers_are_reported_as_divergence():
    examples, validation = learnable(40, 1), learnable(20, 2)
    broken = model_of()
    with torch.no_grad():
        broken.head.bias.fill_(float("nan"))
    with pytest.raises(TrainingDiverged, match="epoch 1, step 1"):
        train(broken, examples, validation, recipe())
    with pytest.raises(TrainingDiverged):
        validate(broken, validation)
    taught = Examples(examples.tokens, examples.labels, np.full((40, 2), np.nan, dtype=np.float32))
    with pytest.raises(TrainingDiverged):
        train(model_of(), taught, validation, recipe(alpha=0.5))


def test_the_clip_limits_a_step():
    examples, validation = learnable(40, 1), learnable(20, 2)
    start = model_of(dropout=0.0)
    moved = []
    for clip in (1e-12, 1.0):
        model = copy.deepcopy(start)
        # The gradient is far below AdamW's epsilon once it is clipped to 1e-12, so that the step vanishes.
        with seeded(0):
            train(model, examples, validation, recipe(epochs=1, clip_norm=clip, weight_decay=0.0))
        moved.append((model.head.weight - start.head.weight).abs().max().item())
    assert moved[0] < 0.01 * moved[1]


def test_the_history_tells_soft_hard_and_their_weighted_sum():
    examples, validation = learnable(64, 1), learnable(20, 2)
    teacher = np.random.default_rng(0).normal(0, 2, (64, 2)).astype(np.float32)
    taught = Examples(examples.tokens, examples.labels, teacher)
    _, (entry,) = trained(recipe(epochs=1, alpha=0.3, temperature=2.0), taught, validation)
    assert entry["total_loss"] == pytest.approx(0.3 * entry["soft_loss"] + 0.7 * entry["hard_loss"], rel=1e-5)
    assert entry["soft_loss"] > 0
    _, (plain,) = trained(recipe(epochs=1), taught, validation)
    assert plain["soft_loss"] == 0 and plain["total_loss"] == plain["hard_loss"]


def test_the_loss_of_an_epoch_is_the_mean_over_comments():
    # A learning rate of nearly nothing leaves the model as it was: the epoch's loss is then the model's own.
    examples = learnable(50, 1)  # 16 + 16 + 16 + 2: the last batch must not count like a full one
    model = model_of(dropout=0.0)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    probabilities = 1 / (1 + np.exp(-predict_logits(model, examples.tokens).astype(np.float64)))
    (entry,) = train(model, examples, learnable(20, 2), recipe(epochs=1, learning_rate=1e-30))
    expected = np.mean([log_loss(examples.labels[:, i], probabilities[:, i]) for i in range(2)])
    assert entry["hard_loss"] == pytest.approx(expected, rel=1e-4)


def test_validate_is_sklearns():
    model, validation = model_of(3), learnable(80, 4)
    found = validate(model, validation)
    probabilities = 1 / (1 + np.exp(-predict_logits(model, validation.tokens).astype(np.float64)))
    truth = validation.labels > 0
    macro = {t: f1_score(truth, probabilities >= t, average="macro", zero_division=0) for t in np.arange(6, 13) / 20}
    predicted = probabilities >= found["val_best_threshold"]
    assert found["val_macro_f1"] == pytest.approx(max(macro.values()))
    assert macro[found["val_best_threshold"]] == pytest.approx(max(macro.values()))
    assert found["val_f1"] == pytest.approx(f1_score(truth, predicted, average="micro", zero_division=0))
    assert found["val_accuracy"] == pytest.approx((predicted == truth).all(axis=1).mean())
    expected = np.mean([log_loss(truth[:, i], probabilities[:, i]) for i in range(2)])
    assert found["val_loss"] == pytest.approx(expected, rel=1e-5)


def test_predict_logits_gives_each_comment_the_answer_it_gets_alone():
    model, examples = model_of(), learnable(70, 5)  # more than one batch
    together = predict_logits(model, examples.tokens)
    assert together.shape == (70, 2)
    for i in range(70):
        ids = examples.tokens.ids[examples.tokens.offsets[i] : examples.tokens.offsets[i + 1]]
        with torch.inference_mode():
            alone = model(torch.tensor([ids.tolist()]), torch.ones(1, len(ids), dtype=torch.long))
        np.testing.assert_allclose(together[i], alone[0].numpy(), rtol=1e-4, atol=1e-5)


def test_one_very_long_comment_is_not_what_all_others_are_padded_to():
    random = np.random.default_rng(0)
    comments = [random.integers(0, 256, length).tolist() for length in [*random.integers(1, 500, 140), 100_000]]
    tokens = examples_of(comments, np.zeros((len(comments), 2))).tokens
    with seeded(0):
        bag = NgramBag(DistilConfig(method="logit", student="ngram", buckets=256, dimension=4), 2).eval()
    sizes = []
    handle = bag.register_forward_pre_hook(lambda _, inputs: sizes.append(tuple(inputs[0].shape)))
    together = predict_logits(bag, tokens)
    handle.remove()
    assert max(rows * longest for rows, longest in sizes) < 2 * 100_000
    assert [rows for rows, _ in sizes] == [64, 64, 12, 1], "ordinary comments are batched as ever"
    for i in (0, 70, 140):
        alone = bag(*map(torch.from_numpy, tokens.pad(np.array([i]), 0))).detach().numpy()
        np.testing.assert_allclose(together[i], alone[0], rtol=1e-4, atol=1e-6)


def test_select_takes_rows_in_the_order_asked():
    examples = learnable(30, 6)
    examples = Examples(examples.tokens, examples.labels, np.arange(60, dtype=np.float32).reshape(30, 2))
    rows = np.array([17, 3, 29, 3])
    chosen = examples.select(rows)
    ids, mask = chosen.tokens.pad(np.arange(4), 0)
    expected_ids, expected_mask = examples.tokens.pad(rows, 0)
    np.testing.assert_array_equal(ids, expected_ids)
    np.testing.assert_array_equal(mask, expected_mask)
    np.testing.assert_array_equal(chosen.labels, examples.labels[rows])
    np.testing.assert_array_equal(chosen.teacher_logits, [[34, 35], [6, 7], [58, 59], [6, 7]])
