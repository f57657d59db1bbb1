"""Comments: one for each line whatever its bytes, JSON as the json module reads it, rows as the csv module does."""

import csv
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import comment_stream
from pipeline.comment_stream import Comment, in_chunks, read_comments, to_json
from pipeline.errors import InputError
from pipeline.line_stream import LONGEST_LINE, LineSplitter, Mark


def read(data, kind="lines", field="text"):
    splitter = LineSplitter()
    return list(read_comments([*splitter.feed(data), *splitter.end()], kind, field))


def readable(line):
    try:
        return "\0" not in line.decode()
    except UnicodeDecodeError:
        return False


@given(st.binary() | st.text().map(str.encode))
def test_any_bytes_give_a_comment_for_each_line(data):
    lines = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    lines = lines if lines[-1] or data.count(b"\n") == 0 and data else lines[:-1]
    found = read(data)
    assert [one.line for one in found] == list(range(1, len(lines) + 1))
    for comment, line in zip(found, lines, strict=True):
        assert bool(comment.error) != readable(line)
        if not comment.error:
            assert comment.text == line.decode().removesuffix("\r")
    assert len(read(data, "jsonl")) == len(lines)


@pytest.mark.parametrize(
    ("line", "named"),
    [
        (b"ok \xff", "not UTF-8: byte 0xff at offset 3"),
        (b"a\0b", "NUL"),
        (b"x" * (LONGEST_LINE + 1), "longer than 1,048,576 bytes"),
        ("x".encode("utf-16"), "NUL"),
    ],
)
@pytest.mark.parametrize("kind", ["lines", "jsonl"])
def test_a_line_that_cannot_be_read_is_named_and_the_rest_goes_on(line, named, kind):
    first, broken, last = read(b'"a"\n' + line + b'\n"b"', kind)
    assert named in broken.error and broken.line == 2
    assert not first.error and not last.error and last.line == 3


def test_separators_of_unicode_and_marks_end_no_line():
    text = "a\u2028b\u0085c\x0bd\re"
    assert read(b"\xef\xbb\xbf" + text.encode() + b"\r\n\n") == [Comment(1, text), Comment(2, "")]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(JSON, st.text(), st.booleans())
def test_json_lines_are_what_the_json_module_reads(own, text, escaped):
    lines = [{"text": text, "id": own}, text, own, {"id": own}, {"text": own}]
    data = "".join(json.dumps(line, ensure_ascii=escaped) + "\n" for line in lines).encode()
    whole, alone, other, without, value = read(data, "jsonl")
    assert (whole.text, json.loads(whole.id)) == (text, own) and alone.text == text
    assert bool(other.error) == (not isinstance(own, str) and not (isinstance(own, dict) and "text" in own))
    assert without.error == 'no field "text"'
    assert (value.text, value.error) == ((own, "") if isinstance(own, str) else ("", 'field "text" is no string'))


@pytest.mark.parametrize(
    "line",
    ["{", "", "nul", "[" * 100_000, "1" * 5000, '{"text": "a", "id": 1e999}', '{"text": "a", "id": NaN}', "[1]", "{}"],
)
def test_what_is_no_comment_in_json_is_said(line):
    (found,) = read(line.encode() + b"\n", "jsonl")
    assert found.error and len(found.error) < 200 and not found.text


def test_half_a_character_does_not_keep_a_comment_from_an_answer():
    cut, whole = read(rb'"a \ud83d"' + b"\n" + rb'{"text": "\ud83d\ude00", "id": "\udc00"}', "jsonl")
    assert cut.text == "a \ufffd" and whole.text == "\U0001f600"
    assert json.loads(whole.id) == "\udc00" and whole.id.isascii()


@given(st.text())
def test_json_can_be_written_as_utf_8(text):
    assert json.loads(to_json(text).encode()) == text


CELL = st.text(st.characters(codec="utf-8", exclude_characters="\0"))


@given(st.lists(st.tuples(CELL, CELL, CELL), max_size=8), st.sampled_from(["\n", "\r\n"]))
def test_rows_are_those_that_the_csv_module_wrote(rows, end):
    file = io.StringIO(newline="")
    csv.writer(file, lineterminator=end, quoting=csv.QUOTE_ALL).writerows([("id", "other", "text"), *rows])
    found = read(file.getvalue().encode(), "csv")
    assert [(json.loads(one.id), one.text) for one in found] == [(row[0], row[2]) for row in rows]
    places = [1 + sum(cell.count("\n") for row in rows[:i] for cell in row) + i for i in range(len(rows))]
    assert [one.line for one in found] == [place + 1 for place in places]


def test_a_broken_row_is_named_and_the_rest_goes_on():
    data = b'text,x\na,1\nshort\n"b"b,2\nc\xff,3\n\n"d\ne",4\n' + b"f" * (LONGEST_LINE + 1) + b"\ng,5\n"
    found = read(data, "csv")
    assert [(one.line, one.text) for one in found if not one.error] == [(2, "a"), (7, "d\ne"), (10, "g")]
    broken = {one.line: one.error for one in found if one.error}
    assert set(broken) == {3, 4, 5, 9}
    assert "2 columns" in broken[3] and "UTF-8" in broken[5] and "longer" in broken[9]


@pytest.mark.parametrize("bad", [b"\xff", b"\0", b"\xc3"])
def test_a_row_with_a_line_that_cannot_be_read_is_left_out_whole(bad):
    data = b'text,id\n"bad ' + bad + b'\n",2\nok,3\n"a\n' + bad + b'""\nb, c",4\n"x",5\n"' + bad + b'",6\nlast,7'
    found = read(data, "csv")
    assert [(one.text, one.id) for one in found if not one.error] == [("ok", '"3"'), ("x", '"5"'), ("last", '"7"')]
    assert [one.line for one in found if one.error] == [2, 5, 9]
    assert found[2].error.startswith("line 6: ") and not found[0].error.startswith("line")


@pytest.mark.parametrize("text", [b"x" * 2**21 + b'\n""y""', b'a\n""' + b"x" * 2**21, (b"x" * 99 + b'""\n') * 15_000])
def test_a_row_that_is_too_long_is_left_out_whole(text):
    found = read(b'text,id\n"' + text + b'",2\nok,3\n"a\nb",4\n"' + text + b'",5\nlast,6', "csv")
    assert [(one.text, one.id) for one in found if not one.error] == [("ok", '"3"'), ("a\nb", '"4"'), ("last", '"6"')]
    assert [one.error.partition(";")[0] for one in found if one.error] == ["row longer than 1,048,576 bytes"] * 2


@given(st.lists(st.tuples(st.text('a,\n"', max_size=9), st.text('b\n\r"', max_size=9)), max_size=8), st.data())
def test_bad_bytes_cost_their_own_rows_alone(rows, data):
    broken = data.draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows)))
    file = io.StringIO(newline="")
    writer = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerow(["text", "id"])
    for (text, own), bad in zip(rows, broken, strict=True):
        place = data.draw(st.integers(0, len(text)))
        writer.writerow([f"{text[:place]}\x1a{text[place:]}" if bad else text, own])
    found = read(file.getvalue().encode().replace(b"\x1a", b"\xff"), "csv")
    assert [bool(one.error) for one in found] == broken
    whole = [row for row, bad in zip(rows, broken, strict=True) if not bad]
    assert [(one.text, json.loads(one.id)) for one in found if not one.error] == whole


def test_a_quotation_mark_that_is_never_closed_does_not_eat_the_input():
    data = b'text,x\n"a,1\n' + b"some more text,2\n" * 200_000
    found = read(data, "csv")
    assert "never closed" in found[0].error and found[0].line == 2
    assert found[-1].text == "some more text" and found[-1].line == 200_002


def test_columns_are_separated_by_tabs_too_and_may_have_any_name():
    assert read(b"\xef\xbb\xbfcomment\tid\na,b\t7\n", "tsv", "comment") == [Comment(2, "a,b", id='"7"')]


@pytest.mark.parametrize(
    ("data", "named"),
    [(b"", "header"), (b"txt,x\na,1", "did you mean 'txt'"), (b"text,text\n", "more"), (b"\xff\n", "UTF-8")],
)
def test_a_header_that_does_not_serve_is_refused(data, named):
    with pytest.raises(InputError, match=named):
        read(data, "csv")


def test_a_pause_inside_a_row_is_not_one():
    lines = [b"text", Mark.PAUSE, b'"a', Mark.PAUSE, b'b"', Mark.PAUSE, b"c"]
    assert list(read_comments(lines, "csv", "text")) == [
        Mark.PAUSE,
        Comment(2, "a\nb"),
        Mark.PAUSE,
        Comment(4, "c"),
    ]


@given(st.lists(st.integers(0, 9).map(lambda size: "x" * size) | st.just(Mark.PAUSE)))
def test_chunks_hold_every_comment_once_in_order_within_their_bounds(stream):
    comments = [one if one is Mark.PAUSE else Comment(i, one) for i, one in enumerate(stream)]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(comment_stream, "CHUNK", 4)
        patched.setattr(comment_stream, "CHUNK_CHARACTERS", 12)
        chunks = list(in_chunks(comments))
    assert [one for chunk in chunks for one in chunk] == [one for one in comments if one is not Mark.PAUSE]
    assert all(0 < len(chunk) <= 4 and sum(len(one.text) for one in chunk[:-1]) < 12 for chunk in chunks)
    ends = {chunk[-1].line for chunk in chunks}
    before = [comments[i - 1] for i in range(1, len(comments)) if comments[i] is Mark.PAUSE]
    assert all(one is Mark.PAUSE or one.line in ends for one in before), "a pause ends the chunk"
