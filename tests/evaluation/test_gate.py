"""The gate as a user's continuous integration calls it: exit status, figures against scikit-learn, what it refuses."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit
from sklearn.metrics import f1_score, recall_score

from evaluation.gate import main
from pipeline.deployed import Decisions, write_sums
from pipeline.runtime import load_classifier, load_deployment
from pipeline.sample import generate_comments

LABELS = ("bully", "sexual", "threat")
THRESHOLDS = (0.5, 0.35, 0.4)


def exported(artifact, folder, thresholds=THRESHOLDS, labels=LABELS, critical="threat"):
    """A store artifact's runtime files with decisions and sums, as the exporter leaves them."""
    folder.mkdir()
    names = {"deploy.json", "tokenizer.json", "hashing.json", *load_deployment(artifact.path).weight_files}
    for name in names:
        if (artifact.path / name).is_file():
            shutil.copy(artifact.path / name, folder / name)
    Decisions(labels, thresholds, critical).save(folder)
    write_sums(folder)
    return folder


@pytest.fixture(scope="module")
def folders(tiny_teacher, tiny_int8, tiny_classical, tmp_path_factory):
    """Exported models: teacher, the same again, int8, and the floor, which never says yes at these thresholds."""
    place = tmp_path_factory.mktemp("exported")
    return {
        "teacher": exported(tiny_teacher, place / "teacher"),
        "same": exported(tiny_teacher, place / "same"),
        "int8": exported(tiny_int8, place / "int8"),
        "silent": exported(tiny_classical, place / "silent", thresholds=(1.0, 1.0, 1.0)),
    }


@pytest.fixture(scope="module")
def frame():
    """1,500 synthetic comments that no tiny model has seen; some texts repeat."""
    return generate_comments(1500, seed=7)[["comment", *LABELS]]


@pytest.fixture(scope="module")
def data(frame, tmp_path_factory):
    file = tmp_path_factory.mktemp("data") / "comments.csv"
    frame.to_csv(file, index=False)
    return file


def run(capsys, candidate, baseline, data, *options):
    """Exit status, standard output, standard error."""
    status = main([str(candidate), "--baseline", str(baseline), "--data", str(data), *options])
    told = capsys.readouterr()
    return status, told.out, told.err


def refused(capsys, candidate, baseline, data, *options):
    """The lines of the refusal; asserts status 2 and nothing on standard output."""
    status, out, err = run(capsys, candidate, baseline, data, *options)
    assert (status, out) == (2, ""), err
    return err.splitlines()


def test_the_same_model_is_safe_and_a_silent_one_is_not(folders, data, capsys):
    status, out, err = run(capsys, folders["same"], folders["teacher"], data)
    assert (status, err) == (0, "")
    assert out.splitlines()[-1] == "safe: every 95% upper bound is within its limit"
    _, out, _ = run(capsys, folders["same"], folders["teacher"], data, "--limits", "confidence=0.995")
    assert "at most: with 99.5% confidence the drop is no larger\n" in out
    status, out, _ = run(capsys, folders["silent"], folders["teacher"], data)
    assert status == 1
    assert out.splitlines()[-1].startswith("unsafe: beyond the limit: f1_drop ")
    assert "\x1b" not in out and max(map(len, out.splitlines()[:-1])) <= 80


def test_figures_are_scikit_learns_on_the_different_texts(folders, frame, data, capsys):
    status, out, _ = run(capsys, folders["int8"], folders["teacher"], data, "--json")
    told = json.loads(out)
    different = frame.groupby(frame["comment"].str.split().str.join(" "), sort=False)[list(LABELS)].mean()
    actual = (different.to_numpy() >= 0.5).astype(int)
    assert told["comments"] == len(different) < len(frame) == told["rows"]
    assert told["duplicate_rows"] == len(frame) - len(different)
    assert told["critical_positives"] == actual[:, 2].sum()
    # One by one, so that int8's scales are those of a single request.
    scores = {}
    for name in ("teacher", "int8"):
        model = load_classifier(folders[name])
        logits = np.concatenate([model.predict_logits([text]) for text in different.index])
        said = (expit(logits.astype(np.float64)) >= THRESHOLDS).astype(int)
        scores[name] = (
            f1_score(actual, said, average="macro", zero_division=0),
            f1_score(actual[:, 2], said[:, 2], zero_division=0),
            recall_score(actual[:, 2], said[:, 2]),
        )
    for index, check in enumerate(told["checks"]):
        assert check["candidate"] == pytest.approx(scores["int8"][index], abs=0.003)
        assert check["baseline"] == pytest.approx(scores["teacher"][index], abs=0.003)
        assert check["drop"] == pytest.approx(check["baseline"] - check["candidate"], abs=1e-12)
        assert check["upper"] >= check["drop"]
    assert [check["limit"] for check in told["checks"]] == [0.05, 0.03, 0.03]
    assert (status == 0) == (told["verdict"] == "safe") == told["safe_for_deployment"]
    limits = zip(told["checks"], (0.05, 0.03, 0.03), strict=True)
    assert told["safe_for_deployment"] == all(check["upper"] <= limit for check, limit in limits)


def test_too_few_positives_are_inconclusive_and_say_how_many_would_do(folders, frame, tmp_path, capsys):
    file = tmp_path / "few.csv"
    frame.iloc[:150].to_csv(file, index=False)
    status, out, _ = run(capsys, folders["same"], folders["teacher"], file, "--quiet")
    assert status == 1
    assert out.startswith("inconclusive: 95% upper bound beyond the limit: ") and out.count("\n") == 1
    # Identical predictions: 1 - 0.05^(1/m) <= 0.03 from 99 positives on.
    assert int(out.rsplit("; ", 1)[1].split()[0].replace(",", "")) >= 99


def test_no_positive_of_the_critical_label_is_not_safe(folders, frame, tmp_path, capsys):
    file = tmp_path / "none.csv"
    frame[frame["threat"] == 0].to_csv(file, index=False)
    status, out, _ = run(capsys, folders["same"], folders["teacher"], file)
    assert status == 1
    assert out.count("not computed") == 2 and "undefined" in out
    assert "no comment has the critical label 'threat'" in out.splitlines()[-1]
    told = json.loads(run(capsys, folders["same"], folders["teacher"], file, "--json")[1])
    assert told["checks"][1]["drop"] is None and not told["safe_for_deployment"]


def test_limits_and_critical_label_can_be_named(folders, data, capsys):
    options = ["--limits", "f1=1,critical_f1=1,critical_recall=1", "--critical-label", "bully"]
    status, out, _ = run(capsys, folders["silent"], folders["teacher"], data, "--json", *options)
    told = json.loads(out)
    assert (status, told["critical_label"]) == (0, "bully")
    assert [check["limit"] for check in told["checks"]] == [1, 1, 1]
    status, *_ = run(capsys, folders["same"], folders["teacher"], data, "--limits", "critical_recall=0")
    assert status == 1, "no finite sample shows that nothing at all is lost"


def test_labels_in_another_order_are_the_same_labels(folders, tiny_int8, data, tmp_path, capsys):
    """The baseline's columns are put in the candidate's order."""
    turned = exported(tiny_int8, tmp_path / "turned", THRESHOLDS, LABELS)
    for name, values in {"deploy.json": {"labels": LABELS[::-1]}, "decisions.json": {"labels": LABELS[::-1]}}.items():
        facts = json.loads((turned / name).read_text(encoding="utf-8")) | values
        (turned / name).write_text(json.dumps(facts), encoding="utf-8")
    write_sums(turned)
    told = json.loads(run(capsys, folders["int8"], turned, data, "--json")[1])
    plain = json.loads(run(capsys, folders["int8"], folders["int8"], data, "--json")[1])
    assert told["checks"][2]["baseline"] != plain["checks"][2]["baseline"], "its threat is what was called bully"
    assert told["checks"][2]["candidate"] == plain["checks"][2]["candidate"]


def test_what_is_wrong_with_the_folders_is_named(folders, tiny_teacher, data, tmp_path, capsys):
    altered, torn = tmp_path / "altered", tmp_path / "torn"
    shutil.copytree(folders["int8"], altered)
    (altered / "tokenizer.json").write_text("{}", encoding="utf-8")
    shutil.copytree(folders["teacher"], torn)
    (torn / "model.onnx").unlink()
    lines = refused(capsys, altered, torn, data)
    assert len(lines) == 2
    assert "altered/tokenizer.json: not as it was exported" in lines[0] and "torn/model.onnx: missing" in lines[1]
    other = exported(tiny_teacher, tmp_path / "other")
    for name in ("deploy.json", "decisions.json"):
        text = (other / name).read_text(encoding="utf-8").replace("sexual", "hate speech")
        (other / name).write_text(text, encoding="utf-8")
    write_sums(other)
    [line] = refused(capsys, other, folders["teacher"], data)
    assert "'hate speech'" in line and "'sexual'" in line and "compare models of the same labels" in line
    strict = exported(tiny_teacher, tmp_path / "strict", critical="bully")
    [line] = refused(capsys, strict, folders["teacher"], data)
    assert "critical label is 'bully', the baseline's 'threat'; choose with --critical-label" in line
    [line] = refused(capsys, folders["same"], folders["teacher"], data, "--critical-label", "treat")
    assert "did you mean 'threat'?" in line


def test_what_is_wrong_with_the_data_is_named(folders, frame, tmp_path, capsys):
    def told(table, *options, name="c.csv"):
        table.to_csv(tmp_path / name, index=False)
        return refused(capsys, folders["same"], folders["teacher"], tmp_path / name, *options)

    [line] = told(frame.rename(columns={"threat": "treat"}))
    assert "label 'threat': no such column in c.csv" in line and "did you mean 'treat'?" in line
    [line] = told(frame.assign(threat=frame["threat"] * 2))
    assert "label 'threat'" in line and "other than 0 or 1" in line and "'2' in line" in line
    [line] = told(frame.assign(comment=["", *frame["comment"][1:]]))
    assert "--text-column 'comment': 1 empty text in c.csv (line 2); remove those rows" in line
    [line] = told(frame.assign(author="somebody"))
    assert "2 columns could be the text ('comment', 'author'); name it with --text-column" in line
    [line] = told(frame, "--text-column", "coment")
    assert "--text-column 'coment': no such column in c.csv" in line and "did you mean 'comment'?" in line
    [line] = told(frame, "--text-column", "bully")
    assert "--text-column 'bully': is a label" in line
    [line] = told(frame.drop(columns="comment"))
    assert "no column but the labels holds words" in line
    latin = tmp_path / "latin.csv"
    latin.write_bytes("comment,bully,sexual,threat\nd\xe9j\xe0,0,1,0\n".encode("latin-1"))
    [line] = refused(capsys, folders["same"], folders["teacher"], latin)
    assert line.startswith("error: --data ") and "not UTF-8" in line
    [line] = refused(capsys, folders["same"], folders["teacher"], tmp_path / "d.csv")
    assert "no such file" in line and "did you mean 'c.csv'?" in line


def test_other_separators_are_found(folders, frame, data, tmp_path, capsys):
    expected = run(capsys, folders["int8"], folders["teacher"], data)
    for separator, name in ((";", "c.csv"), ("\t", "t.csv"), ("\t", "c.tsv")):
        frame.assign(author=1).to_csv(tmp_path / name, index=False, sep=separator)
        assert run(capsys, folders["int8"], folders["teacher"], tmp_path / name) == expected
    frame.to_parquet(tmp_path / "c.parquet")
    assert run(capsys, folders["int8"], folders["teacher"], tmp_path / "c.parquet") == expected
    assert run(capsys, folders["int8"], folders["teacher"], tmp_path / "t.csv", "--separator", "tab") == expected


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--limits", "critical_fi=0.1", "did you mean critical_f1?"),
        ("--limits", "f1=much", "must be f1=NUMBER"),
        ("--separator", ",,", "is not one character"),
        ("--threads", "0", "give a whole number from 1"),
    ],
)
def test_options_that_cannot_be(option, value, words, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["a", "--baseline", "b", "--data", "c", option, value])
    assert stopped.value.code == 2
    assert words in capsys.readouterr().err


def test_a_limit_out_of_range_is_refused(folders, data, capsys):
    [line] = refused(capsys, folders["same"], folders["teacher"], data, "--limits", "f1=nan")
    assert line == "error: --limits max_f1_drop=nan: give a number in [0, 1]"


def test_as_a_module_it_is_light(folders, data):
    """The exit status reaches the shell, and neither torch nor the compressing stages are loaded."""
    root = Path(__file__).parents[2]
    command = [sys.executable, "-X", "importtime", "-m", "evaluation.gate", str(folders["same"])]
    done = subprocess.run(
        [*command, "--baseline", str(folders["teacher"]), "--data", str(data)],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "onnxruntime" in imported and not imported & {"torch", "transformers", "ray", "optuna", "mlflow"}
