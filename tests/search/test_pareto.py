"""The command as its user runs it: what it refuses, how fast, and that a killed search goes on where it stopped."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import struct
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from evaluation.records import RUN_DEPENDENT, read_records
from search.start import checked, claim_folder

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, str(ROOT / "search" / "pareto.py")]
SMOKE = str(ROOT / "search" / "studies" / "smoke.yaml")
LABELS = ("bully", "sexual", "religious", "threat", "spam")


def run(folder: Path, *arguments: str, seconds: float = 10.0) -> subprocess.CompletedProcess[str]:
    """The command in `folder`, which is not the checkout."""
    return subprocess.run([*COMMAND, *arguments], cwd=folder, capture_output=True, text=True, timeout=seconds)


def refused(folder: Path, *arguments: str) -> str:
    """What the command says on stderr as it refuses; asserts status 2, a clean stdout, and that nothing was written."""
    before = contents(folder)
    done = run(folder, *arguments)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert contents(folder) == before, "nothing is written"
    assert "Traceback" not in done.stderr
    return done.stderr


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file): file.read_bytes() if file.is_file() else b"" for file in folder.rglob("*")}


def comments(separator: str = ",", header: str = "", rows: int = 400, **columns: list[str]) -> str:
    """A good file of comments; every label has a fifth of them."""
    names = ["comment", *LABELS]
    values = {"comment": [f"comment number {index}" for index in range(rows)]}
    values |= {name: [str(int(index % 5 == place)) for index in range(rows)] for place, name in enumerate(LABELS)}
    values |= columns
    lines = [
        header or separator.join(names),
        *(separator.join(row) for row in zip(*(values[n] for n in names), strict=True)),
    ]
    return "\n".join(lines) + "\n"


def test_help_is_quick_and_imports_nothing_heavy(tmp_path: Path) -> None:
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        done = run(tmp_path, "--help")
        seconds.append(time.perf_counter() - started)
        assert done.returncode == 0
        assert all(word in done.stdout for word in ("STUDY.yaml", "--set KEY=VALUE", "--resume", "--address"))
    assert min(seconds) < 2.0
    traced = subprocess.run(
        [sys.executable, "-X", "importtime", *COMMAND[1:], "--help"], capture_output=True, text=True, check=True
    )
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in traced.stderr.splitlines()}
    assert "argparse" in imported
    assert not imported & {"torch", "transformers", "ray", "optuna", "pandas", "numpy", "pydantic", "mlflow", "sklearn"}


def test_version_is_the_projects(tmp_path: Path) -> None:
    """Installed or not: without its metadata the checkout's own file tells."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert run(tmp_path, "--version").stdout == f"pareto-compression {project['version']}\n"
    hidden = (
        "import sys; from importlib import metadata\n"
        "def version(name): raise metadata.PackageNotFoundError(name)\n"
        f"metadata.version = version; sys.path.insert(0, {str(ROOT)!r})\n"
        "from search.pareto import main; main(['--version'])"
    )
    done = subprocess.run([sys.executable, "-c", hidden], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout == f"pareto-compression {project['version']}\n"


def test_only_a_first_word_init_is_the_command(tmp_path: Path) -> None:
    done = run(tmp_path, "init", "--help")
    assert done.returncode == 0 and "COMMENTS.csv" in done.stdout and "--overwrite" in done.stdout
    assert "init.yaml: no such study file" in refused(tmp_path, "init.yaml")
    assert "init: no such study file" in refused(tmp_path, "./init")


def test_its_own_folder_does_not_stand_for_top_level_modules() -> None:
    """Python puts the folder of the file it runs on the path: `import space` would be `search/space.py`."""
    program = "import runpy, sys; sys.path[0], file = sys.argv[1:]; runpy.run_path(file); print(sys.path[0])"
    arguments = [sys.executable, "-c", program, str(ROOT / "search"), COMMAND[1]]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True, cwd=ROOT.parent)
    assert done.stdout.strip() == str(ROOT)


CONFIG_FAULTS: dict[str, tuple[list[str], list[str]]] = {
    "unknown key": (["distil.temprature=4"], ["distil.temprature=4", "did you mean temperature?"]),
    "unknown section": (["distill.method=logit"], ["distill=", "did you mean distil?"]),
    "out of range": (["prune.sparsity=1.5"], ["prune.sparsity=1.5", "greater than 0 and less than 1"]),
    "critical label": (["safety.critical_label=thret"], ["safety.critical_label='thret'", "did you mean threat?"]),
    "no such method": (["quantize.method=int9"], ["quantize.method='int9'", "'int8_dynamic'"]),
    "no value": (["distil.temperature"], ["--set distil.temperature", "KEY=VALUE"]),
}


def test_every_fault_of_a_config_is_told_in_one_message(tmp_path: Path) -> None:
    overrides = [argument for settings, _ in CONFIG_FAULTS.values() for one in settings for argument in ("--set", one)]
    told = refused(tmp_path, SMOKE, *overrides)
    first, *lines = told.splitlines()
    assert first == "error: the study cannot start (6 problems):"
    assert len(lines) == 6
    for _, words in CONFIG_FAULTS.values():
        [_] = [line for line in lines if all(word in line for word in words)]


@pytest.mark.parametrize("fault", ["unknown key", "out of range", "critical label"])
def test_one_fault_of_a_config_is_one_line(fault: str, tmp_path: Path) -> None:
    [setting], words = CONFIG_FAULTS[fault]
    first, line = refused(tmp_path, SMOKE, "--set", setting).splitlines()
    assert first == "error: the study cannot start (1 problem):"
    assert all(word in line for word in words)


def test_a_study_file_that_is_not_there_or_no_yaml(tmp_path: Path) -> None:
    told = refused(tmp_path, "no.yaml")
    assert "no.yaml: no such study file" in told and "embedded.yaml" in told
    (tmp_path / "torn.yaml").write_text("seed: 1\ndata: {path: [\n", encoding="utf-8")
    assert "torn.yaml:3: not a study file in plain YAML" in refused(tmp_path, "torn.yaml")


FEW = {"spam": ["1", "1", *["0"] * 398]}
DATA_FAULTS: dict[str, tuple[str, bytes | None, list[list[str]]]] = {
    "no such file": ("absent.csv", None, [["data.path='absent.csv'", "no such file", "give a file or 'embedded'"]]),
    "empty file": ("c.csv", b"", [["data.path='c.csv'", "empty file", "needs a header and rows"]]),
    "UTF-16": (
        "c.csv",
        comments().encode("utf-16"),
        [["data.path='c.csv'", "UTF-16", "iconv -f UTF-16 -t UTF-8 c.csv"]],
    ),
    "semicolons": ("c.csv", comments(";").encode(), [["data.path='c.csv'", "';'", "set data.separator=';'"]]),
    "missing columns": (
        "c.csv",
        comments(header="coment,bully,sexual,religion,threat,spam").encode(),
        [
            ["data.text_column='comment'", "no such column in c.csv", "did you mean 'coment'?"],
            ["data.label_columns='religious'", "no such column in c.csv", "did you mean 'religion'?"],
        ],
    ),
    "bad values": (
        "c.csv",
        comments(
            bully=["yes", "2", *["0", "1"] * 199],
            sexual=["0"] * 400,
            comment=["", "  ", *(f"comment number {index}" for index in range(398))],
        ).encode(),
        [
            ["data.label_columns='bully'", "2 values in c.csv other than 0 or 1", "'yes' in line 2", "write 0 or 1"],
            ["data.label_columns='sexual'", "no positives", "take the label out of the list"],
            ["data.text_column='comment'", "2 empty texts in c.csv (lines 2, 3)", "remove those rows"],
        ],
    ),
    "too few positives": (
        "c.csv",
        comments(**FEW).encode(),
        [["data.label_columns='spam'", "2 different positive texts", "too few to split", "give more data"]],
    ),
}


@pytest.mark.parametrize("fault", DATA_FAULTS)
def test_data_that_cannot_be_used(fault: str, tmp_path: Path) -> None:
    name, content, problems = DATA_FAULTS[fault]
    if content is not None:
        (tmp_path / name).write_bytes(content)
    first, *lines = refused(tmp_path, SMOKE, "--set", f"data.path={name}").splitlines()
    assert len(lines) == len(problems), lines
    for words in problems:
        [_] = [line for line in lines if all(word in line for word in words)]


def test_a_byte_order_mark_is_no_fault(tmp_path: Path) -> None:
    plain, marked = tmp_path / "plain.csv", tmp_path / "marked.csv"
    plain.write_text(comments(), encoding="utf-8")
    marked.write_text(comments(), encoding="utf-8-sig")
    assert marked.read_bytes() == b"\xef\xbb\xbf" + plain.read_bytes()
    fingerprints = {
        checked(Path(SMOKE), [f"data.path={file}", f"results_dir={tmp_path / 'results'}"], False)[1].fingerprint
        for file in (plain, marked)
    }
    assert len(fingerprints) == 1
    assert not (tmp_path / "results").exists()


def test_folders_and_data_that_cannot_be_used_are_told_together(tmp_path: Path) -> None:
    """A teacher without weights and tokenizer, a file where the results should go, and no comments."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps({"model_type": "bert", "num_hidden_layers": 2}), encoding="utf-8")
    (tmp_path / "results").write_text("in the way", encoding="utf-8")
    settings = ["teacher.model=model", "data.path=absent.csv", "results_dir=results/deep"]
    first, *lines = refused(tmp_path, SMOKE, *(a for one in settings for a in ("--set", one))).splitlines()
    assert len(lines) == 4
    for words in (
        ["teacher.model='model'", "tokenizer.json is missing", "save a fast tokenizer there"],
        ["teacher.model='model'", "no *.safetensors weights", "save the model there"],
        ["results_dir='results/deep'", "is a file, not a folder", "name another folder"],
        ["data.path='absent.csv'", "no such file"],
    ):
        [_] = [line for line in lines if all(word in line for word in words)]


@pytest.mark.parametrize(
    ("missing", "told"),
    [("model.safetensors", "no *.safetensors weights"), ("tokenizer.json", "tokenizer.json is missing")],
)
def test_a_teacher_folder_that_is_not_whole(missing: str, told: str, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    header = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    for name, content in {
        "config.json": b'{"model_type": "bert", "num_hidden_layers": 2}',
        "tokenizer.json": b"{}",
        "model.safetensors": struct.pack("<Q", len(header)) + header + bytes(8),
    }.items():
        if name != missing:
            (model / name).write_bytes(content)
    _, line = refused(tmp_path, SMOKE, "--set", "teacher.model=model").splitlines()
    assert "teacher.model='model'" in line and told in line and "save_pretrained" in line


def test_a_cluster_that_is_not_there(tmp_path: Path) -> None:
    _, line = refused(tmp_path, SMOKE, "--address", "ray://127.0.0.1:1").splitlines()
    assert "--address ray://127.0.0.1:1: no Ray session there" in line and "take --address local" in line


def test_resume_with_another_config_says_where_they_differ(tmp_path: Path) -> None:
    place = f"results_dir={tmp_path / 'results'}"
    config, _ = checked(Path(SMOKE), [place], resume=False)
    claim_folder(config, resume=False)
    settings = [place, "distil.layers=2", "seed=5", "search.trials=9", "resources.cpus_per_trial=2"]
    _, *lines = refused(tmp_path, SMOKE, "--resume", *(a for one in settings for a in ("--set", one))).splitlines()
    told = {line.split(": ")[1]: line for line in lines}
    seeds = {"seed", "data.seed", "teacher.seed", "classical.seed", "distil.seed", "prune.seed"}
    assert set(told) == {"distil.layers", *seeds}, "trials and resources may differ"
    assert f"--resume of {tmp_path / 'results' / 'smoke'}" in told["distil.layers"]
    assert "1 in the study's folder, 2 now; set it back, or start anew without --resume" in told["distil.layers"]


def test_an_unexpected_error_before_the_start_is_not_the_status_of_no_safe_model(tmp_path: Path) -> None:
    (tmp_path / "yaml.py").write_text("raise RuntimeError('a torn installation')", encoding="utf-8")
    done = subprocess.run(
        [*COMMAND, SMOKE],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (done.returncode, done.stdout) == (70, "")
    *trace, told = done.stderr.splitlines()
    assert trace[0].startswith("Traceback") and trace[-1] == "RuntimeError: a torn installation"
    assert told == "error: the study broke off (RuntimeError); --resume goes on"


@pytest.mark.e2e
def test_a_study_that_had_begun_says_that_it_broke_off_and_why(tmp_path: Path) -> None:
    """The worker that trains the teacher is ended at once, each time; Ray tells of it too, on standard output."""
    settings = ["resources.stage_minutes=0.001", "resources.retries=0", "tracking.uri=none", "data.sample_rows=300"]
    done = run(tmp_path, SMOKE, "--json", "--quiet", *(a for one in settings for a in ("--set", one)), seconds=240)
    assert (done.returncode, done.stdout) == (70, ""), done.stderr
    [told] = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert told.startswith("error: the study broke off: teacher and classical floor: its worker died 1 times (killed,")
    assert "resources.stage_minutes=0.001" in told
    assert done.stderr.count("--resume") == 1 and done.stderr.rstrip().endswith("; --resume goes on")
    assert "Traceback" not in done.stderr and "cannot start" not in done.stderr


@pytest.fixture
def started() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts the command in a session of its own; at the end everything that it started is gone."""
    running: list[subprocess.Popen[str]] = []

    def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
        log = (folder / f"log{len(running)}.txt").open("w", encoding="utf-8")
        with log:
            process = subprocess.Popen(
                [*COMMAND, *arguments],
                cwd=folder,
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        running.append(process)
        return process

    yield start
    for process in running:
        kill(process)


def descendants(pid: int) -> list[int]:
    """Process ids below `pid`, from /proc."""
    parents = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(status.parent.name)] = int(status.read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            continue
    found = [pid]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found[1:]


def kill(process: subprocess.Popen[str]) -> None:
    """SIGKILL to the command and to every process it has started, at once."""
    below = descendants(process.pid) if process.poll() is None else []
    for pid in (process.pid, *below) if process.poll() is None else ():
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.wait()


def complete_trials(database: Path) -> int:
    if not database.is_file():
        return 0
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    try:
        [[count]] = connection.execute("SELECT count(*) FROM trials WHERE state = 'COMPLETE'").fetchall()
        return int(count)
    except sqlite3.OperationalError:  # being made
        return 0
    finally:
        connection.close()


@pytest.mark.e2e
@pytest.mark.timeout(600)
def test_a_killed_search_goes_on_and_ends_as_if_undisturbed(
    smoke_runs: Any, started: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    """With a store of its own: everything is trained again, and is the same."""
    settings = [*smoke_runs.overrides, "results_dir=results", "resources.max_concurrent=1", "tracking.uri=none"]
    arguments = [SMOKE, *(argument for one in settings for argument in ("--set", one))]
    folder = tmp_path / "results" / "smoke"
    process = started(tmp_path, *arguments)
    deadline = time.monotonic() + 240
    while complete_trials(folder / "study.db") < 1:
        assert process.poll() is None and time.monotonic() < deadline, (tmp_path / "log0.txt").read_text("utf-8")
        time.sleep(0.2)
    kill(process)
    assert process.returncode == -signal.SIGKILL
    finished = complete_trials(folder / "study.db")
    assert 1 <= finished < 3
    before = rows_by_trial(folder / "study.db")
    assert len(read_records(folder / "trials.parquet")) >= 2  # a snapshot, whole

    resumed = started(tmp_path, *arguments, "--resume")
    status = resumed.wait(240)
    told = (tmp_path / "log1.txt").read_text("utf-8")
    recommended = smoke_runs.first.outcome.recommended
    assert status in (0, 1), told
    assert (status == 1) == ("no compressed model is safe" in told)
    assert recommended.empty or "classical" in set(recommended["stage"]) or status == 0
    assert f"{finished + 1}/3  trial" in told and f"{finished}/3  trial" not in told

    again = rows_by_trial(folder / "study.db")
    assert sorted(again) == [0, 1, 2]
    assert {number: again[number] for number in before} == before, "finished trials are kept as they were"
    trials = read_records(folder / "trials.parquet")
    kept = trials[trials["trial"].isin(before)]
    assert kept["created_at"].tolist() == [
        next(row["created_at"] for row in before[trial] if row["model_key"] == key)
        for trial, key in zip(kept["trial"], kept["model_key"], strict=True)
    ]
    undisturbed = read_records(smoke_runs.first.folder / "trials.parquet")
    pd.testing.assert_frame_equal(trials.drop(columns=[*RUN_DEPENDENT]), undisturbed.drop(columns=[*RUN_DEPENDENT]))


@pytest.mark.e2e
@pytest.mark.timeout(600)
@pytest.mark.parametrize("said", ["1/3  trial", "in one quiet session"])
def test_sigterm_interrupts_as_ctrl_c_does(
    said: str, smoke_runs: Any, started: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    """The results so far are written, the page too."""
    settings = [*smoke_runs.overrides, "results_dir=results", "resources.max_concurrent=1", "tracking.uri=none"]
    settings.append(f"storage={smoke_runs.first.config.store_root}")
    process = started(tmp_path, SMOKE, *(argument for one in settings for argument in ("--set", one)))
    log, deadline = tmp_path / "log0.txt", time.monotonic() + 240
    while said not in log.read_text("utf-8"):
        assert process.poll() is None and time.monotonic() < deadline, log.read_text("utf-8")
        time.sleep(0.1)
    below = descendants(process.pid)
    process.send_signal(signal.SIGTERM)
    status, told = process.wait(120), log.read_text("utf-8")
    assert status == 130, told
    assert told.rstrip().splitlines()[-1].startswith("interrupted; ") and told.rstrip().endswith("--resume goes on")
    left = [file for pid in below if (file := Path(f"/proc/{pid}/cmdline")).exists() and file.read_bytes()]
    assert not left, "Ray has ended too, but for what its parent has not taken note of"
    written = {file.name for file in (tmp_path / "results" / "smoke").iterdir()}
    assert written >= {"study.db", "trials.parquet", "report.html"}


@pytest.mark.e2e
@pytest.mark.timeout(600)
def test_recommended_models_are_written_and_an_interrupt_then_costs_only_the_rest(
    smoke_runs: Any, started: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    """With limits that every model keeps."""
    settings = [*smoke_runs.overrides, "results_dir=results", "tracking.uri=none"]
    settings += [f"storage={smoke_runs.first.config.store_root}"]
    settings += [f"safety.max_{name}=1" for name in ("f1_drop", "critical_f1_drop", "critical_recall_drop")]
    arguments = [SMOKE, *(argument for one in settings for argument in ("--set", one))]
    models, log = tmp_path / "results" / "smoke" / "models", tmp_path / "log0.txt"
    process, deadline = started(tmp_path, *arguments), time.monotonic() + 240
    while not (models.is_dir() and any(not folder.name.startswith(".") for folder in models.iterdir())):
        assert process.poll() is None and time.monotonic() < deadline, log.read_text("utf-8")
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) == 130, log.read_text("utf-8")
    assert log.read_text("utf-8").rstrip().endswith("interrupted; --resume goes on")
    front = read_records(models.parent / "front.parquet")
    recommended = set(front.loc[front["stage"] != "baseline", "model_key"])
    written = {folder.name: (folder / "SHA256SUMS").stat().st_mtime_ns for folder in models.iterdir()}
    assert 0 < len(written) < len(recommended) and set(written) < recommended

    assert started(tmp_path, *arguments, "--resume").wait(240) == 0, (tmp_path / "log1.txt").read_text("utf-8")
    assert {folder.name for folder in models.iterdir()} == recommended
    assert {name: (models / name / "SHA256SUMS").stat().st_mtime_ns for name in written} == written
    told = (tmp_path / "log1.txt").read_text("utf-8")
    assert f"each of the {len(recommended)} with a star" in told


IN_A_CALLBACK = """
import signal, sys, time, weakref
from search.pareto import as_by_ctrl_c, interrupted_again

class Held: pass

signal.signal(signal.SIGTERM, as_by_ctrl_c)
sys.unraisablehook = interrupted_again
held = Held()
watched = weakref.ref(held, lambda gone: signal.raise_signal(signal.SIGTERM))
try:
    del held
    time.sleep(10)
    print("lost")
except KeyboardInterrupt:
    print("interrupted")
"""


def test_an_interrupt_that_falls_into_a_callback_is_not_lost() -> None:
    done = subprocess.run([sys.executable, "-c", IN_A_CALLBACK], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert (done.stdout, done.stderr) == ("interrupted\n", "")


def rows_by_trial(database: Path) -> dict[int, list[dict[str, Any]]]:
    """What finished trials reported, read without Optuna."""
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    try:
        found = connection.execute(
            "SELECT number, value_json FROM trials JOIN trial_user_attributes USING (trial_id) "
            "WHERE state = 'COMPLETE' AND key = 'rows'"
        ).fetchall()
    finally:
        connection.close()
    return {number: json.loads(text) for number, text in found}
