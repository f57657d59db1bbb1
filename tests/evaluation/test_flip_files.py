"""`flips.parquet` and the tables made from it, on real comments in a real data folder."""

import csv
import dataclasses
import shutil

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from moto.server import ThreadedMotoServer
from pyarrow.fs import S3FileSystem

from evaluation.flip_files import Flips, flip_table, write_flips, write_flips_with_texts
from evaluation.flips import count_flips, label_flips
from pipeline.data import Data, Split, fingerprint, load_data
from pipeline.storage import open_store

LABELS = ("threat", '=HYPERLINK("x")')
TEXTS = ["=1+1", "তুমি ভালো", 'quote " and, comma', "line\nbreak", "<script>alert(1)</script>", "\u202eright to left"]
SPLITS = ("validation", "test")


@pytest.fixture
def comments(tmp_path):
    rng = np.random.default_rng(0)
    splits = {
        name: Split([f"{text} {name}" if i else text for i, text in enumerate(TEXTS)], labels)
        for name, labels in zip(("train", *SPLITS), (rng.random((3, 6, 2)) < 0.5).astype(np.int8), strict=True)
    }
    Data(LABELS, **splits, fingerprint=fingerprint(LABELS, splits.values()), report={}).save(tmp_path / "data")
    return load_data(tmp_path / "data")


@pytest.fixture
def flips(comments, tmp_path):
    """Of two models: one that always says yes, one that is the teacher."""
    tables = []
    for split in SPLITS:
        labels = getattr(comments, split).labels
        rows = label_flips(labels, 1 - labels, np.ones_like(labels), LABELS)
        tables.append(rows.assign(model_key="yes" * 20, split=split))
    return Flips(
        rows=pd.concat(tables, ignore_index=True),
        model_keys=("yes" * 20, "teacher"),
        supports={
            split: dict(zip(LABELS, getattr(comments, split).labels.sum(axis=0).tolist(), strict=True))
            for split in SPLITS
        },
        data_folder=str(tmp_path / "data"),
        data_fingerprint=comments.fingerprint,
    )


@pytest.fixture
def front():
    rows = [("yes" * 20, "after_kd", "logit"), ("teacher", "baseline", None), ("new", "after_kd", "logit")]
    return pd.DataFrame(rows, columns=["model_key", "stage", "distil.method"])


def read_csv(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_what_is_saved_is_read(flips, tmp_path):
    path = tmp_path / "flips.parquet"
    flips.save(path)
    again = Flips.read(path)
    pd.testing.assert_frame_equal(again.rows, flips.rows[list(again.rows.columns)])
    for field in ("model_keys", "supports", "data_folder", "data_fingerprint"):
        assert getattr(again, field) == getattr(flips, field)
    assert list(again.rows.columns) == ["model_key", "split", "comment", "label", "truth", "teacher", "candidate"]
    assert "তুমি".encode() not in path.read_bytes(), "no text of a comment"
    assert [file.name for file in tmp_path.glob(".*")] == []


def test_the_table_has_every_compared_model_of_the_front(flips, front, comments, tmp_path):
    flips.save(tmp_path / "flips.parquet")
    [path] = write_flips(tmp_path, front)
    lines = read_csv(path)
    expected = [(key, split) for key in ("yes" * 20, "teacher") for split in SPLITS for _ in LABELS]
    assert [(line["model_key"], line["split"]) for line in lines] == expected, "`new` was not compared"
    assert lines[0]["model"] == "logit" and lines[-1]["model"] == "teacher"
    # The label that starts a formula is text.
    assert [line["label"] for line in lines[:2]] == ["threat", "'" + LABELS[1]]
    for line, (split, j) in zip(lines, [(split, j) for split in SPLITS for j in (0, 1)], strict=False):
        labels = getattr(comments, split).labels[:, j]
        # Whose teacher is always wrong finds every positive anew, and every false alarm is the teacher's already.
        assert (int(line["newly_found"]), int(line["support"])) == (labels.sum(), labels.sum())
        assert {line[name] for name in ("newly_missed", "newly_false", "newly_cleared")} == {"0"}
    assert {line["newly_found"] for line in lines[4:]} == {"0"}


def test_no_model_and_no_flip_give_a_table_without_lines(flips, front):
    empty = dataclasses.replace(flips, rows=flips.rows[:0], model_keys=("teacher",))
    table = flip_table(empty, front)
    assert len(table) == 4 and table["newly_missed"].tolist() == [0] * 4
    assert len(flip_table(flips, front[:0])) == 0
    assert list(flip_table(flips, front[:0])) == list(table)
    assert list(count_flips(flips.rows[:0], {})) == list(table)[:6]


def test_without_flips_an_old_table_goes(front, tmp_path):
    (tmp_path / "flips.csv").write_text("old")
    assert write_flips(tmp_path, front) == []
    assert not (tmp_path / "flips.csv").exists()


def test_texts_are_those_of_the_comments(flips, comments, tmp_path):
    flips.save(tmp_path / "flips.parquet")
    lines = read_csv(write_flips_with_texts(tmp_path))
    assert len(lines) == len(flips.rows) and {line["kind"] for line in lines} == {"newly_found"}
    for line in lines:
        text = getattr(comments, line["split"]).texts[int(line["comment"])]
        assert line["text"] == ("'" + text if text.startswith("=") else text)
    assert any(line["text"] == "'=1+1" for line in lines) and any("\n" in line["text"] for line in lines)


def test_texts_come_from_an_object_store_too(flips, comments, tmp_path, monkeypatch):
    """A real S3 server; the results lie on a machine that has no copy of the data."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "of-this-test")
    S3FileSystem(endpoint_override=f"http://{host}:{port}", allow_bucket_creation=True).create_dir("comments")
    for machine in ("driver", "elsewhere"):
        monkeypatch.setenv("PARETO_CACHE", str(tmp_path / machine))
        if machine == "driver":
            comments.add_to(open_store("s3://comments/store"))
    dataclasses.replace(flips, data_folder="s3://comments/store").save(tmp_path / "flips.parquet")
    shutil.rmtree(tmp_path / "data")
    lines = read_csv(write_flips_with_texts(tmp_path))
    assert len(lines) == len(flips.rows) and any("\n" in line["text"] for line in lines)
    dataclasses.replace(flips, data_folder="s3://comments/another").save(tmp_path / "flips.parquet")
    with pytest.raises(FileNotFoundError, match="its comments are not in data_folder=s3://comments/another"):
        write_flips_with_texts(tmp_path)
    server.stop()


def test_texts_that_are_gone_or_others_are_refused(flips, tmp_path):
    with pytest.raises(FileNotFoundError, match="let the study run to its end"):
        write_flips_with_texts(tmp_path)
    path, data = tmp_path / "flips.parquet", tmp_path / "data"
    dataclasses.replace(flips, data_fingerprint="0" * 64).save(path)
    with pytest.raises(ValueError, match="data_fingerprint=000000000000, but the comments"):
        write_flips_with_texts(tmp_path)
    flips.save(path)
    shutil.copy(data / "train_texts.npy", data / "test_texts.npy")
    with pytest.raises(ValueError, match="the comments changed since they were saved"):
        write_flips_with_texts(tmp_path)
    (data / "test_texts.npy").write_bytes(b"torn")
    with pytest.raises(ValueError, match="are damaged"):
        write_flips_with_texts(tmp_path)
    shutil.rmtree(data)
    with pytest.raises(FileNotFoundError, match="put the store back, or run the study again"):
        write_flips_with_texts(tmp_path)
    assert not (tmp_path / "flips_with_texts.csv").exists()


def test_a_bad_file_is_named(flips, front, tmp_path):
    path = tmp_path / "flips.parquet"
    pd.DataFrame({"model_key": ["a"]}).to_parquet(path)
    with pytest.raises(ValueError, match=r"flips\.parquet: not written by this version"):
        write_flips(tmp_path, front)
    path.write_bytes(b"PAR1 torn")
    with pytest.raises(ValueError, match=r"flips\.parquet: not a whole Parquet file"):
        write_flips(tmp_path, front)
    flips.save(path)
    pq.write_table(pq.read_table(path).drop_columns(["truth"]), path)
    with pytest.raises(ValueError, match=r"flips\.parquet: no column truth"):
        write_flips(tmp_path, front)
