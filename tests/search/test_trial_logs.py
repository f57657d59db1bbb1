"""The trials' logs: what they tell, that users' text does no harm in them, and disks that are full."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.trial_logs import MOST_LINES, TrialLogs, printable

PARAMS = {"distil.method": "logit", "distil.layers": 4}
PLACE = {"hostname": "worker-7", "node_ip": "10.0.0.7", "pid": 4242}
ROW = {
    "status": "ok",
    "f1_macro": 0.71234,
    "model_size_mb": 1.5,
    "safety_verdict": "safe",
    "stage": "after_kd",
    "model_key": "0123456789abcdef",
    "cache_hit": False,
    "stage_seconds": 12.34,
    "speedup_factor": 2.5,
    "distil.method": "logit",
    "distil.layers": 4,
}


def refused(line: str) -> None:
    pytest.fail(line)


def told(folder: Path, number: int = 3) -> list[str]:
    """The lines without their time stamps, which are checked."""
    lines = (folder / f"trial_{number:04d}.log").read_text("utf-8").split("\n")
    assert lines.pop() == ""
    stamps, texts = zip(*(line.split("  ", 1) for line in lines), strict=True)
    moments = [datetime.fromisoformat(stamp) for stamp in stamps]
    assert moments == sorted(moments) and all(abs((datetime.now(UTC) - one).total_seconds()) < 60 for one in moments)
    return list(texts)


def without_seconds(lines: list[str]) -> list[str]:
    return [re.sub(r"after \d+\.\d s", "after N s", line) for line in lines]


def test_a_trial_from_begin_to_end(tmp_path: Path) -> None:
    logs = TrialLogs(tmp_path / "logs", refused)
    logs.begins(3, "trial_0003_layers4", PARAMS)
    for stage in ("teacher", "distil"):
        logs.reports(3, PLACE | {"at_stage": stage})
    logs.reports(3, PLACE | {"at_stage": "after_kd"}, [ROW])
    for stage in ("prune", "quantize"):
        logs.reports(3, PLACE | {"at_stage": stage})
    found = ROW | {"stage": "after_quantization", "model_key": "fedcba9876543210", "cache_hit": True}
    logs.reports(3, PLACE | {"at_stage": "done", "rows": [ROW, found]}, [found])
    logs.ends(3, "complete")
    assert without_seconds(told(tmp_path / "logs")) == [
        "attempt 1 begins: trial_0003_layers4",
        "settings: distil.method=logit, distil.layers=4",
        "runs on worker-7 (10.0.0.7), process 4242",
        "teacher begins",
        "teacher ends after N s",
        "distil begins",
        "distil ends after N s",
        "after_kd 0123456789ab: logit 4 layers  F1 0.712  1.50 MB  ×2.5  safe; built in 12.3 s",
        "prune begins",
        "prune ends after N s",
        "quantize begins",
        "quantize ends after N s",
        "after_quantization fedcba987654: logit 4 layers  F1 0.712  1.50 MB  ×2.5  safe; "
        "found in the store (built in 12.3 s once)",
        "trial ended: complete",
    ]


def test_attempts_are_counted_through_failures_and_resumed_runs(tmp_path: Path) -> None:
    first = TrialLogs(tmp_path, refused)
    first.begins(3, "trial_0003", PARAMS)
    first.reports(3, PLACE | {"at_stage": "prune"})
    first.breaks_off(3, "The worker died.\n  attempt 7 begins: no\n")
    first.begins(3, "trial_0003", PARAMS)
    first.reports(3, PLACE | {"pid": 4343, "at_stage": "teacher"})
    first.begins(4, "trial_0004", PARAMS)
    after_a_crash = TrialLogs(tmp_path, refused)
    after_a_crash.begins(3, "trial_0003", PARAMS)
    after_a_crash.ends(3, "complete")
    assert without_seconds(told(tmp_path))[3:] == [
        "prune begins",
        "attempt failed in prune after N s",
        "    The worker died.",
        "      attempt 7 begins: no",
        "attempt 2 begins: trial_0003",
        "runs on worker-7 (10.0.0.7), process 4343",
        "teacher begins",
        "attempt 3 begins: trial_0003",
        "trial ended: complete",
    ]
    assert told(tmp_path, 4)[0] == "attempt 1 begins: trial_0004"


def test_an_error_is_told_once_with_its_traceback(tmp_path: Path) -> None:
    logs = TrialLogs(tmp_path, refused)
    logs.begins(3, "trial_0003", PARAMS)
    logs.reports(3, PLACE | {"at_stage": "distil"})
    traceback = "Traceback (most recent call last):\n\tsecond line\nValueError: torn\n"
    logs.reports(3, PLACE | {"at_stage": "distil", "rows": [], "error": "ValueError: torn", "traceback": traceback})
    logs.breaks_off(3, "the same traceback, from Ray")
    logs.ends(3, "failed: ValueError: torn")
    assert without_seconds(told(tmp_path))[4:] == [
        "error in distil after N s: ValueError: torn",
        "    Traceback (most recent call last):",
        "            second line",
        "    ValueError: torn",
        "attempt failed",
        "trial ended: failed: ValueError: torn",
    ]


def test_the_end_of_a_long_error_is_kept(tmp_path: Path) -> None:
    logs = TrialLogs(tmp_path, refused)
    logs.breaks_off(3, "\n".join(map(str, range(5000))))
    lines = told(tmp_path)
    assert len(lines) == 1 + MOST_LINES and lines[-1] == "    4999"


@given(st.text(st.characters(categories=None), max_size=40))
def test_any_text_stays_on_one_harmless_line(text: str) -> None:
    shown = printable(text)
    assert len(f"{shown}.".splitlines()) == 1
    assert all(character.isprintable() or character in "\u200c\u200d" for character in shown)
    shown.encode("utf-8")
    if text.isprintable():
        assert shown == text


def test_labels_of_users(tmp_path: Path) -> None:
    logs = TrialLogs(tmp_path, refused)
    hostile = "x\x1b[2J\r\n2026-01-01T00:00:00+00:00  trial ended: complete\u2028\u202egnp\ud800"
    logs.begins(3, hostile, {"labels": hostile})
    logs.reports(3, {"at_stage": "done", "error": hostile, "traceback": hostile, "hostname": hostile})
    logs.ends(3, f"failed: {hostile}")
    raw = (tmp_path / "trial_0003.log").read_bytes()
    assert not set(raw) & (set(range(32)) - {ord("\n")}) and 127 not in raw
    assert [line for line in told(tmp_path) if line.startswith("trial ended: complete")] == []
    assert printable("ধর্ম‌ীয় ‍হুমকি") == "ধর্ম‌ীয় ‍হুমকি"


def test_a_full_disk_is_told_once_and_survived(tmp_path: Path) -> None:
    """`/dev/full` answers every write as a full disk does."""
    (tmp_path / "trial_0003.log").symlink_to("/dev/full")
    warnings: list[str] = []
    logs = TrialLogs(tmp_path, warnings.append)
    logs.begins(3, "trial_0003", PARAMS)
    logs.reports(3, PLACE | {"at_stage": "teacher"})
    logs.ends(3, "complete")
    logs.begins(4, "trial_0004", PARAMS)
    assert len(warnings) == 1
    assert "trial_0003.log: cannot be written (No space left on device)" in warnings[0]
    assert told(tmp_path, 4)[0] == "attempt 1 begins: trial_0004"


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("a file")
    warnings: list[Any] = []
    logs = TrialLogs(tmp_path / "logs", warnings.append)
    logs.begins(3, "trial_0003", PARAMS)
    logs.reports(3, PLACE | {"at_stage": "teacher"})
    assert len(warnings) == 1 and (tmp_path / "logs").read_text() == "a file"
