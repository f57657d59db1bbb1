"""Answer comments with the model of this folder: a line of JSON for each, with its labels and every probability.

python predict.py comments.txt      one comment a line, in UTF-8; without a file, from standard input
python predict.py comments.jsonl    a JSON string, or an object with "text", a line
"""

import io
import json
import sys
from collections.abc import Iterator
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).resolve().parent
MODELS = {
    "ngram": ("ngram_bag", "NgramClassifier"),
    "onnxruntime": ("onnx_encoder", "OnnxEncoder"),
    "scikit-learn": ("tfidf_floor", "TfidfFloor"),
}
"""Source and class that run a model; one of the sources stands beside this file."""


def main() -> None:
    """Read, answer in batches as they come, write."""
    deploy, decisions = (json.loads((FOLDER / f"{name}.json").read_text("utf-8")) for name in ("deploy", "decisions"))
    model = load_model(deploy["runtime"])
    # Where a comment's answer depends on the others of its batch, it is answered alone, as it was measured.
    batch = 32 if deploy["batch_invariant"] else 1
    comments = read(sys.argv[1] if len(sys.argv) > 1 else None)
    sys.stdout = io.TextIOWrapper(sys.stdout.buffer, "utf-8", newline="\n")
    line = 0
    while texts := list(islice(comments, batch)):
        for logits in model.predict_logits(texts, batch).astype(np.float64):
            line += 1
            answer = (0.5 * (1.0 + np.tanh(0.5 * logits))).tolist()
            cut = zip(decisions["labels"], answer, decisions["thresholds"], strict=True)
            labels = [label for label, probability, threshold in cut if probability >= threshold]
            probabilities = {label: round(one, 6) for label, one in zip(decisions["labels"], answer, strict=True)}
            print(json.dumps({"line": line, "labels": labels, "probabilities": probabilities}, ensure_ascii=False))


def load_model(runtime: str) -> Any:
    """The model, by what runs it."""
    sys.path.insert(0, str(FOLDER))  # isolated mode, `python -I`, leaves it out
    module, name = MODELS[runtime]
    return getattr(import_module(module), name)(FOLDER)


def read(file: str | None) -> Iterator[str]:
    """The comments, one after the other; bytes that are not UTF-8 become replacement characters."""
    source = open(file, "rb") if file else sys.stdin.buffer  # noqa: SIM115
    as_json = bool(file) and str(file).endswith(".jsonl")
    for number, line in enumerate(io.TextIOWrapper(source, "utf-8-sig", "replace", newline="\n"), 1):
        if not as_json:
            yield line.rstrip("\r\n")
            continue
        value = json.loads(line)
        text = value.get("text") if isinstance(value, dict) else value
        if not isinstance(text, str):
            raise SystemExit(f'{file}: line {number} is no string and no object with "text"')
        yield text


if __name__ == "__main__":
    main()
