import pytest

from search import budget
from search.budget import Budget
from search.sections import SearchConfig


def after(volumes: list[float], **settings: object) -> str | None:
    made = Budget(SearchConfig(**settings))
    for volume in volumes:
        made.trial_ended(volume)
    return made.spent


def test_without_limits_it_is_never_spent() -> None:
    assert after([1.0] * 1000) is None


@pytest.mark.parametrize(
    ("volumes", "over"),
    [
        ([0.0, 0.0, 0.0], False),
        ([0.0, 0.0, 0.0, 0.0], True),
        ([1.0, 1.0, 1.0, 1.0049], True),
        ([1.0, 1.0, 1.0, 1.01], False),
        ([1.0, 2.0, 2.0, 2.0], False),
        ([1.0, 2.0, 2.0, 2.0, 2.0], True),
        ([0.0, 0.0, 0.0, 0.1], False),
    ],
)
def test_three_trials_without_growth_are_enough(volumes: list[float], over: bool) -> None:
    spent = after(volumes, patience=3, min_growth_percent=1.0)
    assert (spent is not None) == over
    assert not over or "1 % in the last 3 trials (search.patience)" in str(spent)


def test_time_is_up_when_it_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(budget.time, "monotonic", lambda: now[0])
    made = Budget(SearchConfig(max_seconds=90))
    now[0] = 189.0
    assert made.spent is None
    now[0] = 190.0
    assert made.spent == "search.max_seconds=90 (1 min 30 s) have passed"
