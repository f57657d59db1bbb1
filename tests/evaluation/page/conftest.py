"""Studies to make pages of, and a browser to open them in."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from evaluation.front import front_rows
from evaluation.records import FIXED
from evaluation.study_files import Study

Browse = Callable[..., Any]
LABELS = ("bully", "threat")


def trial_frame(rows: int, seed: int = 0, labels: tuple[str, ...] = LABELS) -> pd.DataFrame:
    """A study's trials: teacher, floor, and chains of distillation, pruning, quantization with settings and drops."""
    rng = np.random.default_rng(seed)
    place = np.arange(rows) - 2
    step, trial = place % 3, place // 3
    stage = np.array(["after_kd", "after_pruning", "after_quantization"], dtype=object)[step]
    stage[:2] = "baseline", "classical"
    key = np.array([f"{number:064x}" for number in range(rows)], dtype=object)
    parent = np.where(step == 0, key[0], np.roll(key, 1))
    size = np.exp(rng.uniform(0, 4.5, rows)).round(4)
    f1 = np.clip(0.7 + 0.02 * np.log(size) + rng.normal(0, 0.02, rows), 0, 1)
    speedup = np.exp(rng.normal(1, 0.4, rows)) * 20 / (size + 10)
    size[0], f1[0], speedup[0] = 90.0, 0.8, 1.0
    drop = f1[0] - f1
    frame = pd.DataFrame({name: pd.Series([None] * rows, dtype=object) for name in FIXED})
    frame = frame.assign(
        study="study",
        trial=pd.array(np.where(place < 0, None, trial), dtype="Int64"),
        stage=stage,
        model_key=key,
        parent_key=np.where(place < 0, None, parent),
        status="ok",
        cache_hit=pd.array(rng.random(rows) < 0.3, dtype="boolean"),
        stage_seconds=rng.uniform(1, 100, rows).round(2),
        created_at=(pd.Timestamp("2026-01-01", tz="UTC") + pd.to_timedelta(np.arange(rows) * 7, unit="s")).map(
            lambda time: time.isoformat()
        ),
        f1_macro=f1,
        accuracy_exact=f1 - 0.1,
        critical_f1=f1 - 0.02,
        critical_recall=f1 - 0.03,
        model_size_mb=size,
        latency_p50_ms=10 / speedup,
        speedup_factor=speedup,
        speedup_low=speedup * 0.95,
        speedup_high=speedup * 1.05,
        tradeoff_score=f1 / size[0] + 1 / size,
        f1_drop=drop,
        f1_drop_upper=drop + 0.02,
        critical_f1_drop=drop,
        critical_f1_drop_upper=drop + 0.03,
        critical_recall_drop=drop,
        critical_recall_drop_upper=drop + 0.03,
        safety_verdict=np.select([drop > 0.05, drop > 0.02], ["unsafe", "inconclusive"], "safe"),
        positives_needed=pd.array(np.where((drop > 0.02) & (drop <= 0.05), 400, None), dtype="Int64"),
    )
    settings: dict[str, Any] = {
        "distil.method": np.where(place < 0, None, rng.choice(["logit", "hidden"], rows)),
        "distil.layers": pd.array(np.where(place < 0, None, rng.integers(1, 7, rows)), dtype="Int64"),
        "distil.temperature": np.where(place < 0, np.nan, rng.uniform(1, 9, rows).round(2)),
        "prune.method": np.where((place < 0) | (step == 0), None, rng.choice(["wanda", "magnitude"], rows)),
        "prune.sparsity": np.where((place < 0) | (step == 0), np.nan, rng.integers(1, 9, rows) / 10),
        "quantize.method": np.where((place < 0) | (step < 2), None, rng.choice(["int8_dynamic", "int4"], rows)),
    }
    by_label = {
        f"per_label_{name}.{label}": np.clip(f1 + rng.normal(0, 0.05, rows), 0, 1)
        for name in ("f1", "precision", "recall")
        for label in labels
    }
    return pd.concat([frame, pd.DataFrame({**settings, **by_label})], axis=1)


def study_of(trials: pd.DataFrame, *, tested: bool = True, **more: Any) -> Study:
    """The study with these trials, front and test figures computed from them."""
    front, references = front_rows(trials), trials[trials["stage"].isin(["baseline", "classical"])]

    def on_test(frame: pd.DataFrame) -> pd.DataFrame:
        columns = [name for name in trials.columns if name.startswith(("f1_", "per_label_", "accuracy", "critical_"))]
        test = (frame[columns] - 0.01).add_prefix("test_")
        return pd.concat([frame, test, frame[["safety_verdict"]].add_prefix("test_")], axis=1)

    given: dict[str, Any] = {
        "trials": trials,
        "front": on_test(front) if tested else front,
        "references": on_test(references) if tested else None,
        "folds": None,
        "flips": None,
        "within_noise": None,
        "trials_ended": max(trials["trial"].dropna(), default=-1) + 1,
        "name": "study",
        "preset": "baseline_kd_prune_quant",
        "critical_label": "threat",
        "label_columns": LABELS,
        "synthetic": True,
        "data": {},
        "environment": {},
    }
    return Study(**{**given, **more})


@pytest.fixture(scope="session")
def make_trials() -> Callable[..., pd.DataFrame]:
    return trial_frame


@pytest.fixture(scope="session")
def make_study() -> Callable[..., Study]:
    return study_of


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """A headless Chromium, started once."""
    api = pytest.importorskip("playwright.sync_api", reason="needs Python playwright")
    names = ("chromium", "chromium-browser", "google-chrome")
    program = next((found for name in names if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip(f"needs one of {', '.join(names)}")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def complaints() -> list[str]:
    """What the open tabs have complained of: console messages, errors, requests but for the file itself."""
    return []


@pytest.fixture(autouse=True)
def no_complaints(complaints: list[str]) -> Iterator[None]:
    """Fails each test whose tabs complained."""
    yield
    found = complaints[:]
    complaints.clear()
    assert found == []


@pytest.fixture(scope="module")
def browse(chromium: Any, complaints: list[str]) -> Iterator[Browse]:
    """Opens a file in a tab of its own, and returns the tab when all is drawn."""
    contexts: list[Any] = []

    def opened(path: Path, width: int = 1600, theme: str = "light", **more: Any) -> Any:
        def noted(request: Any) -> None:
            if request.url != path.as_uri() and not request.url.startswith(("data:", "blob:")):
                complaints.append(f"request: {request.url}")

        def dismissed(dialog: Any) -> None:
            complaints.append(f"dialog: {dialog.message}")
            dialog.dismiss()

        context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=theme, **more)
        contexts.append(context)
        tab = context.new_page()
        tab.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
        tab.on("pageerror", lambda error: complaints.append(f"error: {error}"))
        tab.on("dialog", dismissed)
        tab.on("request", noted)
        tab.goto(path.as_uri())
        if more.get("java_script_enabled", True):
            tab.wait_for_selector("html[data-drawn]", state="attached", timeout=60_000)
        return tab

    yield opened
    for context in contexts:
        context.close()
