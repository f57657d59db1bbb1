"""What the terminal shows at the end of a study, at the width of a plain terminal."""

import io
import json
import shlex
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from search.config import StudyConfig
from search.ending import Outcome
from search.summary import as_json, show

KEY = "0123456789abcdef" * 4


def row(**changes):
    """A model of the front."""
    return {
        "model_key": KEY,
        "stage": "after_kd",
        "f1_macro": 0.8071,
        "test_f1_macro": 0.7963,
        "model_size_mb": 0.6308,
        "speedup_factor": 263.05,
        "safety_verdict": "safe",
        "test_safety_verdict": "inconclusive",
        "on_front": True,
        "on_safe_front": True,
        "f1_drop_upper": 0.2,
        "critical_f1_drop_upper": 0.01,
        "critical_recall_drop_upper": 0.0,
        "positives_needed": None,
        "distil.method": "logit",
        "distil.student": "layers",
        "distil.layers": 2,
        "prune.method": "none",
        "quantize.method": "none",
    } | changes


def shown(rows, tmp_path, trials=None):
    """The lines on a terminal of 80 columns without colours; the trials are the front if they are not given."""
    config = StudyConfig(study="mine.2", results_dir=str(tmp_path / "my results"))
    config.folder.mkdir(parents=True)
    files = [config.folder / name for name in ("trials.parquet", "report.html", "extra.csv")]
    stream = io.StringIO()
    frame = pd.DataFrame(rows)
    measured = frame if trials is None else pd.DataFrame(trials)
    show(Outcome(measured, frame, files, finished=True), config, Console(file=stream, width=80))
    return stream.getvalue().splitlines(), config


def test_the_front_the_files_and_the_next_command(tmp_path):
    lines, config = shown([row()], tmp_path)
    text = "\n".join(lines)
    cells = next(line for line in lines if "01234567" in line).split()
    assert cells == ["★", "01234567", "logit", "2", "layers", "0.807", "0.796", "0.63", "263", "safe"]
    assert "3 files" in text and "report.html" in text and "trials.parquet" in text and "front.pdf" not in text
    command = shlex.split(lines[-1])
    assert command[:5] == ["python", "-m", "pipeline.export", str(config.folder), "knee"]
    assert Path(command[-1]).parent == config.folder.parent and "\x1b" not in text
    assert all(len(line) <= 80 for line in lines if str(tmp_path) not in line)


@pytest.mark.parametrize(("speedup", "told"), [(1.4444, "1.44"), (1.5, "1.50"), (14.07, "14.1"), (333.1, "333")])
def test_speed_ups_have_three_digits(tmp_path, speedup, told):
    lines, _ = shown([row(speedup_factor=speedup)], tmp_path)
    assert any(f" {told}  " in line for line in lines)


def test_when_nothing_is_safe_the_closest_say_what_they_miss(tmp_path):
    lines, _ = shown([row(safety_verdict="inconclusive", on_safe_front=False, positives_needed=412)], tmp_path)
    text = "\n".join(lines)
    assert "no compressed model is safe" in text and "macro F1 may drop by 0.200 (limit 0.05)" in text
    assert "412 critical positives" in text and "★" not in lines[3] and "pipeline.export" not in text


def test_the_closest_have_keys_and_verdicts_and_what_is_undecided_comes_before_what_is_unsafe(tmp_path):
    rows = [
        row(model_key="a" * 64, safety_verdict="unsafe", f1_drop_upper=0.06),
        row(model_key="b" * 64, safety_verdict="inconclusive", f1_drop_upper=0.3),
        row(model_key="c" * 64, safety_verdict="inconclusive", f1_drop_upper=0.2),
        row(model_key="d" * 64, f1_drop_upper=0.04, test_safety_verdict="unsafe", test_f1_drop=0.055),
    ]
    rows = [one | {"on_safe_front": one["safety_verdict"] == "safe"} for one in rows]
    without_test = [{name: one[name] for name in one if not name.startswith("test_")} for one in rows]
    lines, _ = shown(rows, tmp_path, trials=without_test)
    begin = next(number for number, line in enumerate(lines) if "the closest ones" in line) + 1
    assert lines[begin : begin + 4] == [
        "  cccccccc logit 2 layers: inconclusive on validation, where macro F1 may drop by 0.200 (limit 0.05)",
        "  bbbbbbbb logit 2 layers: inconclusive on validation, where macro F1 may drop by 0.300 (limit 0.05)",
        "  dddddddd logit 2 layers: safe on validation; unsafe on test, where macro F1 drops by 0.055 (limit 0.05)",
        f"results, 3 files in {tmp_path / 'my results' / 'mine.2'}:",
    ]


def test_only_chains_are_folded(tmp_path):
    chain = {
        "distil.student": "ngram",
        "distil.buckets": 65536,
        "distil.dimension": 16,
        "quantize.method": "int8_dynamic",
    }
    rows = [row(safety_verdict="inconclusive", speedup_factor=1234.5, model_size_mb=1088.61, **chain)]
    lines, _ = shown(rows, tmp_path)
    text = "\n".join(lines)
    assert "inconclusive" in text and "1088.61" in text and "…" not in text and "65536×16" in text


def test_text_of_users_is_no_markup(tmp_path):
    lines, _ = shown([row(**{"distil.student": "encoder", "distil.model": "[red]bold[/red]"})], tmp_path)
    assert "red]" in "".join(lines).replace(" ", "")
    assert json.dumps(lines)


def test_scripts_get_one_json_object(tmp_path):
    config = StudyConfig(study="mine.2", results_dir=str(tmp_path))
    frame = pd.DataFrame([row(), row(model_key="f" * 64, stage="baseline", test_f1_macro=float("nan"))])
    told = json.loads(as_json(Outcome(frame, frame, [], finished=True), config))
    assert told["study"] == config.study and told["folder"] == str(config.folder) and told["finished"] is True
    assert told["models"] == 2 and [one["recommended"] for one in told["front"]] == [True, False]
    assert told["front"][0]["f1_macro"] == 0.8071 and told["front"][0]["chain"] == "logit 2 layers"
    assert told["front"][1]["test_f1_macro"] is None
