"""The command as a user types it, over a finished tiny study: what it writes, compares, prints and refuses."""

import hashlib
import json
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.special import expit

from pipeline.bases import licence_of
from pipeline.cache import Store
from pipeline.data import load_data
from pipeline.deployed import altered_files, load_deployed
from pipeline.export import main
from pipeline.export_check import answers_of_study, compare, stored_logits
from pipeline.export_folder import REQUIREMENTS
from pipeline.manifest import sealed
from pipeline.predict import main as predict
from pipeline.remote import Remote
from pipeline.remote_store import RemoteStore
from pipeline.runtime import load_classifier
from pipeline.storage import open_store
from pipeline.study_results import read_results

LABELS = ("bully", "sexual", "threat")
COMPARED = ("comments_compared", "largest_difference", "labels_differ")


def run(capsys, *arguments):
    """Status, standard output, standard error."""
    status = main([str(argument) for argument in arguments])
    printed = capsys.readouterr()
    return status, printed.out, printed.err


@pytest.fixture(scope="module")
def exported(tiny_study, tmp_path_factory):
    """A folder of each model, by name, and what the command told of it."""
    place = tmp_path_factory.mktemp("exported")
    made = {}
    for name, model in tiny_study.models.items():
        command = [str(tiny_study.folder), model.key[:10], "--to", str(place / name), "--json"]
        with redirect_stdout(StringIO()) as printed, redirect_stderr(StringIO()) as warned:
            assert main(command) == 0
        made[name] = (place / name, json.loads(printed.getvalue()), warned.getvalue())
    return made


@pytest.mark.parametrize("name", ["teacher", "wanda", "structured", "int8", "ngram", "floor"])
def test_every_model_is_exported_whole_and_answers_as_the_study_stored(
    exported, tiny_study, tiny_data, tiny_comments, name
):
    folder, told, _ = exported[name]
    assert altered_files(folder) == []
    listed = {line.split("  ")[1] for line in (folder / "SHA256SUMS").read_text().splitlines()}
    assert set(told["files"]) == listed | {"SHA256SUMS"}
    checked = subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=folder, check=False)
    assert checked.returncode == 0
    deployed, texts = load_deployed(folder), tiny_comments.test.texts
    model = tiny_study.models[name]
    batch = 1 if name == "int8" else 32
    expected = expit(load_classifier(model.path).predict_logits(texts, batch).astype(float))
    np.testing.assert_allclose(deployed.probabilities(texts), expected, atol=1e-4)
    thresholds = [tiny_study.rows[name][f"thresholds.{label}"] for label in LABELS]
    assert deployed.decisions.labels == LABELS and deployed.decisions.thresholds == tuple(thresholds)
    assert deployed.decisions.critical_label == "threat" and deployed.batch == batch
    assert told["comments_compared"] == len(texts) and told["labels_differ"] == 0
    assert told["largest_difference"] <= 1e-4


BLOCK = """
import runpy, sys
from importlib.metadata import packages_distributions
needed = {allowed!r}
hidden = {{module for module, owners in packages_distributions().items() if not needed & {{*map(str.lower, owners)}}}}

class Hide:
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in hidden:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Hide)
sys.argv = ["predict.py", *{arguments!r}]
runpy.run_path("predict.py", run_name="__main__")
"""
BROUGHT_ALONG = {
    "onnxruntime": {"onnxruntime", "tokenizers", "numpy", "flatbuffers", "protobuf", "huggingface-hub"},
    "numpy": {"numpy"},
    "scikit-learn": {"scikit-learn", "scipy", "joblib", "cloudpickle", "threadpoolctl", "numpy", "narwhals"},
}


@pytest.mark.parametrize(
    ("name", "needs"),
    [("wanda", "onnxruntime"), ("int8", "onnxruntime"), ("ngram", "numpy"), ("floor", "scikit-learn")],
)
def test_predict_needs_nothing_but_its_requirements(exported, tiny_comments, tmp_path, name, needs):
    folder = tmp_path / "alone"
    shutil.copytree(exported[name][0], folder)
    texts = [text for text in tiny_comments.test.texts if "\n" not in text and "\r" not in text][:40]
    (tmp_path / "comments.txt").write_bytes("\n".join(texts).encode() + b"\n\xff\xfe broken\n\n")
    program = BLOCK.format(allowed=BROUGHT_ALONG[needs], arguments=[str(tmp_path / "comments.txt")])
    done = subprocess.run([sys.executable, "-I", "-B", "-c", program], cwd=folder, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    answers = [json.loads(line) for line in done.stdout.decode().splitlines()]
    assert [answer["line"] for answer in answers] == list(range(1, len(texts) + 3))
    deployed = load_deployed(folder)
    expected = deployed.probabilities([*texts, "\ufffd\ufffd broken", ""])
    found = [[answer["probabilities"][label] for label in LABELS] for answer in answers]
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert [answer["labels"] for answer in answers] == [
        [label for label, given in zip(LABELS, row, strict=True) if given] for row in deployed.decide(expected)
    ]


def test_predict_reads_standard_input_and_runs_isolated(exported):
    folder, _, _ = exported["ngram"]
    command = [sys.executable, "-I", "-B", str(folder / "predict.py")]
    done = subprocess.run(command, input="তোকে দেখে নেব\nok\n".encode(), capture_output=True, check=True)
    assert len(done.stdout.splitlines()) == 2 and altered_files(folder) == []


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("new comments.csv", "'{file}' --text-column NAME"),
        ("NEW.TSV", "{file} --text-column NAME"),
        ("new.parquet", "is a table, not one comment a line; give one comment a line, or JSON lines with the text"),
        ("missing.txt", "cannot be read (No such file or directory); name a file"),
        ("folder", "cannot be read (Is a directory); name a file"),
    ],
)
def test_predict_refuses_what_it_would_misread_or_cannot_read_in_one_line(exported, tmp_path, name, told):
    (tmp_path / "folder").mkdir()
    file = tmp_path / name
    if "new" in name.lower():
        file.write_text("id,text\n1,hello\n")
    command = [sys.executable, "-I", "-B", str(exported["ngram"][0] / "predict.py"), str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert done.stderr.startswith(f"error: {file}: ") and told.format(file=file) in done.stderr


def test_the_command_that_predict_names_for_a_table_answers_it(exported, tmp_path, capsys):
    file = tmp_path / "new comments.csv"
    file.write_text("id,text\n1,hello\n")
    program = [sys.executable, "-I", "-B", str(exported["ngram"][0] / "predict.py"), str(file)]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    named = shlex.split(done.stderr.partition("python -m pipeline.predict ")[2].replace("NAME", "text"))
    assert predict([*named, "--to", str(tmp_path / "answers")]) == 0
    assert json.loads((tmp_path / "answers").read_text())["id"] == "1"


def test_predict_tells_its_usage(exported):
    command = [sys.executable, "-I", "-B", str(exported["ngram"][0] / "predict.py")]
    done = subprocess.run([*command, "--help"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "") and "python predict.py comments.jsonl    a JSON" in done.stdout
    done = subprocess.run([*command, "a.txt", "b.txt"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "") and "unrecognized arguments: b.txt" in done.stderr


@pytest.mark.parametrize("ending", ["closed pipe", "Ctrl-C"])
def test_predict_ends_in_silence_when_nobody_reads_on_and_when_interrupted(exported, ending):
    command = [sys.executable, "-I", "-B", str(exported["ngram"][0] / "predict.py")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        running.stdin.write(b"hello\n" * 40)
        running.stdin.flush()
        assert json.loads(running.stdout.readline())["line"] == 1  # it is in its loop, and waits for the next batch
        if ending == "Ctrl-C":
            running.send_signal(signal.SIGINT)
        else:
            running.stdout.close()
            running.stdin.write(b"hello\n" * 100)
        running.stdin.close()
        running.wait(60)
        assert (running.returncode, running.stderr.read()) == (130 if ending == "Ctrl-C" else 0, b"")


BAD_LINES = [b"", b"{", b"nul", b"[1]", b"3", b'{"t": "a"}', b'{"text": null}', b"[" * 100_000, b"1" * 5000]


@pytest.mark.parametrize(("name", "suffix"), [("teacher", "jsonl"), ("int8", "ndjson"), ("ngram", "JSONL")])
def test_predict_answers_json_lines_as_the_package_does(exported, tiny_comments, tmp_path, name, suffix):
    folder, file = exported[name][0], tmp_path / f"comments.{suffix}"
    texts = [
        rb'"\ud83d half"',
        rb'{"text": "\udc00\ud83d\ude00"}',
        *(json.dumps(t).encode() for t in tiny_comments.test.texts),
    ]
    file.write_bytes(b"\r\n".join([b'"first"', *BAD_LINES, *texts[:40], b"{}", *[b"{"] * 70, b'"last"']))
    command = [sys.executable, "-I", "-B", str(folder / "predict.py"), str(file)]
    done = subprocess.run(command, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (3, b"")
    assert predict([str(folder), str(file), "--to", str(tmp_path / "answers")]) == 3
    ours, theirs = (
        [json.loads(line) for line in said.splitlines()] for said in (done.stdout, (tmp_path / "answers").read_bytes())
    )
    assert [one.get("error") for one in ours] == [one.get("error") for one in theirs] and "error" in ours[1]
    for one, other in zip(ours, theirs, strict=True):
        assert (one["line"], one.get("labels")) == (other["line"], other.get("labels"))
        assert one.get("probabilities", {}) == pytest.approx(other.get("probabilities", {}), abs=1e-5)


def test_requirements_are_those_of_the_project(exported):
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert {line for lines in REQUIREMENTS.values() for line in lines} <= set(project["dependencies"])
    assert (exported["ngram"][0] / "requirements.txt").read_text() == "numpy>=2\n"
    assert (exported["int8"][0] / "requirements.txt").read_text() == "onnxruntime>=1.22\ntokenizers>=0.21\n"


@pytest.mark.parametrize("name", ["teacher", "wanda"])
def test_transformers_alone_loads_the_hugging_face_form(exported, tiny_study, tiny_comments, name):
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging

    form = exported[name][0] / "huggingface"
    logging.set_verbosity_error()
    texts = list(tiny_comments.test.texts[:20])
    batch = AutoTokenizer.from_pretrained(form)(texts, padding=True, truncation=True, return_tensors="pt")
    mask = batch["attention_mask"][..., None]
    with torch.inference_mode():
        hidden = AutoModel.from_pretrained(form)(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]
        ).last_hidden_state
    head = load_file(form / "head.safetensors")
    assert json.loads((form / "classifier.json").read_text())["pooling"] == "mean"
    logits = ((hidden * mask).sum(1) / mask.sum(1)) @ head["weight"].T + head["bias"]
    expected = load_classifier(tiny_study.models[name].path).predict_logits(texts)
    np.testing.assert_allclose(logits.numpy(), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "why"), [("int8", "quantized"), ("ngram", "no transformer"), ("floor", "no transformer")]
)
def test_where_there_is_no_hugging_face_form_the_card_says_why(exported, name, why):
    folder, _, _ = exported[name]
    assert not (folder / "huggingface").exists()
    assert why in (folder / "README.md").read_text().split("no Hugging Face form")[1]


def test_the_card_tells_of_the_studys_own_data_though_the_store_has_the_same_comments_of_another_file(
    tiny_study, tmp_path, capsys
):
    study = tmp_path / "study"
    shutil.copytree(tiny_study.folder, study)
    table = pq.read_table(study / "front.parquet")
    report = json.loads(table.schema.metadata[b"data"]) | {"source": "clean.csv", "duplicate_rows": 321}
    noted = {**table.schema.metadata, b"data": json.dumps(report).encode()}
    pq.write_table(table.replace_schema_metadata(noted), study / "front.parquet")
    assert run(capsys, study, "smallest", "--to", tmp_path / "model", "--quiet")[0] == 0
    card = (tmp_path / "model" / "README.md").read_text()
    assert "Comments: clean.csv, " in card and "321 duplicate rows dropped" in card


def test_a_named_choice_is_told_with_its_runner_up_and_the_next_command(tiny_study, tmp_path, capsys):
    target = tmp_path / "new" / "model"
    status, out, err = run(capsys, tiny_study.folder, "fastest", "--to", target)
    ngram, int8 = tiny_study.models["ngram"].key[:8], tiny_study.models["int8"].key[:8]
    assert status == 0 and err == ""
    lines = out.splitlines()
    assert lines[1].startswith(f"chosen     {ngram}") and lines[2].startswith(f"runner-up  {int8}")
    assert "the fastest of 2 models: 300 times the teacher's speed" in " ".join(out.split())
    assert lines[-1] == f"  python -m pipeline.predict {target} comments.txt"
    assert max(len(line) for line in lines if str(tmp_path) not in line) <= 80
    assert "\x1b" not in out
    assert {path.name for path in target.parent.iterdir()} == {"model"}


def test_json_is_one_object_and_quiet_is_quiet(exported, tiny_study, tmp_path, capsys):
    status, out, _ = run(
        capsys, tiny_study.folder, "best", "--weights", "f1=0,size=1", "--to", tmp_path / "a", "--json"
    )
    told = json.loads(out)
    assert status == 0 and told["chosen"]["model_key"] == tiny_study.models["ngram"].key
    assert told["runner_up"]["model_key"] == tiny_study.models["int8"].key and told["warnings"] == []
    assert run(capsys, tiny_study.folder, "smallest", "--to", tmp_path / "b", "--quiet") == (0, "", "")


def test_a_model_that_is_not_safe_is_exported_with_a_loud_warning(exported, tiny_study):
    folder, told, err = exported["floor"]
    assert "WARNING: the model is unsafe on validation" in err and "WARNING: the model is unsafe on test" in err
    assert told["warnings"] == ["the model is unsafe on validation", "the model is unsafe on test"]
    assert "> **Warning: the model is unsafe on test.**" in (folder / "README.md").read_text()
    assert exported["ngram"][2] == "" and exported["ngram"][1]["warnings"] == []


def test_unsafe_lets_one_choose_among_all_of_the_front(tiny_study, tmp_path, capsys):
    results = read_results(tiny_study.folder)
    expected = results.front[results.front["stage"] != "baseline"]
    status, out, err = run(capsys, tiny_study.folder, "knee", "--unsafe", "--max-size-mb", "50", "--to", tmp_path / "m")
    assert status == 0 and f"of {len(expected)} models with at most 50 MB" in " ".join(out.split())


def refused(capsys, *arguments):
    status, out, err = run(capsys, *arguments)
    assert status == 2 and out == ""
    return err


def test_bad_input_is_named_and_nothing_is_written(tiny_study, tmp_path, capsys):
    study, target = tiny_study.folder, tmp_path / "model"
    assert "did you mean" in refused(capsys, study.with_name("tinny"), "knee", "--to", target)
    assert "did you mean 'smallest'" in refused(capsys, study, "smalest", "--to", target)
    assert "no such model" in refused(capsys, study, "0" * 12, "--to", target)
    assert "--weights f1=1" in refused(capsys, study, "best", "--to", target)
    assert "did you mean 'size'" in refused(capsys, study, "best", "--weights", "siz=1", "--to", target)
    assert "at least 0" in refused(capsys, study, "best", "--weights", "f1=-1", "--to", target)
    assert "not all be 0" in refused(capsys, study, "best", "--weights", "f1=0", "--to", target)
    assert "belongs to best" in refused(capsys, study, "knee", "--weights", "f1=1", "--to", target)
    assert "the closest is" in refused(capsys, study, "knee", "--max-size-mb", "0.01", "--to", target)
    key = tiny_study.models["int8"].key
    assert "names one model" in refused(capsys, study, key, "--min-speedup", "2", "--to", target)
    (tmp_path / "empty").mkdir()
    for store, why in (("no", "the store of the study is gone"), ("empty", "is not in the store, or damaged")):
        status, _, err = run(capsys, study, "knee", "--store", tmp_path / store, "--to", target)
        assert status == 2 and why in err and "name its place with --store" in err
    assert {path.name for path in tmp_path.iterdir()} == {"empty"}
    status, out, _ = run(capsys, study, "smalest", "--to", target, "--json")
    assert status == 2 and "did you mean" in json.loads(out)["errors"][0]


def test_weights_are_checked_before_a_model_is_sought(tiny_study, tmp_path, capsys):
    study, target = tmp_path / "study", tmp_path / "model"
    shutil.copytree(tiny_study.folder, study)
    table = pq.read_table(study / "front.parquet")
    column = table.column_names.index("on_safe_front")
    table = table.set_column(column, "on_safe_front", pa.array([False] * len(table)))
    pq.write_table(table, study / "front.parquet")
    assert "no compressed model is safe" in refused(capsys, study, "best", "--weights", "f1=1,size=2", "--to", target)
    for weights, told in (
        ("f1=1,foo=2", "'foo=2': best weighs no 'foo' (has: f1, size, latency; write, for example, f1=1,size=0.5"),
        ("siz=1", "'siz=1': best weighs no 'siz'; did you mean 'size'? (has:"),
        ("f1=much", "'f1=much': give a number of at least 0, as in f1=0.5"),
    ):
        said = refused(capsys, study, "best", "--weights", weights, "--to", target)
        assert said.startswith(f"error: --weights {told}") and len(said.splitlines()) == 1


def test_a_taken_folder_is_kept_and_only_an_exported_model_is_replaced(exported, tiny_study, tmp_path, capsys):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("years of work")
    for options in ([], ["--overwrite"]):
        assert "no exported model" in refused(capsys, tiny_study.folder, "knee", "--to", mine, *options)
    assert (mine / "thesis.tex").read_text() == "years of work"
    assert "is no folder" in refused(capsys, tiny_study.folder, "knee", "--to", mine / "thesis.tex")
    old = tmp_path / "old"
    shutil.copytree(exported["floor"][0], old)
    assert "--overwrite" in refused(capsys, tiny_study.folder, "smallest", "--to", old)
    assert run(capsys, tiny_study.folder, "smallest", "--to", old, "--overwrite")[0] == 0
    assert altered_files(old) == [] and not (old / "vocabulary.json").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"mine", "old"}


def test_a_model_that_answers_otherwise_than_stored_is_not_left_behind(tiny_study, tiny_store, tmp_path, capsys):
    """The stored answers of the n-gram model on test are changed, in a copy of the store, with a manifest that fits."""
    store = tmp_path / "store"
    shutil.copytree(tiny_store.root, store)
    model = tiny_study.models["ngram"]
    for manifest in (store / "predictions").glob("*/manifest.json"):
        facts = json.loads(manifest.read_text())
        if facts["parents"] != [model.key] or facts["config"]["split"] != "test":
            continue
        file = manifest.with_name("logits.npy")
        logits = np.load(file)
        logits[3, 1] += 0.01
        np.save(file, logits)
        facts["files"]["logits.npy"] = {
            "bytes": file.stat().st_size,
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        }
        manifest.write_text(sealed(facts))
    target = tmp_path / "exports" / "model"
    status, out, err = run(capsys, tiny_study.folder, "smallest", "--store", store, "--to", target)
    assert status == 1 and "does not answer as the study's does: largest difference" in err
    assert list(target.parent.iterdir()) == []
    old = tmp_path / "exports" / "old"
    assert run(capsys, tiny_study.folder, "smallest", "--to", old)[0] == 0
    before = (old / "SHA256SUMS").read_bytes()
    assert run(capsys, tiny_study.folder, "smallest", "--store", store, "--to", old, "--overwrite")[0] == 1
    assert (old / "SHA256SUMS").read_bytes() == before and [path.name for path in old.parent.iterdir()] == ["old"]


def test_the_comparison_counts_labels_and_differences(exported, tiny_study, tiny_comments):
    folder, _, _ = exported["ngram"]
    deployed, texts = load_deployed(folder), list(tiny_comments.test.texts[:30])
    expected = deployed.probabilities(texts)
    assert compare(folder, texts, expected).equal
    other = expected.copy()
    other[7] = 1.0 - np.round(deployed.decide(expected)[7])
    found = compare(folder, texts, other)
    assert found.labels_differ == 3 and not found.equal and found.comments == 30
    assert found.largest_difference == pytest.approx(np.abs(other - expected).max(), abs=1e-5)
    assert not compare(folder, texts, expected + 2e-4).equal


def test_answers_never_given_on_test_come_from_the_store_s_own_model(
    tiny_study, tiny_store, tiny_data, tiny_comments, tmp_path
):
    model = tiny_study.models["wanda"]
    shutil.copytree(tiny_store.root, tmp_path / "store")  # other tests may have asked it on test
    store = Store(tmp_path / "store")
    for answered in list(store.made_from("predictions", model.key)):
        shutil.rmtree(answered.path)
    assert stored_logits(store, tiny_data.key, model.key, "test") is None
    assert stored_logits(store, tiny_data.key, tiny_study.models["int8"].key, "test") is not None
    answers = answers_of_study(store, tiny_data, load_data(tiny_data.path), model)
    expected = expit(load_classifier(model.path).predict_logits(tiny_comments.test.texts).astype(float))
    np.testing.assert_allclose(answers["test"], expected, atol=1e-6)


def test_a_study_in_an_object_store_is_exported_on_a_machine_that_has_nothing_of_it(
    tiny_study, tiny_store, tiny_data, tmp_path, capsys, s3, monkeypatch
):
    monkeypatch.setenv("PARETO_CACHE", str(tmp_path / "cache"))
    url, model = f"{s3.bucket()}/store", tiny_study.models["ngram"]
    shared = RemoteStore(Remote(url))
    for manifest in tiny_store.root.glob("*/*/manifest.json"):
        facts = json.loads(manifest.read_text())
        if model.key in (facts["key"], *facts["parents"]) or facts["stage"] == "data":
            shared.publish(facts["stage"], facts["key"], manifest.parent, facts)
    study = tmp_path / "study"
    shutil.copytree(tiny_study.folder, study)
    lines = (line for line in (study / "study.yaml").read_text().splitlines() if not line.startswith("storage:"))
    (study / "study.yaml").write_text("\n".join([*lines, f"storage: {url}"]))
    status, _, err = run(capsys, study, model.key[:10], "--to", tmp_path / "model")
    assert status == 0, err
    assert load_deployed(tmp_path / "model").decisions.labels == LABELS
    answers = [stored_logits(store, tiny_data.key, model.key, "test") for store in (open_store(url), tiny_store)]
    assert np.array_equal(*answers)
    monkeypatch.setenv("PARETO_CACHE", str(tmp_path / "other"))
    status, _, err = run(capsys, tiny_study.folder, model.key[:10], "--to", tmp_path / "moved", "--store", url)
    assert status == 0, err
    status, _, err = run(capsys, study, model.key[:10], "--to", tmp_path / "x", "--store", "s3://no-such-bucket/p")
    assert status == 2 and "there is no such bucket" in err


def test_a_licence_is_what_the_model_s_own_files_name(tmp_path):
    assert licence_of(str(tmp_path)) == "unknown" and licence_of("no/such-model") == "unknown"
    (tmp_path / "config.json").write_text('{"license": "apache-2.0"}')
    assert licence_of(str(tmp_path)) == "apache-2.0"
    (tmp_path / "README.md").write_text("---\nlanguage: bn\nlicense: mit\n---\n# A model\nlicense: gpl\n")
    assert licence_of(str(tmp_path)) == "mit"


def test_without_a_place_the_model_goes_into_the_study_s_folder(tiny_study, tmp_path, capsys):
    study, store = tmp_path / "study", read_results(tiny_study.folder).store_root
    shutil.copytree(tiny_study.folder, study)
    status, printed, _ = run(capsys, study, "teacher", "--store", store, "--json")
    told = json.loads(printed)
    folder = study / "models" / told["chosen"]["model_key"]
    assert status == 0 and told["folder"] == str(folder) and load_deployed(folder).decisions.labels == LABELS
    (folder / "venv").mkdir()
    (folder / "venv" / "large").write_bytes(b"0" * 1000)
    status, printed, _ = run(capsys, study, "teacher", "--store", store, "--json")
    again = json.loads(printed)
    assert status == 0 and again["comments_compared"] is None and told["comments_compared"] > 0
    assert {**again, **{name: told[name] for name in COMPARED}} == told and (folder / "venv" / "large").is_file()
    assert "was there already" in run(capsys, study, "teacher", "--store", store)[1]
    (folder / "README.md").write_text("altered")
    assert run(capsys, study, "teacher", "--store", store)[0] == 2, "it is not as it was"
    assert run(capsys, study, "teacher", "--store", store, "--overwrite")[0] == 0
