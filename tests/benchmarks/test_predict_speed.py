"""The benchmark of predicting: its figures by hand, its clock by the operating system, a short run on real models."""

import json
import os
import sys

import pytest

from benchmarks.predict_speed import CHUNK, Command, comments, exported, judged, main, runtime_alone
from pipeline.deployed import load_deployed

pytestmark = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system does not bind to a core")


@pytest.fixture
def every_core():
    """Binding to a core is undone."""
    before = os.sched_getaffinity(0)
    yield
    os.sched_setaffinity(0, before)


def test_rate_share_and_growth():
    found = judged("onnxruntime", 1, 0.3, [1.0, 2.0, 4.0], [0.9, 1.9, 3.8], [50.0, 60.0, 52.0, 54.0])
    assert found["comments_per_second"] == pytest.approx(3 * CHUNK / 7)
    assert found["runtime_alone_per_second"] == pytest.approx(3 * CHUNK / 6.6)
    assert found["share_of_runtime"] == pytest.approx(0.95) and found["met"]
    assert (found["resident_tenth_mib"], found["resident_end_mib"], found["comments"]) == (50.0, 54.0, 4 * CHUNK)


@pytest.mark.parametrize(
    ("runtime", "taken", "alone", "end", "met"),
    [
        ("onnxruntime", 1.0, 0.91, 55.0, True),
        ("onnxruntime", 1.0, 0.89, 50.0, False),
        ("onnxruntime", 1.0, 0.95, 55.1, False),
        ("ngram", CHUNK / 5001, None, 50.0, True),
        ("ngram", CHUNK / 4999, None, 50.0, False),
        ("scikit-learn", 9.0, None, 50.0, True),
    ],
)
def test_each_target_is_asked_for(runtime, taken, alone, end, met):
    assert judged(runtime, 32, 0.3, [taken], [alone], [50.0, end])["met"] is met


def test_the_command_answers_what_it_is_given_and_its_clock_is_the_systems(tiny_int8, tmp_path):
    folder = exported(tiny_int8, tmp_path / "model")
    before, command = os.times(), Command(folder)
    answers = command.answer([f"comment {i}" for i in range(700)])
    seconds, most = command.seconds(), command.resident_mib("VmHWM")
    assert [json.loads(one)["line"] for one in answers] == list(range(1, 701))
    assert 20 < command.resident_mib() <= most < 2000
    assert command.end() == 0
    after = os.times()
    children = after.children_user + after.children_system - before.children_user - before.children_system
    assert 0.5 * children < seconds <= children + 0.02
    assert 0 < runtime_alone(load_deployed(folder), ["a", "b c"]) < 1


def test_comments_come_from_a_table_in_one_line_each(tmp_path):
    (tmp_path / "c.csv").write_text('id,comment\n1,"a\nb"\n2,c\n', encoding="utf-8")
    assert comments(tmp_path / "c.csv", "comment") == ["a b", "c"]
    assert len(set(comments(None, "text"))) > 10_000


def test_a_short_run_on_two_models(tiny_teacher, tiny_classical, tmp_path, monkeypatch, capsys, every_core):
    folders = [str(exported(one, tmp_path / name)) for name, one in (("net", tiny_teacher), ("floor", tiny_classical))]
    core = str(min(os.sched_getaffinity(0)))
    options = ["--comments", "3000", "--core", core, "--json", str(tmp_path / "figures.json")]
    monkeypatch.setattr(sys, "argv", ["predict_speed", *folders, *options])
    with pytest.raises(SystemExit) as ended:
        main()
    models = json.loads((tmp_path / "figures.json").read_text())["models"]
    net, floor = (models[folder] for folder in folders)
    assert ended.value.code == (0 if net["met"] and floor["met"] else 1)
    assert net["comments"] == floor["comments"] == 2 * CHUNK
    assert 0 < net["share_of_runtime"] <= 1.2 and floor["share_of_runtime"] is None
    assert net["comments_per_second"] > 100 and floor["resident_end_mib"] > 20
    told = capsys.readouterr().out
    assert "net" in told and "floor" in told and "share of its rate" in told
