"""Lines: the same as `bytes.split` gives, whatever the blocks; bounded; a pause where a pipe is silent."""

import os
import threading
import time
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import line_stream
from pipeline.line_stream import LONGEST_LINE, LineSplitter, Mark, read_lines


def expected(data):
    lines = data.split(b"\n")
    return lines if lines[-1] else lines[:-1]


def split(blocks):
    splitter = LineSplitter()
    lines = [line for block in blocks for line in splitter.feed(block)]
    return lines + splitter.end()


@given(st.lists(st.binary(min_size=1) | st.sampled_from([b"\n", b"\r\n", b"a\nb\n", b"\xe2\x80\xa8", b"\x85\x0b\x0c"])))
def test_lines_are_those_of_split_whatever_the_blocks(blocks):
    assert split(blocks) == expected(b"".join(blocks))


@given(st.binary(max_size=60), st.integers(1, 7))
def test_a_file_is_read_in_blocks(tmp_path_factory, data, block):
    file = tmp_path_factory.mktemp("lines") / "file"
    file.write_bytes(data)
    with pytest.MonkeyPatch.context() as patched, file.open("rb", buffering=0) as raw:
        patched.setattr(line_stream, "BLOCK", block)
        assert [line for line in read_lines(raw) if line is not Mark.PAUSE] == expected(data)


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
@pytest.mark.parametrize("size", [5000, 2**16])
def test_a_line_may_be_a_mebibyte_long_and_no_longer(end, size):
    for length, fits in ((LONGEST_LINE, True), (LONGEST_LINE + 1, False), (3 * LONGEST_LINE, False)):
        data = b"x" * length + end
        tail = [b"next"] if end else []
        found = split([data[start : start + size] for start in range(0, len(data), size)] + tail)
        assert found == [data.removesuffix(b"\n") if fits else Mark.TOO_LONG, *tail]


@given(st.lists(st.sampled_from([b'"', b'a"', b"a"]), max_size=9), st.integers(2**14, 2**20))
def test_of_a_line_that_is_too_long_it_is_known_whether_its_quotation_marks_pair(parts, size):
    data = (b"x" * (LONGEST_LINE // 4)).join([b"", *parts, b"", b"", b"", b"", b""]) + b"x\n"
    blocks = [data[start : start + size] for start in range(0, len(data), size)]
    assert split(blocks) == [Mark.TOO_LONG_ODD if data.count(b'"') % 2 else Mark.TOO_LONG]


def test_an_endless_line_is_not_held():
    splitter, block = LineSplitter(), b"x" * 2**16
    tracemalloc.start()
    for _ in range(1000):  # 64 MB
        assert splitter.feed(block) == []
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 4 * LONGEST_LINE
    assert splitter.feed(b"\nshort\n") == [Mark.TOO_LONG, b"short"]


def test_a_silent_pipe_gives_a_pause_and_a_full_one_none():
    reading, writing = os.pipe()
    seen = []

    def write():
        for lines in (b"a\nb\nbeg", b"un\n", b""):
            os.write(writing, lines)
            time.sleep(0.3)
        os.close(writing)

    feeder = threading.Thread(target=write)
    feeder.start()
    with open(reading, "rb", buffering=0) as raw:
        seen += read_lines(raw)
    feeder.join()
    assert seen == [b"a", b"b", Mark.PAUSE, b"begun", Mark.PAUSE]


def test_lines_that_drip_do_not_wait_for_the_last_one():
    """Each comes before the patience with the one before ends; still none waits much longer than that."""
    reading, writing = os.pipe()

    def write():
        for _ in range(60):
            os.write(writing, b"x\n")
            time.sleep(0.005)
        os.close(writing)

    feeder = threading.Thread(target=write)
    feeder.start()
    with open(reading, "rb", buffering=0) as raw:
        seen = list(read_lines(raw))
    feeder.join()
    assert seen.count(b"x") == 60 and seen.count(Mark.PAUSE) >= 4
