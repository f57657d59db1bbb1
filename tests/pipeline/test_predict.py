"""The command as it is run: one answer a line in the order of the input, the study's probabilities, and every end."""

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from pipeline.comment_stream import CHUNK
from pipeline.deployed import Decisions, write_sums
from pipeline.runtime import load_classifier, load_deployment

ROOT = Path(__file__).resolve().parents[2]
THRESHOLDS = (0.35, 0.5, 0.2)


def exported(artifact, folder):
    """What an export leaves of a model: the files that answer, the decisions and the sums."""
    folder.mkdir()
    for name in ("deploy.json", "model.onnx", "tokenizer.json", "bag.safetensors", "hashing.json"):
        if (artifact.path / name).is_file():
            shutil.copyfile(artifact.path / name, folder / name)
    for name in load_deployment(artifact.path).weight_files:
        shutil.copyfile(artifact.path / name, folder / name)
    labels = load_deployment(folder).labels
    Decisions(labels, THRESHOLDS, labels[-1]).save(folder)
    write_sums(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_ngram(tiny_store, tiny_data, tiny_teacher):
    from pipeline.config import DistilConfig
    from pipeline.stages import distil

    config = DistilConfig(method="logit", student="ngram", buckets=1024, ngram_epochs=1)
    return tiny_store.run(distil, config, tiny_data, tiny_teacher)


@pytest.fixture(scope="session")
def ngram_folder(tiny_ngram, tmp_path_factory):
    return exported(tiny_ngram, tmp_path_factory.mktemp("exported") / "model")


def command(*arguments):
    return [sys.executable, "-m", "pipeline.predict", *map(str, arguments)]


def predict(*arguments, given=b""):
    """The ended process and its answers."""
    done = subprocess.run(command(*arguments), cwd=ROOT, input=given, capture_output=True, check=False)
    return done, [json.loads(line) for line in done.stdout.split(b"\n")[:-1]]


@pytest.mark.parametrize("name", ["tiny_teacher", "tiny_half", "tiny_int8", "tiny_classical", "tiny_ngram"])
def test_answers_are_those_of_the_study(name, request, tiny_comments, tmp_path):
    artifact, texts = request.getfixturevalue(name), [*tiny_comments.test.texts, "", "  ", "x"]
    folder = exported(artifact, tmp_path / "model")
    lines = "".join(json.dumps(text) + "\n" for text in texts)
    done, answers = predict(folder, "--format", "jsonl", "--with-text", given=lines.encode())
    assert (done.returncode, done.stderr) == (0, b"")
    batch = 32 if load_deployment(folder).batch_invariant else 1
    logits = load_classifier(artifact.path).predict_logits(texts, batch).astype(float)
    labels = load_deployment(folder).labels
    assert [one["line"] for one in answers] == list(range(1, len(texts) + 1))
    assert [one["text"] for one in answers] == texts
    expected = 1 / (1 + np.exp(-logits))
    found = np.array([[one["probabilities"][label] for label in labels] for one in answers])
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert len(np.unique(found[:, 0])) > len(texts) / 2
    decided = [[label for label, p, t in zip(labels, row, THRESHOLDS, strict=True) if p >= t] for row in expected]
    assert [one["labels"] for one in answers] == decided and any(decided)


def test_order_and_count_hold_over_many_chunks_and_broken_lines(ngram_folder, tmp_path):
    count = 3 * CHUNK + 7
    lines = [json.dumps({"text": f"comment {i}", "id": f"c{i}"}).encode() for i in range(1, count + 1)]
    broken = [*range(5, count, 800), count]
    kinds = [b"{", b"\xff", b"\0", b'"' + b"x" * 2**20 + b'"', b'{"t": 1}']
    for turn, line in enumerate(broken):
        lines[line - 1] = kinds[turn % len(kinds)]
    (tmp_path / "in.ndjson").write_bytes(b"\n".join(lines))
    done, nothing = predict(ngram_folder, tmp_path / "in.ndjson", "--to", tmp_path / "out", "--quiet")
    assert done.returncode == 3 and nothing == []
    assert (
        done.stderr.decode() == f"{len(broken)} of {count:,} lines could not be read: {', '.join(map(str, broken))}\n"
    )
    answers = [json.loads(line) for line in (tmp_path / "out").read_bytes().splitlines()]
    assert [one["line"] for one in answers] == list(range(1, count + 1))
    assert [one["line"] for one in answers if "error" in one] == broken
    assert all(one["id"] == f"c{one['line']}" for one in answers if "error" not in one)
    probability = {one["line"]: one["probabilities"] for one in answers if "error" not in one}
    _, alone = predict(ngram_folder, given=b"comment 4321")
    assert alone[0]["probabilities"] == probability[4321] != probability[4320]


def test_more_broken_lines_than_are_named(ngram_folder):
    done, answers = predict(ngram_folder, given=b"\xff\n" * 1200)
    assert done.stderr.startswith(b"1,200 of 1,200 lines could not be read: 1, 2, ") and done.stderr.endswith(
        b"10, \xe2\x80\xa6\n"
    )
    assert len(answers) == 1200


def test_a_table_names_its_column(ngram_folder, tmp_path):
    (tmp_path / "in.csv").write_text('id,comment\n7,"a, b"\n8,c\n', encoding="utf-8")
    done, answers = predict(ngram_folder, tmp_path / "in.csv", "--text-column", "comment", "--with-text")
    assert done.returncode == 0
    assert [(one["line"], one["id"], one["text"]) for one in answers] == [(2, "7", "a, b"), (3, "8", "c")]


def test_labels_of_any_characters_are_written_as_json(tiny_ngram, tmp_path):
    folder, labels = exported(tiny_ngram, tmp_path / "model"), ['100 % "so"', "হুমকি\n", "\\"]
    deployed = json.loads((folder / "deploy.json").read_text(encoding="utf-8")) | {"labels": labels}
    (folder / "deploy.json").write_text(json.dumps(deployed), encoding="utf-8")
    Decisions(tuple(labels), (0.0, 0.0, 1.0), labels[0]).save(folder)
    write_sums(folder)
    _, (answer,) = predict(folder, given=b"x")
    assert list(answer["probabilities"]) == labels and answer["labels"] == labels[:2]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["nowhere"], "nowhere: no exported model"),
        (["MODEL", "nothing.txt"], "nothing.txt: cannot be read (No such file"),
        (["MODEL", "comments.parquet"], "comments.parquet: Parquet is no text; write its comments as CSV"),
        (["MODEL", "."], "Is a directory"),
        (["MODEL", "pyproject.tml"], "did you mean 'pyproject.toml'?"),
        (["MODEL", "--to", "nowhere/out"], "nowhere/out: No such file"),
        (["MODEL", "--to", "/dev/full"], "/dev/full: cannot be written (No space left"),
        (["MODEL", "--format", "csv"], "no such column in the input (has: some comment)"),
        (["MODEL", "--threads", "0"], "'0' is no number of threads"),
    ],
)
def test_bad_input_is_refused_by_name(arguments, named, ngram_folder):
    done, answers = predict(*[ngram_folder if one == "MODEL" else one for one in arguments], given=b"some comment\n")
    assert (done.returncode, answers) == (2, []) and named in done.stderr.decode() and b"Traceback" not in done.stderr


def test_an_altered_model_is_refused(tiny_ngram, tmp_path):
    folder = exported(tiny_ngram, tmp_path / "model")
    (folder / "hashing.json").write_text("{}", encoding="utf-8")
    (folder / "bag.safetensors").unlink()
    done, _ = predict(folder, given=b"x")
    assert done.returncode == 2 and b"hashing.json: not as it was" in done.stderr
    assert b"bag.safetensors: missing" in done.stderr


def test_the_input_is_not_overwritten(ngram_folder, tmp_path):
    file = tmp_path / "comments"
    file.write_text("a\n", encoding="utf-8")
    done, _ = predict(ngram_folder, file, "--to", file)
    assert done.returncode == 2 and file.read_text(encoding="utf-8") == "a\n"
    with file.open("ab") as appended:
        done = subprocess.run(command(ngram_folder, file), cwd=ROOT, stdout=appended, check=False)
    assert done.returncode == 2 and file.read_text(encoding="utf-8") == "a\n"


@pytest.mark.parametrize(("given", "count"), [(b"", 0), (b"\n", 1), (b"a", 1), (b"a\r\n\r\n", 2)])
def test_little_input(given, count, ngram_folder):
    done, answers = predict(ngram_folder, "-", given=given)
    assert (done.returncode, len(answers)) == (0, count)


def test_standard_input_may_be_closed(ngram_folder):
    shell = 'exec "$@" <&-'
    done = subprocess.run(["sh", "-c", shell, "sh", *command(ngram_folder)], cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == 2 and b"standard input is closed" in done.stderr


def test_a_slow_writer_gets_its_answers_at_once(ngram_folder):
    with subprocess.Popen(command(ngram_folder), cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        for turn in range(1, 4):
            process.stdin.write(b"one\ntwo\n")
            process.stdin.flush()
            assert [json.loads(process.stdout.readline())["line"] for _ in range(2)] == [2 * turn - 1, 2 * turn]
        process.stdin.close()
        assert process.stdout.read() == b"" and process.wait() == 0


def test_a_reader_that_has_enough_ends_it_quietly(ngram_folder, tmp_path):
    (tmp_path / "in").write_bytes(b"comment\n" * 20 * CHUNK)
    running = command(ngram_folder, tmp_path / "in")
    with subprocess.Popen(running, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b"" and process.wait() == 0


def test_an_interrupt_ends_it_with_130(ngram_folder):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    heard = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}  # who runs tests may ignore it
    with subprocess.Popen(command(ngram_folder), cwd=ROOT, **pipes, **heard) as process:
        for _ in range(2):  # the second is read when the first has been answered and counted
            process.stdin.write(b"a\n")
            process.stdin.flush()
            process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        assert process.stderr.read() in (b"interrupted after 1 line\n", b"interrupted after 2 lines\n")


@pytest.mark.parametrize("quiet", [False, True])
def test_progress_is_shown_on_a_terminal_alone(quiet, ngram_folder, tmp_path):
    (tmp_path / "in").write_bytes(b"comment\n" * 2 * CHUNK)
    parent, child = pty.openpty()
    arguments = [ngram_folder, tmp_path / "in", "--to", tmp_path / "out", *["--quiet"] * quiet]
    with subprocess.Popen(command(*arguments), cwd=ROOT, stderr=child, env={**os.environ, "TERM": "xterm"}) as process:
        os.close(child)
        shown = b""
        while True:
            try:
                part = os.read(parent, 4096)
            except OSError:  # how a terminal ends whose other side is closed
                break
            if not part:
                break
            shown += part
    os.close(parent)
    assert process.returncode == 0
    if quiet:
        assert shown == b""
    else:
        assert f"{2 * CHUNK:,} lines".encode() in shown and b"/s" in shown and b"100%" in shown


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not tell the resident set")
def test_memory_does_not_grow_with_the_input(ngram_folder):
    """Resident after 10 and after 60 chunks: the answers alone, some 90 bytes each, would be 9 MB more."""
    chunk = b"a comment of some length, such as people write\n" * CHUNK
    with subprocess.Popen(command(ngram_folder), cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:

        def resident():
            status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
            return int(status.split("VmRSS:")[1].split()[0])

        sizes = []
        for _ in range(60):
            # More than a pipe holds: written beside, or each side could wait for the other to read.
            feeder = threading.Thread(target=process.stdin.write, args=(chunk,))
            feeder.start()
            for _ in range(CHUNK - 1):  # some bytes of the last one may still be in our own buffer
                process.stdout.readline()
            feeder.join()
            process.stdin.flush()
            process.stdout.readline()
            sizes.append(resident())
        process.stdin.close()
        assert process.wait() == 0
    assert sizes[-1] < sizes[9] + 4096


def test_it_starts_without_what_only_training_needs(ngram_folder):
    code = (
        "import sys; from pipeline.predict import main; status = main(sys.argv[1:]);"
        "heavy = {'torch', 'transformers', 'sklearn', 'pandas', 'ray', 'mlflow'} & set(sys.modules);"
        "sys.exit(f'{status} {heavy}' if status or heavy else 0)"
    )
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code, str(ngram_folder)], cwd=ROOT, input=b"a", capture_output=True)
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - started < 30
