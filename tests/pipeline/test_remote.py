"""Files in an object store: a real S3 server on loopback, behind a wire that can be cut."""

import logging
import os
import socket
import threading
import time

import pytest

from pipeline.errors import InputError
from pipeline.object_store import url_fault
from pipeline.remote import Remote, RemoteUnreachable


@pytest.fixture(params=["s3", "folder"])
def remote(request, tmp_path, s3):
    """An empty store of each kind."""
    return Remote(s3.bucket() + "/some/prefix" if request.param == "s3" else str(tmp_path / "shared"))


def test_what_is_put_is_what_comes_back(remote, tmp_path):
    """A file of several parts, an empty one, and names with signs that URLs would read otherwise."""
    content = os.urandom(25_000_000)
    (tmp_path / "big").write_bytes(content)
    (tmp_path / "empty").write_bytes(b"")
    remote.put(tmp_path / "big", "a/b/big.bin")
    remote.put(tmp_path / "empty", "a/empty")
    remote.write_bytes("a/b c%20ü#?&+.txt", b"one")
    remote.write_bytes("z", b"two")
    assert [(name, file.size) for name, file in remote.list().items()] == [
        ("a/b c%20ü#?&+.txt", 3),
        ("a/b/big.bin", len(content)),
        ("a/empty", 0),
        ("z", 3),
    ]
    assert list(remote.list("a/b/")) == ["a/b/big.bin"], "a/b is a folder, and no start of a name"
    assert remote.list("nothing") == {}
    remote.get("a/b/big.bin", tmp_path / "back" / "big")
    remote.get("a/empty", tmp_path / "back" / "empty")
    assert (tmp_path / "back" / "big").read_bytes() == content
    assert {path.name: path.stat().st_size for path in (tmp_path / "back").iterdir()} == {"big": 25_000_000, "empty": 0}
    assert remote.read_bytes("a/b c%20ü#?&+.txt") == b"one"


def test_replace_move_delete(remote, tmp_path):
    remote.write_bytes("a/x", b"1")
    remote.write_bytes("a/x", b"22")
    remote.write_bytes("a/y/z", b"3")
    assert remote.read_bytes("a/x") == b"22" and remote.exists("a/x") and not remote.exists("a/y")
    remote.move("a/x", "b/c/x")
    remote.move("a/x", "b/c/never")
    assert list(remote.list()) == ["a/y/z", "b/c/x"]
    remote.delete("b/c/x")
    remote.delete("b/c/x")
    remote.delete("nothing")
    assert list(remote.list()) == ["a/y/z"]
    remote.write_bytes("a/w", b"4")
    remote.delete("a")
    assert remote.list() == {} and not remote.exists("a/y/z")
    for lost in (lambda: remote.get("a/w", tmp_path / "w"), lambda: remote.read_bytes("a/w")):
        with pytest.raises(FileNotFoundError):
            lost()
    assert not (tmp_path / "w").exists()


def test_times_are_the_stores_and_grow(remote):
    remote.write_bytes("a", b"1")
    first = remote.list()["a"].mtime_ns
    time.sleep(1.1)
    remote.write_bytes("a", b"1")
    assert 0 < remote.list()["a"].mtime_ns - first < 60e9


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/x", "a//x", "", ".", "a/./b", "a\\..\\b"])
def test_no_name_leads_out_of_the_store(remote, name):
    for use in (remote.read_bytes, remote.delete, remote.exists, lambda one: remote.write_bytes(one, b"x")):
        with pytest.raises(ValueError, match="below the store"):
            use(name)


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("s3://key:secret@bucket/prefix", "more than bucket and prefix"),
        ("s3://key:sec/ret@bucket/prefix", "more than bucket and prefix"),
        ("s3://token@bucket", "more than bucket and prefix"),
        ("s3://bucket/p?access_key=secret", "more than bucket and prefix"),
        ("http://user:secret@host/p", "more than bucket and prefix"),
        ("gs://bucket/p", "gs:// is no store"),
        ("file:///tmp/x", "file:// is no store"),
        ("s3://", "is no name of a bucket"),
        ("s3:///p", "is no name of a bucket"),
        ("s3://UPPER/p", "is no name of a bucket"),
        ("s3://bucket/../other", "must not hold"),
        ("s3://bucket//p", "must not hold"),
    ],
)
def test_urls_that_name_no_store(url, fault):
    with pytest.raises(InputError, match=fault) as caught:
        Remote(url)
    assert "s3://BUCKET/PREFIX" in str(caught.value), "the remedy"
    assert "secret" not in str(caught.value) and "ret@" not in str(caught.value)


@pytest.mark.parametrize("url", ["s3://bucket", "s3://bucket/", "s3://my.bucket-1/a/b/", "s3://bucket/team@home/x"])
def test_urls_that_name_a_store(url):
    assert url_fault(url) is None


def test_a_store_that_falls_silent_is_waited_for(s3, wire, tmp_path, caplog):
    """Each operation begins while the wire is cut, and ends well after it is mended."""
    content = os.urandom(12_000_000)
    (tmp_path / "file").write_bytes(content)
    remote = Remote(s3.bucket() + "/p", patience_seconds=30)
    remote.write_bytes("there", b"x")
    operations = [
        lambda: remote.put(tmp_path / "file", "new"),
        lambda: remote.get("new", tmp_path / "back"),
        lambda: remote.list(),
        lambda: remote.exists("new"),
        lambda: remote.move("there", "moved"),
        lambda: remote.delete("moved"),
    ]
    answers = []
    with caplog.at_level(logging.WARNING):
        for operation in operations:
            caplog.clear()
            wire.cut()
            threading.Timer(0.6, wire.mend).start()
            started = time.monotonic()
            answers.append(operation())
            assert 0.6 <= time.monotonic() - started < 10
            ours = [record for record in caplog.records if record.name == "pipeline.remote"]
            assert [record.levelname for record in ours] == ["WARNING"] * 2
            away, back = (record.getMessage() for record in ours)
            assert "does not answer" in away and "trying for up to 0.5 minutes" in away and remote.url in away
            assert "answers again" in back
    assert (tmp_path / "back").read_bytes() == content
    assert list(answers[2]) == ["new", "there"] and answers[3] is True
    assert list(remote.list()) == ["new"]


def test_a_wire_cut_in_mid_transfer(s3, wire, tmp_path):
    content = os.urandom(16_000_000)
    (tmp_path / "file").write_bytes(content)
    remote = Remote(s3.bucket() + "/p", patience_seconds=30, silent_seconds=1)
    for transfer in (lambda: remote.put(tmp_path / "file", "new"), lambda: remote.get("new", tmp_path / "back")):
        for delay in (0.02, 0.06, 0.15):
            threading.Timer(delay, wire.cut).start()
            threading.Timer(delay + 0.3, wire.mend).start()
            transfer()
            time.sleep(delay + 0.4)
    assert (tmp_path / "back").read_bytes() == content
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".part")] == []


def test_a_store_that_stays_away(s3, wire, tmp_path):
    remote = Remote(s3.bucket(), patience_seconds=1)
    wire.cut()
    started = time.monotonic()
    with pytest.raises(RemoteUnreachable, match=r"did not answer for 1 s .*; start again when it does"):
        remote.get("x", tmp_path / "x")
    assert time.monotonic() - started < 5
    assert not list(tmp_path.iterdir())


def test_a_store_that_accepts_and_says_nothing(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as mute:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{mute.getsockname()[1]}")
        started = time.monotonic()
        with pytest.raises(RemoteUnreachable):
            Remote("s3://bucket", patience_seconds=0, silent_seconds=1).exists("x")
        assert time.monotonic() - started < 5


def test_what_the_store_refuses_is_told_at_once(s3, tmp_path):
    remote = Remote("s3://no-such-bucket/p")
    writes = [remote.check, lambda: remote.write_bytes("x", b"y"), lambda: remote.put(tmp_path / "x", "y")]
    (tmp_path / "x").write_bytes(b"x")
    reads = [remote.list, lambda: remote.exists("x"), lambda: remote.read_bytes("x"), lambda: remote.delete("x")]
    for use in (*reads, *reads, *writes):
        started = time.monotonic()
        with pytest.raises(InputError, match=r"storage='s3://no-such-bucket/p': there is no such bucket; make it"):
            use()
        assert time.monotonic() - started < 5
    there = Remote(s3.bucket() + "/p")
    there.check()
    assert there.list() == {}, "the check leaves nothing"
    with s3.closed():
        with pytest.raises(InputError, match=r"access is denied; set AWS_ACCESS_KEY_ID"):
            there.check()
        with pytest.raises(InputError, match=r"access is denied"):
            there.exists("x")
