"""Safety verdicts: drops against scikit-learn, bounds against exact limits, and how often `safe` is wrong."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as sk

from evaluation import bootstrap
from evaluation.safety import SafetyLimits, check_safety_thresholds

LIMITS = SafetyLimits("threat")
RECALL_ONLY = SafetyLimits("threat", max_f1_drop=1, max_critical_f1_drop=1)


def check(labels, baseline, candidate, limits=LIMITS, **options):
    names = ["threat", "spam", "bully"][: labels.shape[1]]
    return check_safety_thresholds(labels, baseline, candidate, names, limits, **options)


def positives_with(lost, found, support):
    """One label [2·support, 1]: `lost` positives that only the baseline finds, `found` that only the candidate does."""
    labels = np.repeat([[1], [0]], support, axis=0)
    baseline, candidate = labels.copy(), labels.copy()
    candidate[:lost] = 0
    baseline[lost : lost + found] = 0
    return labels, baseline, candidate


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 3), st.integers(1, 60))
def test_drops_are_sklearns_and_bounds_lie_above_them(seed, label_count, n):
    rng = np.random.default_rng(seed)
    labels, baseline, candidate = (rng.random((3, n, label_count)) < 0.5).astype(int)
    result = check(labels, baseline, candidate, rounds=200)
    first, second = (
        sk.f1_score(labels[:, 0], p[:, 0], average="macro", labels=[0, 1], zero_division=0)
        if label_count == 1
        else sk.f1_score(labels, p, average="macro", zero_division=0)
        for p in (baseline, candidate)
    )
    assert result.f1_drop == pytest.approx(first - second, abs=1e-12)
    assert result.f1_drop_upper >= result.f1_drop
    if not labels[:, 0].any():
        assert result.critical_recall_drop is result.critical_f1_drop_upper is None
        assert not result.safe_for_deployment
        return
    for name, score in (("critical_f1_drop", sk.f1_score), ("critical_recall_drop", sk.recall_score)):
        first, second = (score(labels[:, 0], p[:, 0], zero_division=0) for p in (baseline, candidate))
        assert getattr(result, name) == pytest.approx(first - second, abs=1e-12)
        assert getattr(result, f"{name}_upper") >= getattr(result, name)


@pytest.mark.parametrize(("lost", "support"), [(0, 20), (0, 200), (1, 50), (3, 200), (20, 1000)])
def test_recall_bound_is_clopper_and_pearsons_when_nothing_is_found_anew(lost, support):
    exact = stats.beta.ppf(0.95, lost + 1, support - lost)
    result = check(*positives_with(lost, 0, support), RECALL_ONLY)
    assert result.critical_recall_drop_upper == pytest.approx(exact, rel=0.04)


def test_recall_bound_nears_the_normal_one_on_large_samples():
    lost, found, support = 900, 800, 20_000
    normal = 0.005 + stats.norm.ppf(0.95) * np.sqrt((lost + found) / support - 0.005**2) / np.sqrt(support)
    result = check(*positives_with(lost, found, support), RECALL_ONLY)
    assert result.critical_recall_drop_upper == pytest.approx(normal, rel=0.03)


def test_f1_bounds_are_those_of_a_paired_bootstrap_on_large_samples():
    rng = np.random.default_rng(1)
    labels = (rng.random((4000, 3)) < 0.4).astype(int)
    baseline = labels ^ (rng.random(labels.shape) < 0.15)
    candidate = baseline ^ (rng.random(labels.shape) < 0.05)
    result = check(labels, baseline, candidate)
    draws = []
    for _ in range(400):
        rows = rng.integers(0, len(labels), len(labels))
        drops = _f1(labels[rows], baseline[rows]) - _f1(labels[rows], candidate[rows])
        draws.append([drops[0], drops.mean()])
    critical, macro = np.quantile(draws, 0.95, axis=0)
    assert result.critical_f1_drop_upper == pytest.approx(critical, rel=0.08)
    assert result.f1_drop_upper == pytest.approx(macro, rel=0.08)


def _f1(labels, predictions):
    return 2 * (labels & predictions).sum(axis=0) / (labels.sum(axis=0) + predictions.sum(axis=0))


@pytest.mark.parametrize(
    ("support", "found_rate"),
    [(20, 0.0), (20, 0.05), (50, 0.0), (50, 0.02), (99, 0.0), (200, 0.0), (200, 0.01), (1000, 0.0)],
)
def test_safe_is_wrong_in_at_most_5_percent_of_samples(support, found_rate):
    """Over every sample that can occur when the true recall drop is 0.0301, just beyond the limit."""
    lost_rate = 0.0301 + found_rate
    wrong = 0.0
    for lost in range(support + 1):
        for found in range(support - lost + 1 if found_rate else 1):
            chance = stats.multinomial.pmf(
                [lost, found, support - lost - found], support, [lost_rate, found_rate, 1 - lost_rate - found_rate]
            )
            # A drop beyond the limit is never safe; the rest of the skipped samples weigh next to nothing.
            if lost - found <= 0.03 * support and chance > 3e-5:
                drop_upper = _recall_upper(lost, found, support)
                wrong += chance * (drop_upper <= 0.03)
    assert wrong <= 0.05


def _recall_upper(lost, found, support):
    labels, baseline, candidate = positives_with(lost, found, support)
    # One far limit keeps the check from searching for `positives_needed`, which is slow.
    limits = SafetyLimits("threat", max_critical_recall_drop=1, max_f1_drop=1, max_critical_f1_drop=1)
    return check(labels, baseline, candidate, limits, rounds=4000).critical_recall_drop_upper


def test_identical_predictions_are_safe_from_99_positives_on():
    verdicts = {support: check(*positives_with(0, 0, support)).safety_verdict for support in (20, 50, 90, 105, 1000)}
    assert verdicts == {20: "inconclusive", 50: "inconclusive", 90: "inconclusive", 105: "safe", 1000: "safe"}


def test_a_drop_of_exactly_the_limit_is_not_unsafe_and_one_more_miss_is():
    assert check(*positives_with(3, 0, 100), RECALL_ONLY).safety_verdict == "inconclusive"
    beyond = check(*positives_with(4, 0, 100), RECALL_ONLY)
    assert beyond.safety_verdict == "unsafe"
    assert not beyond.safe_for_deployment
    assert "critical_recall_drop 0.0400" in beyond.reason


def test_each_limit_can_make_it_unsafe():
    labels, baseline, candidate = positives_with(30, 0, 300)
    for name in ("max_f1_drop", "max_critical_f1_drop", "max_critical_recall_drop"):
        others = {"max_f1_drop": 1.0, "max_critical_f1_drop": 1.0, "max_critical_recall_drop": 1.0}
        assert (
            check(labels, baseline, candidate, SafetyLimits("threat", **others | {name: 0.01})).safety_verdict
            == "unsafe"
        )
    assert check(labels, baseline, candidate, SafetyLimits("threat", **others)).safety_verdict == "safe"


def test_a_rare_label_that_is_not_critical_keeps_macro_f1_open():
    labels = np.zeros((2000, 2), dtype=int)
    labels[:500, 0] = 1
    labels[:3, 1] = 1
    result = check(labels, labels, labels)
    assert result.critical_recall_drop_upper < 0.03
    assert result.f1_drop_upper > 0.05
    assert result.safety_verdict == "inconclusive"


@pytest.mark.parametrize(("lost", "found", "support"), [(0, 0, 50), (1, 0, 60), (2, 1, 80)])
def test_positives_needed_decide(lost, found, support):
    sample = positives_with(lost, found, support)
    needed = check(*sample).positives_needed
    enough, too_few = (int(np.ceil(part * needed / support * 100)) for part in (1.06, 0.9))
    for hundredths, verdict in ((enough, "safe"), (too_few, "inconclusive")):
        size = round(hundredths * support / 100)
        rates = (round(lost * hundredths / 100), round(found * hundredths / 100))
        exact_rates = lost == 0 or abs(rates[0] / size - lost / support) < 0.0005
        if exact_rates:
            assert check(*positives_with(*rates, size)).safety_verdict == verdict


def test_positives_needed_is_none_where_more_of_the_same_never_decides():
    assert check(*positives_with(3, 0, 100), RECALL_ONLY).positives_needed is None
    assert check(*positives_with(0, 0, 50), SafetyLimits("threat", max_critical_recall_drop=0)).positives_needed is None


@pytest.mark.parametrize(("label_count", "n", "seed"), [(1, 1000, 1), (3, 600, 2), (3, 1500, 3)])
def test_at_the_positives_needed_about_half_of_such_samples_are_safe(label_count, n, seed):
    rng = np.random.default_rng(seed)
    labels = (rng.random((n, label_count)) < 0.15).astype(int)
    baseline = labels ^ (rng.random(labels.shape) < np.where(labels, 0.15, 0.02))
    candidate = baseline ^ (rng.random(labels.shape) < 0.006)
    needed = check(labels, baseline, candidate).positives_needed
    share = n / labels[:, 0].sum()

    def safe_share(positives):
        safe = 0
        for _ in range(40):
            rows = rng.integers(0, n, round(positives * share))
            safe += check(labels[rows], baseline[rows], candidate[rows], rounds=300).safe_for_deployment
        return safe / 40

    assert safe_share(needed) >= 0.35
    assert safe_share(3 * needed) >= 0.8
    assert safe_share(needed / 4) <= 0.3


def test_what_cannot_be_computed_is_never_safe():
    labels, baseline, candidate = positives_with(0, 0, 300)
    without = check(labels * 0, baseline * 0, candidate * 0)
    assert (without.safety_verdict, without.critical_recall_drop, without.positives_needed) == (
        "inconclusive",
        None,
        99,
    )
    assert "no comment has the critical label 'threat'" in without.reason


def test_a_label_without_positives_keeps_macro_f1_open_and_is_named():
    labels = np.zeros((2000, 2), dtype=int)
    labels[:500, 0] = 1
    result = check(labels, labels, labels)
    assert (result.f1_drop, result.safety_verdict) == (0.0, "inconclusive")
    assert result.f1_drop_upper >= 0.5
    assert "no comment has the label 'spam'" in result.reason
    assert result.positives_needed is None


@pytest.mark.parametrize("positives", [10, 40])
def test_labels_that_go_together_are_lost_together(positives):
    """Identical predictions: F1 falls by x / (2 - x) where a share x of a label is missed, x being Beta(1, m)."""
    labels = np.zeros((5000, 3), dtype=int)
    labels[:2000, 0] = 1
    labels[-positives:, 1:] = 1
    x = 1 - 0.05 ** (1 / positives)
    assert check(labels, labels, labels).f1_drop_upper == pytest.approx(2 / 3 * x / (2 - x), rel=0.05)
    labels[-2 * positives : -positives, 1] = 1
    labels[-positives:, 1] = 0
    assert check(labels, labels, labels).f1_drop_upper == pytest.approx(1 / 3 * x / (2 - x), rel=0.05)


def test_the_same_model_is_safe_at_any_support():
    labels, baseline, candidate = positives_with(0, 0, 5)
    result = check(labels, baseline, candidate, same_model=True)
    assert (result.safety_verdict, result.critical_recall_drop_upper) == ("safe", 0.0)
    candidate[0] = 0
    with pytest.raises(ValueError, match="differ on 1 comments"):
        check(labels, baseline, candidate, same_model=True)


def test_seed_decides_and_blocks_do_not_matter(monkeypatch):
    sample = positives_with(4, 2, 200)
    first = check(*sample, rounds=4000)
    assert check(*sample, rounds=4000) == first
    assert check(*sample, rounds=4000, seed=1) != first
    monkeypatch.setattr(bootstrap, "BLOCK_CELLS", 1000)
    blocked = check(*sample, rounds=4000)
    assert blocked.critical_recall_drop_upper == pytest.approx(first.critical_recall_drop_upper, rel=0.05)


def test_columns_of_the_table():
    row = check(*positives_with(0, 0, 300)).to_flat_dict()
    assert list(row) == [
        "safety_verdict",
        "f1_drop",
        "f1_drop_upper",
        "critical_f1_drop",
        "critical_f1_drop_upper",
        "critical_recall_drop",
        "critical_recall_drop_upper",
        "positives_needed",
        "safe_for_deployment",
    ]
    assert row["safe_for_deployment"] is True
    assert all(type(row[name]) is float for name in row if "drop" in name)


ONES = np.ones((3, 1))


@given(st.data())
def test_what_is_not_0_or_1_or_of_another_length_is_named(data):
    label_count, n = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 20))
    names = ("labels", "baseline_predictions", "candidate_predictions")
    arrays = {name: np.ones((n, label_count)) for name in names}
    broken = data.draw(st.sampled_from(names))
    if data.draw(st.booleans()):
        value = data.draw(st.floats(width=64).filter(lambda x: x not in (0, 1)))
        arrays[broken][data.draw(st.integers(0, n - 1)), data.draw(st.integers(0, label_count - 1))] = value
        expected = f"^{broken}: value {re.escape(str(value))} is neither 0 nor 1"
    else:
        other = data.draw(st.integers(0, 40).filter(lambda length: length != n))
        arrays[broken] = np.ones((other, label_count))
        # Where the labels are of another length, it is the predictions that do not fit them.
        expected = "^(labels|baseline_predictions): shape" if broken == "labels" else f"^{broken}: shape"
    for same_model in (False, True):
        with pytest.raises(ValueError, match=expected):
            check(*arrays.values(), same_model=same_model)


@pytest.mark.parametrize(
    ("confidence", "told"), [(0.95, "95%"), (0.975, "97.5%"), (0.995, "99.5%"), (0.57, "57%"), (0.999999, "99.9999%")]
)
def test_the_confidence_is_told_as_it_was_set(confidence, told):
    limits = SafetyLimits("threat", confidence=confidence)
    few, many = np.ones((3, 2)), np.ones((2000, 2))
    assert check(many, many, many, limits).reason == f"every {told} upper bound is within its limit"
    assert check(few, few, few, limits).reason.startswith(f"{told} upper bound beyond the limit: ")
    with pytest.raises(ValueError, match=f"too few for a {told} bound"):
        check(few, few, few, limits, rounds=10)


@given(st.text().filter(lambda name: name not in ("threat", "spam")))
def test_an_unknown_critical_label_is_named(name):
    ones = np.ones((3, 2))
    with pytest.raises(ValueError, match=re.escape(f"critical_label={name!r}: no such label (has: threat, spam)")):
        check(ones, ones, ones, SafetyLimits(name))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: SafetyLimits("threat", max_f1_drop=float("nan")), r"safety\.max_f1_drop=nan"),
        (lambda: SafetyLimits("threat", max_critical_recall_drop=3), r"safety\.max_critical_recall_drop=3"),
        (lambda: SafetyLimits("threat", confidence=95), r"safety\.confidence=95"),
        (lambda: check(ONES, ONES, ONES, SafetyLimits("hate")), "critical_label='hate'"),
        (lambda: check(ONES, np.nan * ONES, ONES), "baseline_predictions: value nan"),
        (lambda: check(ONES, ONES, 0.7 * ONES), r"candidate_predictions: value 0\.7"),
        (lambda: check(ONES, ONES[:2], ONES), "baseline_predictions: shape"),
        (lambda: check(ONES[:0], ONES[:0], ONES[:0]), "labels: shape"),
        (lambda: check(ONES, ONES, ONES, rounds=10), "rounds=10"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
