"""The front within noise against its definition in loops, and macro F1 draws against scikit-learn."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from evaluation import noise
from evaluation.front import front_rows
from evaluation.noise import macro_f1_draws, may_compete, within_noise
from pipeline.thresholds import f1_macro

ROUNDS = 200


def frame_of(**columns):
    count = len(columns["f1_macro"])
    speedup = np.asarray(columns.pop("speedup_factor", np.ones(count)), dtype=float)
    rows = {
        "model_key": [f"model{i}" for i in range(count)],
        "status": ["ok"] * count,
        "safety_verdict": ["safe"] * count,
        "model_size_mb": np.ones(count),
        "speedup_factor": speedup,
        "speedup_low": speedup,
        "speedup_high": speedup,
    }
    return pd.DataFrame(rows | columns)


def sklearn_macro_f1(labels, predictions, weights):
    options = {"average": "macro", "sample_weight": weights, "zero_division": 0}
    if labels.shape[1] == 1:
        return f1_score(labels[:, 0], predictions[:, 0], labels=[0, 1], **options)
    return f1_score(labels, predictions, **options)


@pytest.mark.parametrize("label_count", [1, 3])
def test_draws_are_sklearns_macro_f1_under_common_weights(label_count, monkeypatch):
    rng = np.random.default_rng(1)
    labels, first, second = (rng.random((3, 30, label_count)) < 0.4).astype(int)
    draws = macro_f1_draws(labels, {"a": first, "b": second}, rounds=100, seed=7)
    weights = np.random.default_rng(7).standard_exponential((100, 30))
    for key, predictions in (("a", first), ("b", second)):
        assert draws[key].shape == (100,)
        expected = [sklearn_macro_f1(labels, predictions, row) for row in weights]
        np.testing.assert_allclose(draws[key], expected, atol=1e-12)
    np.testing.assert_allclose(draws["b"], macro_f1_draws(labels, {"b": second}, 100, 7)["b"], atol=1e-12)
    monkeypatch.setattr(noise, "BLOCK_CELLS", 31)
    np.testing.assert_allclose(macro_f1_draws(labels, {"a": first}, 100, 7)["a"], draws["a"], atol=1e-12)


def test_draws_spread_as_the_sampling_of_comments_does():
    """Against many real samples of the same size from one population."""
    rng = np.random.default_rng(2)

    def sample(n):
        labels = (rng.random((n, 2)) < [0.3, 0.5]).astype(int)
        return labels, np.where(rng.random((n, 2)) < 0.8, labels, 1 - labels)

    spread = np.std([f1_macro(*sample(300)) for _ in range(400)])
    found = [macro_f1_draws(labels, {"a": p}, 500)["a"].std() for labels, p in (sample(300) for _ in range(5))]
    assert np.mean(found) == pytest.approx(spread, rel=0.15)


def by_definition(frame, draws, only_safe):
    """Rows that no row of the plain front dominates beyond noise, in loops; `draws` of `macro_f1_draws`."""
    rows = frame.to_dict("records")
    allowed = [
        row["status"] == "ok"
        and (row["safety_verdict"] == "safe" if only_safe else row["safety_verdict"] != "unsafe")
        and np.isfinite(row["f1_macro"])
        for row in rows
    ]
    competing = [row for row, ok in zip(rows, allowed, strict=True) if ok]

    def point(row):
        return (-row["f1_macro"], row["model_size_mb"], 1 / row["speedup_factor"])

    def plainly(j, i):
        return point(j) != point(i) and all(a <= b for a, b in zip(point(j), point(i), strict=True))

    def beyond(j, i):
        difference = np.sort(draws[j["model_key"]] - draws[i["model_key"]])
        # The 5 % point from below, of 200 draws: index floor(0.05 · 199).
        lower = min(difference[9], j["f1_macro"] - i["f1_macro"])
        same = all(j[n] == i[n] for n in ("speedup_factor", "speedup_low", "speedup_high"))
        worse = lower < -1e-9 or j["model_size_mb"] > i["model_size_mb"]
        worse = worse or not (same or j["speedup_low"] >= i["speedup_high"])
        better = j["model_size_mb"] < i["model_size_mb"] or j["speedup_low"] > i["speedup_high"] or lower > 1e-9
        return better and not worse

    front = [j for j in competing if not any(plainly(k, j) for k in competing)]
    return [ok and not any(beyond(j, i) for j in front) for i, ok in zip(rows, allowed, strict=True)]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.sampled_from([1, 3]), st.booleans())
def test_the_mask_is_the_definition(seed, count, label_count, only_safe):
    rng = np.random.default_rng(seed)
    labels = (rng.random((60, label_count)) < 0.4).astype(int)
    # Few different models, so that identical predictions, sizes and latencies are the rule.
    accuracies = rng.choice([0.6, 0.9, 0.97], size=4)
    answers = [np.where(rng.random(labels.shape) < accuracy, labels, 1 - labels) for accuracy in accuracies]
    which = rng.integers(0, 4, count)
    predictions = {f"model{i}": answers[which[i]] for i in range(count)}
    speedup = rng.choice([1.0, 2.0, 3.0], count)
    width = rng.choice([0.0, 0.1, 0.6], count)
    frame = frame_of(
        f1_macro=[f1_macro(labels, values) for values in predictions.values()],
        model_size_mb=rng.choice([1.0, 2.0], count),
        speedup_factor=speedup,
        speedup_low=speedup - width,
        speedup_high=speedup + width,
        safety_verdict=rng.choice(["safe", "inconclusive", "unsafe"], count, p=[0.7, 0.2, 0.1]),
        status=rng.choice(["ok", "stopped_unsafe"], count, p=[0.9, 0.1]),
    )
    frame.index = pd.Index(rng.permutation(count))
    draws = macro_f1_draws(labels, predictions, ROUNDS, seed)
    mask = within_noise(frame, draws, only_safe=only_safe)
    assert mask.shape == (count,) and mask.dtype == np.bool_
    assert mask.tolist() == by_definition(frame, draws, only_safe)
    plain = front_rows(frame)
    on_plain = plain.index[plain["on_safe_front" if only_safe else "on_front"]]
    assert mask[frame.index.isin(on_plain)].all(), "the plain front is part of it"


def test_a_model_a_little_worse_stays_and_a_much_worse_one_goes():
    rng = np.random.default_rng(3)
    labels = (rng.random((200, 2)) < 0.4).astype(int)
    # Against the best, the near one is wrong on 8 comments more and right on 6 more; the far one wrong on 60 more.
    wrong = {"best": range(40), "near": range(6, 48), "far": range(100)}
    predictions = {
        name: np.where(np.isin(range(200), rows)[:, None], 1 - labels, labels) for name, rows in wrong.items()
    }
    f1 = [f1_macro(labels, values) for values in predictions.values()]
    assert f1[0] > f1[1] > f1[2]
    frame = frame_of(model_key=["best", "near", "far"], f1_macro=f1, model_size_mb=[1.0, 2.0, 2.0])
    assert front_rows(frame)["model_key"].tolist() == ["best"]
    assert within_noise(frame, macro_f1_draws(labels, predictions)).tolist() == [True, True, False]


def test_identical_models_differ_by_size_and_latency_alone():
    labels = np.array([[1, 0], [0, 1], [1, 1], [0, 0]] * 5)
    predictions = {f"model{i}": np.roll(labels, 1, axis=0) for i in range(5)}
    draws = macro_f1_draws(labels, predictions)
    frame = frame_of(
        f1_macro=[0.5] * 5,
        model_size_mb=[1.0, 2.0, 1.0, 1.0, 1.0],
        speedup_factor=[2.0, 2.0, 2.0, 1.9, 1.5],
        speedup_low=[1.9, 1.9, 1.9, 1.8, 1.4],
        speedup_high=[2.1, 2.1, 2.1, 2.0, 1.6],
    )
    # Larger: gone. The same twice: both stay. Intervals that overlap: stays. Slower beyond both intervals: gone.
    assert within_noise(frame, draws).tolist() == [True, False, True, True, False]
    frame.loc[4, ["speedup_low", "speedup_high"]] = np.nan
    assert within_noise(frame, draws).tolist() == [True, False, True, True, True], "no interval, no verdict"


def test_what_may_compete_is_what_the_front_takes():
    frame = frame_of(f1_macro=[0.5, np.nan, 0.5, 0.5, 0.5, 0.5, 0.5])
    frame["status"] = ["ok", "ok", "failed", None, "ok", "ok", "ok"]
    frame["safety_verdict"] = ["inconclusive", "safe", "safe", "safe", "unsafe", None, "safe"]
    frame.loc[6, "speedup_factor"] = 0.0
    for only_safe, column in ((False, "on_front"), (True, "on_safe_front")):
        # Each row alone: on its front just when it may compete.
        alone = [bool(front_rows(frame.iloc[[i]])[column].any()) for i in range(len(frame))]
        assert may_compete(frame, only_safe=only_safe).tolist() == alone
    assert may_compete(frame).tolist() == [True, False, False, False, False, True, False]


def test_bad_input_is_named():
    labels = np.array([[1, 0], [0, 1]])
    for change, message in (
        ({"labels": labels[0]}, r"labels: shape \(2,\)"),
        ({"labels": labels + 1}, "labels: value 2 is neither"),
        ({"predictions": {"abc": labels[:1]}}, r"predictions of abc: shape \(1, 2\) differs"),
        ({"predictions": {"abc": labels * np.nan}}, "predictions of abc: value nan"),
        ({"rounds": 10}, "rounds=10"),
    ):
        with pytest.raises(ValueError, match=message):
            macro_f1_draws(**({"labels": labels, "predictions": {"abc": labels}} | change))
    frame = frame_of(f1_macro=[0.5])
    with pytest.raises(ValueError, match="draws: none of model model0"):
        within_noise(frame, {})
    with pytest.raises(ValueError, match=r"columns \['speedup_low'\]"):
        within_noise(frame.drop(columns="speedup_low"), {"model0": np.ones(100)})
    with pytest.raises(ValueError, match="confidence=95"):
        within_noise(frame, {"model0": np.ones(100)}, confidence=95)
