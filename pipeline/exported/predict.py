"""Answer comments with the model of this folder: a line of JSON for each, with its labels and every probability.

python predict.py comments.txt      one comment a line, in UTF-8; without a file, from standard input
python predict.py comments.jsonl    a JSON string, or an object with "text", a line

A line that is neither is answered with an error in its place, and the exit status is then 3. A file that cannot be
read, or is a table, is refused with status 2.
"""

import argparse
import io
import json
import os
import shlex
import sys
from collections.abc import Iterator
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

FOLDER = Path(__file__).resolve().parent
MODELS = {
    "ngram": ("ngram_bag", "NgramClassifier"),
    "onnxruntime": ("onnx_encoder", "OnnxEncoder"),
    "scikit-learn": ("tfidf_floor", "TfidfFloor"),
}
"""Source and class that run a model; one of the sources stands beside this file."""
TABLES = (".csv", ".tsv", ".parquet")
JSON_LINES = (".jsonl", ".ndjson")


def main() -> int:
    """Read, answer in batches as they come, write; the exit status: 2 for a refused file, 3 for a bad line, else 0.

    130 where it was interrupted.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, nargs="?", metavar="FILE", help="the comments")
    file = parser.parse_args().file
    try:
        source = opened(file) if file else sys.stdin.buffer
    except ValueError as refusal:
        print(f"error: {file}: {refusal}", file=sys.stderr)
        return 2
    deploy, decisions = (json.loads((FOLDER / f"{name}.json").read_text("utf-8")) for name in ("deploy", "decisions"))
    model = load_model(deploy["runtime"])
    # Where a comment's answer depends on the others of its batch, it is answered alone, as it was measured.
    size = 32 if deploy["batch_invariant"] else 1
    comments = enumerate(read(source, in_json=bool(file) and file.suffix.lower() in JSON_LINES), 1)
    sys.stdout = io.TextIOWrapper(sys.stdout.buffer, "utf-8", newline="\n")
    status = 0
    try:
        while batch := list(islice(comments, size)):
            texts = [text for _, (text, error) in batch if not error]
            logits = iter(model.predict_logits(texts, size).astype(np.float64) if texts else ())
            for line, (_, error) in batch:
                status = 3 if error else status
                said = {"error": error} if error else answer(next(logits), decisions)
                print(json.dumps({"line": line, **said}, ensure_ascii=False))
            sys.stdout.flush()
    except BrokenPipeError:  # whoever reads the answers, such as `head`, has enough of them
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130
    return status


def answer(logits: NDArray[np.float64], decisions: dict[str, Any]) -> dict[str, Any]:
    """Labels and probabilities of one comment."""
    given = (0.5 * (1.0 + np.tanh(0.5 * logits))).tolist()
    cut = zip(decisions["labels"], given, decisions["thresholds"], strict=True)
    labels = [label for label, probability, threshold in cut if probability >= threshold]
    probabilities = {label: round(one, 6) for label, one in zip(decisions["labels"], given, strict=True)}
    return {"labels": labels, "probabilities": probabilities}


def load_model(runtime: str) -> Any:
    """The model, by what runs it."""
    sys.path.insert(0, str(FOLDER))  # isolated mode, `python -I`, leaves it out
    module, name = MODELS[runtime]
    return getattr(import_module(module), name)(FOLDER)


def opened(file: Path) -> BinaryIO:
    """The bytes of the file; ValueError says why there are none, or none that can be answered, and the remedy."""
    if file.suffix.lower() in TABLES:
        remedy = "give one comment a line, or JSON lines with the text (.jsonl)"
        if file.suffix.lower() != ".parquet":
            command = shlex.join(["python", "-m", "pipeline.predict", str(FOLDER), str(file), "--text-column"])
            remedy += f", or run, where the project is installed, {command} NAME"
        raise ValueError(f"is a table, not one comment a line; {remedy}")
    try:
        return file.open("rb")
    except OSError as error:
        remedy = "name a file of comments, or none for standard input"
        raise ValueError(f"cannot be read ({error.strerror}); {remedy}") from error


def read(source: BinaryIO, in_json: bool) -> Iterator[tuple[str, str]]:
    """The comments, one after the other, each with its error, or ""; bytes that are not UTF-8 become U+FFFD."""
    parse = text_in_json if in_json else str
    for line in io.TextIOWrapper(source, "utf-8-sig", "replace", newline="\n"):
        try:
            comment = parse(line.removesuffix("\n").removesuffix("\r")), ""
        except ValueError as error:
            comment = "", str(error)
        yield comment


def text_in_json(line: str) -> str:
    """The text in a line of JSON, with U+FFFD for half an emoji that was cut off; ValueError says why there is none."""
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at character {error.pos + 1}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON that can be read: {str(error).partition(';')[0]}") from error
    if isinstance(value, dict):
        if "text" not in value:
            raise ValueError('no field "text"')
        value = value["text"]
        if not isinstance(value, str):
            raise ValueError('field "text" is no string')
    if not isinstance(value, str):
        raise ValueError("neither a JSON string nor an object")
    return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


if __name__ == "__main__":
    sys.exit(main())
