"""A study that begins with another's front: which chains, in which order, and what is said of the others."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest

from evaluation.records import write_records
from pipeline.errors import InputError
from search.optuna_study import opened
from search.sampler import study_sampler
from search.searcher import ParetoSearcher
from search.space import point_problems
from search.start import checked, claim_folder
from search.study_file import load_study, study_from
from search.warm_start import POINTS, earlier_fronts, front_chains, warm_started

ROOT = Path(__file__).parents[2]
SMOKE = ROOT / "search" / "studies" / "smoke.yaml"
NONE = {"distil.method": "none", "prune.method": "none", "quantize.method": "none"}
STAGE = {"distil": "after_kd", "prune": "after_pruning", "quantize": "after_quantization"}
SPACE: dict[str, Any] = {
    "distil": {"method": {"choices": ["none", "logit"]}, "layers": {"choices": [1, 2]}, "epochs": 5},
    "prune": {"method": {"choices": ["none", "wanda"]}, "sparsity": {"low": 0.1, "high": 0.9, "step": 0.1}},
    "quantize": {"method": {"choices": ["none", "fp16"]}},
}


def row(key: str, f1: float, size: float, tradeoff: float | None, chain: dict[str, Any], **changes: Any) -> Any:
    """A measured model; no two are alike in macro F1 and size, so that dominance is plain to see."""
    applied = [stage for stage in STAGE if chain.get(f"{stage}.method", "none") != "none"]
    stage = STAGE[applied[-1]] if applied else "baseline"
    made = {"study": "old", "trial": 0, "stage": stage, "model_key": key, "status": "ok", "safety_verdict": "safe"}
    return (
        made
        | {"f1_macro": f1, "model_size_mb": size, "speedup_factor": 1.0, "tradeoff_score": tradeoff}
        | chain
        | changes
    )


LOGIT = {"distil.method": "logit", "distil.student": "layers", "distil.layers": 2, "distil.epochs": 3}
SPARSE = {"prune.method": "wanda", "prune.sparsity": 0.3, "prune.scope": "encoder"}
ROWS = [
    row("teacher", 0.95, 90.0, 0.5, {}),
    row("floor", 0.94, 80.0, 0.9, {}, stage="classical"),
    row("student", 0.90, 9.0, 0.6, LOGIT),
    row("sparse", 0.89, 8.0, None, LOGIT | SPARSE),
    row("best", 0.85, 5.0, 0.9, NONE | LOGIT | {"quantize.method": "fp16"}),
    row("small", 0.80, 2.0, 0.7, LOGIT | {"distil.layers": 3}),
    row("dominated", 0.79, 3.0, 1.0, LOGIT | {"distil.layers": 1}),
    row("unsafe", 0.93, 1.0, 1.0, LOGIT | {"distil.layers": 1}, safety_verdict="unsafe"),
    row("stopped", 0.92, 1.5, 1.0, LOGIT | {"distil.layers": 1}, status="stopped_unsafe"),
    {"study": "old", "trial": 1, "stage": "after_kd", "status": "failed", "error": "torn"} | LOGIT,
]


@pytest.fixture
def old(tmp_path: Path) -> Path:
    folder = tmp_path / "results" / "old"
    write_records(ROWS, folder / "trials.parquet")
    return folder


def study(tmp_path: Path, *places: Path | str, **search: Any) -> Any:
    warm = {"warm_start": [str(place) for place in places], "trials": 5, "sampler": "random", **search}
    return study_from(SPACE | {"study": "new", "results_dir": str(tmp_path / "results"), "search": warm})


def test_the_front_without_what_is_unsafe_best_tradeoff_first(old: Path, tmp_path: Path) -> None:
    chains = front_chains(old)
    assert [(chain["distil.layers"], chain["quantize.method"], chain["prune.method"]) for chain in chains] == [
        (2, "fp16", "none"),
        (3, "none", "none"),
        (2, "none", "none"),
        (2, "none", "wanda"),
    ]
    assert chains == front_chains(old / "trials.parquet")
    marked = [one | {"on_front": True, "test_f1_macro": 0.5} for one in ROWS[2:6]]
    write_records(marked, tmp_path / "front.parquet")
    assert front_chains(tmp_path / "front.parquet") == chains


def test_what_fits_comes_after_the_studys_own_points_and_what_does_not_is_counted(old: Path, tmp_path: Path) -> None:
    own = {"distil.method": "none", "prune.method": "none", "quantize.method": "fp16"}
    config = study(tmp_path, old, points=[own])
    fronts, problems = earlier_fronts(config)
    started, told = warm_started(config, fronts)
    assert problems == []
    assert started.search.points == (
        own,
        {"distil.method": "logit", "distil.layers": 2, "prune.method": "none", "quantize.method": "fp16"},
        {"distil.method": "logit", "distil.layers": 2, "prune.method": "none", "quantize.method": "none"},
        {
            "distil.method": "logit",
            "distil.layers": 2,
            "prune.method": "wanda",
            "prune.sparsity": 0.3,
            "quantize.method": "none",
        },
    )
    assert told == [
        f"warm start from {old}: 3 of the 4 chains on its front are tried first, 1 do not fit this study's space"
    ]
    assert point_problems(started) == []


@pytest.mark.parametrize(
    ("trials", "tried", "remedies"),
    [
        (7, (3, 3), ("", "")),
        (5, (3, 1), ("", "; 2 more have no room in search.trials=5: raise it to 7")),
        (
            2,
            (1, 0),
            tuple(f"; {n} more have no room in search.trials=2: raise it to {to}" for n, to in ((2, 4), (3, 7))),
        ),
    ],
)
def test_what_search_trials_leaves_no_room_for_is_told(
    trials: int, tried: tuple[int, int], remedies: tuple[str, str], tmp_path: Path
) -> None:
    """Counted again by running the study: its own point comes first, then those of each earlier study."""
    space = SPACE | {"prune": {"method": "wanda", "sparsity": {"low": 0.01, "high": 0.9, "step": 0.01}}}
    own = {"distil.method": "none", "prune.method": "wanda", "quantize.method": "fp16"}
    search = {"points": [own], "trials": trials, "sampler": "random"}
    config = study_from(space | {"study": "new", "results_dir": str(tmp_path), "search": search})
    chains = [NONE | LOGIT | SPARSE | {"prune.sparsity": round(0.01 * step, 2)} for step in range(1, 7)]
    started, told = warm_started(config, {"a": chains[:3], "b": chains[3:]})
    assert told == [
        f"warm start from {place}: {first} of the 3 chains on its front are tried first, "
        f"0 do not fit this study's space{remedy}"
        for place, first, remedy in zip("ab", tried, remedies, strict=True)
    ]
    started.folder.mkdir()
    verbosity = optuna.logging.get_verbosity()
    with opened(started, study_sampler(started)) as made:
        searcher = ParetoSearcher(made, started)
        suggested: list[Any] = [searcher.suggest(str(index)) for index in range(trials)]
        assert searcher.suggest("beyond") == searcher.FINISHED
    optuna.logging.set_verbosity(verbosity)
    begun = [one["params"] for one in suggested]
    points = started.search.points[1:]
    assert sum(any(point.items() <= params.items() for params in begun) for point in points) == sum(tried)


def test_they_are_the_first_trials(old: Path, tmp_path: Path) -> None:
    config = study(tmp_path, old)
    config, _ = warm_started(config, earlier_fronts(config)[0])
    config.folder.mkdir()
    verbosity = optuna.logging.get_verbosity()
    with opened(config, study_sampler(config)) as made:
        searcher = ParetoSearcher(made, config)
        suggested: list[Any] = [searcher.suggest(str(index)) for index in range(5)]
    optuna.logging.set_verbosity(verbosity)
    for point, one in zip(config.search.points, suggested, strict=False):
        assert point.items() <= one["params"].items()
        assert one["params"].get("distil.epochs") == 5, "numbers that the study fixes are its own"
    assert [one["params"]["quantize.method"] for one in suggested[:3]] == ["fp16", "none", "none"]


@pytest.mark.parametrize(
    ("change", "fit"),
    [
        ({"distil.layers": 2.0}, {"distil.layers": 2}),
        ({"distil.layers": 3}, None),
        ({"distil.student": "ngram"}, None),
        ({"distil.epochs": 9, "distil.seed": 77}, {}),
        ({"distil.layers": None}, {"distil.layers": None}),
        (SPARSE | {"prune.sparsity": 0.35}, None),
        (SPARSE | {"prune.sparsity": 0.30000000000000004}, {"prune.method": "wanda"}),
        ({"prune.method": "gradual"}, None),
        ({"prune.scope": "ffn"}, {}),
    ],
)
def test_which_chains_fit(change: dict[str, Any], fit: dict[str, Any] | None, old: Path, tmp_path: Path) -> None:
    """A searched setting must be in its range, a fixed word the same; other numbers, and what is unused, are open."""
    chain = {name: value for name, value in (NONE | LOGIT | change).items() if value is not None}
    config, told = warm_started(study(tmp_path), {"here": [chain]})
    if fit is None:
        assert config.search.points == () and "1 do not fit" in told[0]
        return
    [point] = config.search.points
    expected = {"distil.method": "logit", "distil.layers": 2, "prune.method": "none", "quantize.method": "none"} | fit
    assert {name: point.get(name) for name in expected} == expected
    assert all(type(value) is not float or name == "prune.sparsity" for name, value in point.items())


def test_the_same_chain_once_and_not_too_many(tmp_path: Path) -> None:
    space = SPACE | {"prune": {"method": "wanda", "sparsity": {"low": 0.01, "high": 0.9, "step": 0.01}}}
    config = study_from(space | {"study": "new", "results_dir": str(tmp_path)})
    chains = [NONE | LOGIT | SPARSE | {"prune.sparsity": round(0.01 * step, 2)} for step in range(1, 41)]
    one, told = warm_started(config, {"a": [chains[0], chains[0], chains[1]]})
    assert [point["prune.sparsity"] for point in one.search.points] == [0.01, 0.02]
    assert "2 of the 3 chains" in told[0]
    many, _ = warm_started(config, {"a": chains[:30], "b": chains[10:]})
    assert [point["prune.sparsity"] for point in many.search.points] == [
        chain["prune.sparsity"] for chain in (*chains[:POINTS], *chains[POINTS : 2 * POINTS])
    ]


def start(tmp_path: Path, *overrides: str, resume: bool = False, told: list[str] | None = None) -> Any:
    settings = [f"results_dir={tmp_path / 'results'}", "data.sample_rows=300", *overrides]
    return checked(SMOKE, settings, resume, ([] if told is None else told).append)[0]


def test_files_that_are_no_studies_are_refused_with_all_else(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.parquet").write_text("not a table", encoding="utf-8")
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "foreign.parquet")
    names = ("absent", "empty", "text.parquet", "foreign.parquet")
    warm = ", ".join(str(tmp_path / name) for name in names)
    with pytest.raises(InputError) as caught:
        start(tmp_path, f"search.warm_start=[{warm}]", "data.path=absent.csv")
    *unread, data = caught.value.problems
    assert "data.path" in data
    for index, (line, name, reason) in enumerate(
        zip(
            unread,
            names,
            ("no such file", "no trials.parquet there", "not a whole Parquet", "schema_version"),
            strict=True,
        )
    ):
        assert line.startswith(f"search.warm_start[{index}]='{tmp_path / name}': ") and reason in line
        assert line.endswith("name the results folder of an earlier study, or its trials.parquet")
    assert not (tmp_path / "results").exists()


def test_the_study_file_that_is_written_repeats_the_study_without_the_earlier_one(old: Path, tmp_path: Path) -> None:
    """Of its own name too: the earlier results are moved aside, and may have changed when the study is resumed."""
    here = tmp_path / "results" / "smoke"
    shutil.move(old, here)
    (here / "study.yaml").write_text("study: smoke", encoding="utf-8")
    override = f"search.warm_start=[{here}]"
    told: list[str] = []
    config = start(tmp_path, override, told=told)
    [line] = told
    assert line.startswith(f"warm start from {here}: 3 of the 4 chains")
    points = config.search.points
    assert [point["quantize.method"] for point in points] == ["fp16", "none", "none"] and config.search.warm_start == ()
    moved = claim_folder(config, resume=False)
    assert moved is not None and not (here / "trials.parquet").exists()
    assert load_study(here / "study.yaml").search.points == points
    assert start(tmp_path, override, resume=True, told=told).search.points == points
    assert told == [line]


def test_without_a_warm_start_nothing_is_said(tmp_path: Path) -> None:
    told: list[str] = []
    assert start(tmp_path, told=told).search.points == ()
    assert told == []


@pytest.mark.parametrize(
    ("option", "stdout", "stderr"), [("--resume", True, False), ("--json", False, True), ("--quiet", False, False)]
)
def test_the_command_says_it_where_it_says_all_else(
    option: str, stdout: bool, stderr: bool, old: Path, tmp_path: Path
) -> None:
    """With `--json` standard output is for the JSON; here no cluster is found after the check."""
    command = [sys.executable, str(ROOT / "search" / "pareto.py"), str(SMOKE), option, "--address", "127.0.0.1:1"]
    command += ["--set", f"search.warm_start=[{old}]", "--set", "data.sample_rows=300"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "no Ray session there" in done.stderr
    said = f"warm start from {old}: 3 of the 4 chains"
    assert (said in done.stdout, said in done.stderr) == (stdout, stderr)
    assert stdout or done.stdout == ""
