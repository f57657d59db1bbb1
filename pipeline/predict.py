"""Comments in, labels and probabilities out: `python -m pipeline.predict FOLDER [FILE]`.

Streams: some thousand comments are held at a time, and answered at once when no more come.
"""

from __future__ import annotations

import argparse
import difflib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from io import RawIOBase
from pathlib import Path
from select import select
from stat import S_ISREG
from time import monotonic
from typing import TYPE_CHECKING

from pipeline.arguments import thread_count
from pipeline.comment_stream import SUFFIXES, Comment, Format, in_chunks, read_comments, to_json
from pipeline.errors import InputError
from pipeline.line_stream import read_lines

if TYPE_CHECKING:
    from pipeline.deployed import Deployed

DONE, BAD_INPUT, BROKEN_LINES, INTERRUPTED = 0, 2, 3, 130
NAMED = 10
"""Broken lines whose numbers are kept, to be named at the end."""
STANDARD = Path("-")


@dataclass
class Count:
    """What has been read so far."""

    lines: int = 0
    broken: int = 0
    first_broken: list[int] = field(default_factory=list)

    def add(self, chunk: Sequence[Comment]) -> None:
        """Count these too."""
        broken = [comment.line for comment in chunk if comment.error]
        self.lines += len(chunk)
        self.broken += len(broken)
        self.first_broken += broken[: NAMED - len(self.first_broken)]

    def __str__(self) -> str:
        named = ", ".join(map(str, self.first_broken)) + (", …" if self.broken > NAMED else "")
        return f"{self.broken:,} of {_lines(self.lines)} could not be read: {named}"


def _lines(count: int) -> str:
    return f"{count:,} line{'s' * (count != 1)}"


class Answers:
    """How answers are written: a line of JSON each, a probability with six decimals."""

    def __init__(self, deployed: Deployed, with_text: bool = False) -> None:
        self._deployed = deployed
        self._with_text = with_text
        self._labels = [to_json(label) for label in deployed.decisions.labels]
        pairs = ", ".join(f"{label.replace('%', '%%')}: %.6f" for label in self._labels)
        self._end = f', "probabilities": {{{pairs}}}}}\n'

    def __call__(self, chunk: Sequence[Comment]) -> bytes:
        """The lines of these comments, in their order; the model answers those that could be read."""
        import numpy as np

        probabilities = self._deployed.probabilities([comment.text for comment in chunk if not comment.error])
        finite: list[bool] = np.isfinite(probabilities).all(axis=1).tolist()  # type: ignore[assignment]
        given = self._deployed.decide(probabilities).tolist()
        answers = zip(probabilities.tolist(), given, finite, strict=True)
        return "".join([self._line(comment, answers) for comment in chunk]).encode()

    def _line(self, comment: Comment, answers: Iterator[tuple[list[float], list[int], bool]]) -> str:
        begun = f'{{"line": {comment.line}'
        if comment.error:
            return f'{begun}, "error": {to_json(comment.error)}}}\n'
        if comment.id:
            begun += f', "id": {comment.id}'
        if self._with_text:
            begun += f', "text": {to_json(comment.text)}'
        probabilities, given, finite = next(answers)
        if not finite:
            return f'{begun}, "error": "the model gave no finite number"}}\n'
        labels = ", ".join([label for label, has in zip(self._labels, given, strict=True) if has])
        return f'{begun}, "labels": [{labels}]{self._end % tuple(probabilities)}'


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status.

    0 all answered; 2 bad input; 3 some lines could not be read; 130 interrupted.
    """
    options = parser().parse_args(arguments)
    _limit_threads(options.threads)
    count = Count()
    try:
        with _opened(options.file) as raw:
            _answer(raw, options, count)
    except InputError as error:
        return _refuse(error.problems)
    except BrokenPipeError:  # whoever reads the answers has enough of them
        return DONE
    except OSError as error:
        return _refuse([f"{error.filename}: {error.strerror}" if error.filename else str(error)])
    except KeyboardInterrupt:
        print(f"interrupted after {_lines(count.lines)}", file=sys.stderr)
        return INTERRUPTED
    if count.broken:
        print(count, file=sys.stderr)
    return BROKEN_LINES if count.broken else DONE


def _refuse(problems: Sequence[str]) -> int:
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    return BAD_INPUT


def _answer(raw: RawIOBase, options: argparse.Namespace, count: Count) -> None:
    """Answer the whole input, chunk by chunk."""
    from pipeline.deployed import load_deployed

    answers = Answers(load_deployed(options.folder, options.threads), options.with_text)
    kind: Format = options.format or SUFFIXES.get(options.file.suffix.lower(), "lines")
    chunks = in_chunks(read_comments(read_lines(raw), kind, options.text_field))
    with _output(raw, options.to) as output, _progress(raw, output, options.quiet) as show:
        for chunk in chunks:
            _write(output, answers(chunk), options.to)
            count.add(chunk)
            show(count.lines)


def _limit_threads(threads: int) -> None:
    """The libraries read these when they are first imported, which is why nothing imports them before."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"):
        os.environ.setdefault(name, str(threads))
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true" if threads > 1 else "false")


@contextmanager
def _opened(file: Path) -> Iterator[RawIOBase]:
    """The input, unbuffered: a read gives what is there, and does not wait for more."""
    if file == STANDARD and sys.stdin is None:
        raise InputError(["standard input is closed; name a file"])
    if file.suffix.lower() == ".parquet":
        raise InputError([f"{file}: Parquet is no text; write its comments as CSV, or as JSON lines, first"])
    try:
        raw = open(0 if file == STANDARD else file, "rb", buffering=0, closefd=file != STANDARD)  # noqa: SIM115
    except OSError as error:
        near = difflib.get_close_matches(file.name, [one.name for one in file.absolute().parent.glob("*")], n=1)
        hint = f"did you mean {near[0]!r}?" if near and not file.exists() else "name a file, or - for standard input"
        raise InputError([f"{file}: cannot be read ({error.strerror}); {hint}"]) from error
    with raw:
        yield raw


@contextmanager
def _output(raw: RawIOBase, to: Path) -> Iterator[int]:
    """Descriptor of where the answers go; refuses to write into the input."""
    given, taken = os.fstat(raw.fileno()), None
    with suppress(OSError):
        taken = os.fstat(1) if to == STANDARD else to.stat()
    if taken and S_ISREG(given.st_mode) and os.path.samestat(given, taken):
        raise InputError([f"--to {to}: is the input itself; name another file"])
    if to == STANDARD:
        yield 1
    else:
        with to.open("wb") as file:
            yield file.fileno()


def _write(output: int, lines: bytes, to: Path) -> None:
    """Write all of it now: nothing is left in a buffer that could fail later.

    Raises:
        OSError: it cannot be written, with the name of the file; BrokenPipeError if nobody reads it any more.
    """
    rest = memoryview(lines)
    while rest:
        try:
            rest = rest[os.write(output, rest) :]
        except BlockingIOError:
            select([], [output], [])
        except OSError as error:
            name = "standard output" if to == STANDARD else str(to)
            raise OSError(error.errno, f"cannot be written ({error.strerror})", name) from error


@contextmanager
def _progress(raw: RawIOBase, output: int, quiet: bool) -> Iterator[Callable[[int], None]]:
    """Share done, rate and time left: for a file, on a terminal that the answers do not fill themselves."""
    status = os.fstat(raw.fileno())
    if quiet or not S_ISREG(status.st_mode) or not sys.stderr.isatty() or os.isatty(output):
        yield lambda lines: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), TaskProgressColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
    started = monotonic()
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("0 lines", total=status.st_size)

        def show(lines: int) -> None:
            rate = lines / max(monotonic() - started, 1e-3)
            progress.update(task, completed=raw.tell(), description=f"{lines:,} lines, {rate:,.0f}/s, time left")

        yield show


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    made = argparse.ArgumentParser(
        prog="python -m pipeline.predict",
        description="Answer comments with an exported model: a line of JSON for each, in their order, such as "
        '{"line": 1, "labels": ["threat"], "probabilities": {"threat": 0.981203}}, or {"line": 7, "error": "..."} for '
        "one that cannot be read.",
        epilog="Exit status: 0 all answered; 2 bad input; 3 some lines could not be read; 130 interrupted.",
    )
    made.add_argument("folder", type=Path, metavar="FOLDER", help="as python -m pipeline.export wrote it")
    made.add_argument(
        "file",
        type=Path,
        nargs="?",
        default=STANDARD,
        metavar="FILE",
        help="the comments; none or -: standard input",
    )
    made.add_argument(
        "--format",
        choices=("lines", "jsonl", "csv", "tsv"),
        help="one comment a line, JSON lines (strings, or objects with a text), or a table with a header "
        "(default: by the suffix of FILE, else lines)",
    )
    made.add_argument(
        "--text-field",
        "--text-column",
        default="text",
        metavar="NAME",
        help="field of the objects, or column of the table, with the text (default: text); "
        "a field or column id is copied to the answers",
    )
    made.add_argument("--to", type=Path, default=STANDARD, metavar="FILE", help="write here, not to standard output")
    made.add_argument("--with-text", action="store_true", help="repeat each comment in its answer")
    made.add_argument(
        "--threads", type=thread_count, default=1, metavar="N", help="of the model's runtime (default: 1)"
    )
    made.add_argument("--quiet", action="store_true", help="show no progress")
    return made


if __name__ == "__main__":
    sys.exit(main())
