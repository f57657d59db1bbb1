"""The smoke study on a real Ray: its files, its front, its second run, and its trials that fail."""

from __future__ import annotations

import csv
import io
import json
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest
from filelock import FileLock
from rich.console import Console

from evaluation.records import FIXED, RUN_DEPENDENT, read_records
from pipeline.cache import MANIFEST, Store

pytestmark = pytest.mark.e2e

SMOKE = Path(__file__).parents[2] / "search" / "studies" / "smoke.yaml"
NULLABLE = {"trial", "parent_key", "error", "num_trainable_params", "prunable_sparsity_percent", "positives_needed"}
"""Teacher and floor have no trial and no parent; the others are not of every format, or not of every verdict."""


def trials_of(run: Any) -> pd.DataFrame:
    return read_records(run.folder / "trials.parquet")


def test_every_file_is_there(smoke_runs: Any) -> None:
    folder: Path = smoke_runs.first.folder
    expected = {"study.yaml", "study.db", "trials.parquet", "front.parquet", "front.tex", "stages.tex"}
    expected |= {"front.png", "front.pdf", "pipeline_summary_baseline_kd_prune_quant.csv"}
    expected |= {"metrics_baseline.csv", "metrics_baseline.json", "safety_baseline.json"}
    expected |= {"references.parquet", "front_within_noise.parquet", "flips.parquet", "flips.csv"}
    assert expected <= {file.name for file in folder.iterdir() if file.stat().st_size > 0}
    assert all(file.is_file() for file in smoke_runs.first.outcome.files)
    assert {folder / "trials.parquet", folder / "front.tex"} <= set(smoke_runs.first.outcome.files)
    with (folder / "pipeline_summary_baseline_kd_prune_quant.csv").open(encoding="utf-8") as file:
        header, first, *_ = csv.reader(file)
    assert header == ["Stage", "Accuracy", "Macro F1", "F1 (threat)", "Size (MB)", "Speed (ms)"]
    assert first[0] == "baseline"
    store = smoke_runs.first.config.store_root
    assert not (store / ".damaged").exists() and not any((store / ".building").iterdir())


def test_the_rows_are_those_of_the_three_chains(smoke_runs: Any) -> None:
    trials = trials_of(smoke_runs.first)
    assert set(trials["status"]) == {"ok"}
    assert trials["model_key"].is_unique
    assert trials["stage"].tolist()[:2] == ["baseline", "classical"]
    assert trials["trial"].isna().tolist() == [True, True] + [False] * (len(trials) - 2)
    assert set(trials["stage"]) == {"baseline", "classical", "after_kd", "after_pruning", "after_quantization"}
    by_key = trials.set_index("model_key")
    for _, row in trials.iloc[2:].iterrows():
        assert row["parent_key"] in by_key.index, "the parent of every model was measured too"
    study = optuna.load_study(study_name="smoke", storage=f"sqlite:///{smoke_runs.first.folder / 'study.db'}")
    last = {trial.number: trial.user_attrs["rows"][-1] for trial in study.get_trials()}
    assert sorted(last) == [0, 1, 2]
    for number, trial in enumerate(study.get_trials()):
        feasible = all(value <= 0 for value in trial.constraints.values())
        assert trial.state.name == "COMPLETE" and len(trial.constraints) == 3
        assert feasible == (last[number]["safety_verdict"] != "unsafe")
        assert last[number]["model_key"] in by_key.index
    _dispose(study)


def test_every_metric_of_every_model_is_there(smoke_runs: Any) -> None:
    trials = trials_of(smoke_runs.first)
    assert {name for name in FIXED if trials[name].isna().any()} <= NULLABLE
    by_label = [name for name in trials if name.split(".")[0] in ("per_label_f1", "thresholds", "confusion_matrices")]
    assert len(by_label) == 15 and trials[by_label].notna().all(axis=None)


def test_the_front_is_what_brute_force_finds(smoke_runs: Any) -> None:
    """Two loops over `trials.parquet`, by the words of the design."""
    trials, front = trials_of(smoke_runs.first), read_records(smoke_runs.first.folder / "front.parquet")

    def not_dominated(among: pd.DataFrame) -> set[str]:
        points = [
            (row["model_key"], (-row["f1_macro"], row["model_size_mb"], 1 / row["speedup_factor"]))
            for _, row in among.iterrows()
        ]
        return {
            key
            for key, point in points
            if not any(other != point and all(b <= a for a, b in zip(point, other, strict=True)) for _, other in points)
        }

    usable = trials[trials["status"] == "ok"]
    on_front = not_dominated(usable[usable["safety_verdict"] != "unsafe"])
    on_safe_front = not_dominated(usable[usable["safety_verdict"] == "safe"])
    assert set(front["model_key"]) == on_front | on_safe_front
    assert set(front.loc[front["on_front"], "model_key"]) == on_front
    assert set(front.loc[front["on_safe_front"], "model_key"]) == on_safe_front
    same = trials.set_index("model_key").loc[front["model_key"]]
    for name in ("f1_macro", "model_size_mb", "speedup_factor", "latency_p50_ms", "tradeoff_score"):
        assert front[name].tolist() == same[name].tolist(), "one figure of a model in both files"
    tested = ["test_f1_macro", "test_accuracy_exact", "test_safety_verdict", "test_per_label_f1.threat"]
    assert front[tested].notna().all(axis=None)
    assert "test_f1_macro" not in trials


def test_a_second_run_with_the_same_store_trains_nothing(smoke_runs: Any) -> None:
    first, second = trials_of(smoke_runs.first), trials_of(smoke_runs.second)
    assert first["cache_hit"].iloc[0] == False  # noqa: E712 (pandas' boolean)
    assert second["cache_hit"].all()
    pd.testing.assert_frame_equal(first.drop(columns=[*RUN_DEPENDENT]), second.drop(columns=[*RUN_DEPENDENT]))
    assert first["stage_seconds"].tolist() == second["stage_seconds"].tolist(), "as long as it took when it ran"


def slow_trial() -> Any:
    """A trial that takes a moment and returns one row, better in one thing than all before; local, as in conftest."""

    def trial(bench: Any, params: Any, report: Any) -> list[dict[str, Any]]:
        import time
        import uuid

        key = uuid.uuid4().hex
        figures = {"f1_macro": 0.5 + 0.4 * (time.time() % 1e4) / 1e4, "model_size_mb": 1.0, "speedup_factor": 2.0}
        drops = dict.fromkeys(("f1_drop", "critical_f1_drop", "critical_recall_drop"), 0.0)
        time.sleep(0.4)
        row = {"study": "smoke", "stage": "after_kd", "model_key": key, "status": "ok", "safety_verdict": "safe"}
        return [row | figures | drops]

    return trial


def test_the_files_grow_while_ray_runs_the_trials(tmp_path: Path) -> None:
    """Each time a trial ends, both files are there and whole, and those that ended before it are soon in them."""
    from cluster.session import session
    from search.optuna_study import opened
    from search.sampler import study_sampler
    from search.start import checked, claim_folder, with_absolute_paths
    from search.study import StudyRun
    from search.study_keys import REFERENCES

    settings = [f"results_dir={tmp_path}", "search.trials=12", "resources.max_concurrent=1", "tracking.uri=none"]
    config, data = checked(SMOKE, settings, resume=False)
    config = with_absolute_paths(config)
    claim_folder(config, resume=False)
    seen: list[tuple[int, int]] = []

    def look(ended: optuna.trial.FrozenTrial) -> None:
        trials = read_records(config.folder / "trials.parquet")
        front = read_records(config.folder / "front.parquet")
        assert set(front["model_key"]) <= set(trials["model_key"])
        seen.append((ended.number, int(trials["trial"].notna().sum())))

    with session("local") as up, opened(config, study_sampler(config)) as study:
        teacher = slow_trial()(None, None, None)[0] | {"stage": "baseline", "model_key": "teacher", "f1_macro": 1.0}
        study.set_user_attr(REFERENCES, [teacher, teacher | {"stage": "classical", "model_key": "floor"}])
        run = StudyRun(config, data, int(up.cpus), Console(file=io.StringIO()), trial=slow_trial())
        key = data.add_to(Store(config.store_root)).key
        assert run.search(study, key, look) is None
    assert [number for number, _ in seen] == list(range(12))
    assert [count for _, count in seen] == sorted(count for _, count in seen)
    assert len({count for _, count in seen}) >= 3
    assert read_records(config.folder / "trials.parquet")["trial"].dropna().tolist() == list(range(12))
    assert not (config.folder / "study.db-wal").exists()


def test_a_trial_without_its_speed_is_run_again_if_no_other_measures_it(smoke_runs: Any, tmp_path: Path) -> None:
    """Another study does, which holds the lock of the timing until the trial waits for it; then both trials are run."""
    from cluster.session import session
    from search.optuna_study import opened
    from search.sampler import study_sampler
    from search.start import checked, claim_folder, with_absolute_paths
    from search.study import StudyRun
    from search.study_keys import REFERENCES

    known = optuna.load_study(study_name="smoke", storage=f"sqlite:///{smoke_runs.first.folder / 'study.db'}")
    trial, student = next(
        (trial, row)
        for trial in known.get_trials()
        for row in trial.user_attrs["rows"]
        if row["stage"] == "after_kd" and row["timed_model"] == row["model_key"]
    )
    point = {name.partition("[")[0]: value for name, value in trial.params.items()}
    store = Store(shutil.copytree(smoke_runs.first.config.store_root, tmp_path / "store"))
    [timing] = [
        file.parent
        for file in (store.root / "latency").glob(f"*/{MANIFEST}")
        if (told := json.loads(file.read_text("utf-8")))["parents"][0] == student["model_key"]
        and told["config"]["session"] == "search"
    ]
    shutil.rmtree(timing)

    places = [f"results_dir={tmp_path}", f"storage={store.root}", "tracking.uri=none", "resources.max_concurrent=1"]
    points = f"search.points={json.dumps([point])}"
    settings = [*smoke_runs.overrides, *places, points, "search.sampler=stage_tree", "search.trials=2"]
    config, data = checked(SMOKE, settings, resume=False)
    config = with_absolute_paths(config)
    claim_folder(config, resume=False)
    log, held = config.folder / "logs" / "trial_0000.log", threading.Event()

    def times() -> None:
        with FileLock(store.root / ".locks" / f"{timing.name}.lock"):
            held.set()
            deadline = time.monotonic() + 120
            while time.monotonic() < deadline and not (log.is_file() and "attempt 2 begins" in log.read_text("utf-8")):
                time.sleep(0.05)

    other = threading.Thread(target=times)
    other.start()
    assert held.wait(30)
    with session("local") as up, opened(config, study_sampler(config)) as study:
        study.set_user_attr(REFERENCES, known.user_attrs[REFERENCES])
        run = StudyRun(config, data, int(up.cpus), Console(file=io.StringIO()))
        assert run.search(study, data.add_to(store).key, lambda trial: None) is None
        trials = study.get_trials()
    other.join()
    assert [trial.state.name for trial in trials] == ["COMPLETE", "COMPLETE"]
    again = next(row for row in trials[0].user_attrs["rows"] if row["stage"] == "after_kd")
    measured = store.find("latency", timing.name)
    assert measured is not None and again["speedup_factor"] == measured.notes["speedup_factor"]
    assert again["model_key"] == again["timed_model"] == student["model_key"]
    assert "its shape is being timed" in log.read_text("utf-8")


def test_failed_trials_fail_and_the_others_complete(smoke_runs: Any) -> None:
    study = optuna.load_study(study_name="smoke", storage=f"sqlite:///{smoke_runs.faulty.folder / 'study.db'}")
    states = [trial.state.name for trial in study.get_trials()]
    _dispose(study)
    sound, trials = trials_of(smoke_runs.first), trials_of(smoke_runs.faulty)
    failed = trials[trials["status"] == "failed"].set_index("trial")["error"]
    raised, without_f1 = (sound["prune.method"].eq("wanda"), sound["distil.temperature"].eq(1.0))
    number = {name: sound.loc[which, "trial"].iloc[0] for name, which in (("raised", raised), ("nan", without_f1))}
    assert set(failed.index) == set(number.values()) and len(number) == 2
    assert states == ["FAIL" if number in set(failed.index) else "COMPLETE" for number in range(3)]
    assert failed[number["raised"]] == "ValueError: torn weights of int8_dynamic"
    assert failed[number["nan"]] == "objective is not finite: f1_macro=nan"
    others = sound[sound["trial"].isin(failed.index)]
    kept = set(trials["model_key"].dropna())
    assert set(sound["model_key"]) - set(others["model_key"]) <= kept <= set(sound["model_key"])
    assert trials["f1_macro"].notna().tolist() == trials["model_key"].notna().tolist()
    assert "failed: ValueError: torn weights of int8_dynamic" in smoke_runs.faulty.printed
    assert smoke_runs.faulty.outcome.finished


def test_what_the_terminal_shows(smoke_runs: Any) -> None:
    printed = smoke_runs.first.printed
    assert [f"{done}/3  trial " in printed for done in (1, 2, 3)] == [True] * 3
    trials = trials_of(smoke_runs.first)
    teacher, floor = trials["f1_macro"].iloc[:2]
    assert f"teacher {teacher:.4f}, classical floor {floor:.4f}" in printed
    assert ("warning: the teacher does not beat the classical floor" in printed) == (teacher <= floor)


def _dispose(study: optuna.Study) -> None:
    storage: Any = study._storage
    storage.remove_session()
    storage._backend.engine.dispose()
