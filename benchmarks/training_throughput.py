"""How much of the machine's matrix-multiply peak training reaches, counting only useful work.

    python benchmarks/training_throughput.py --data FILE.csv --model FOLDER

Useful are the multiplications that real tokens need, forwards and backwards; padding, the optimiser, the loss and the
element-wise operations are not. The peak is that of FP32 matrix products in the same process, before and after.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from pipeline.config import DataConfig, TeacherConfig
from pipeline.data import prepare
from pipeline.models import TextClassifier, encoder_layers
from pipeline.students import chosen_layers, keep_layers
from pipeline.teacher import build
from pipeline.tokens import bucketed_batches, load_tokenizer, tokenise
from pipeline.training import Examples, Recipe, seeded, train

VALIDATION = 64
"""Comments of the validation that `train` asks for; it is not timed."""


def main() -> None:
    """Print a row for each model and batch size."""
    arguments = parsed()
    torch.set_num_threads(arguments.threads)
    comments = prepare(DataConfig(path=str(arguments.data), text_column=arguments.text, label_columns=arguments.labels))
    tokenizer = load_tokenizer(arguments.model / "tokenizer.json", 96)
    labels = comments.train.labels.astype(np.float32)
    examples = Examples(tokenise(tokenizer, comments.train.texts), labels)
    config = TeacherConfig(model=str(arguments.model))
    rows = []
    for layers in arguments.layers:
        for batch_size in arguments.batch_size:
            with seeded(0):
                model = build(config, labels.shape[1], tokenizer)
            depth = len(encoder_layers(model))
            if layers < depth:
                model = keep_layers(model, chosen_layers(depth, layers, "even"))
            rows.append(measured(model, examples, layers, batch_size, arguments.steps))
    show(rows, arguments)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")


def measured(model: TextClassifier, examples: Examples, layers: int, batch_size: int, steps: int) -> dict[str, float]:
    """Train for one epoch of `steps` batches of the real length distribution, and time all but the first steps."""
    recipe = Recipe(epochs=1, learning_rate=1e-5, batch_size=batch_size, seed=0)
    rows = np.random.default_rng(1).permutation(len(examples.tokens))[: steps * batch_size]
    part = examples.select(rows)
    ended: list[float] = []
    peak = matrix_peak()
    train(
        model, part, examples.select(np.arange(VALIDATION)), recipe, after_step=lambda *_: ended.append(perf_counter())
    )
    peak = max(peak, matrix_peak())

    # The loop's own batches again, from its own seed: what was in the steps that were timed.
    batches = bucketed_batches(part.tokens.lengths, batch_size, np.random.default_rng(recipe.seed))
    warm = len(batches) // 5
    timed, seconds = batches[warm:], ended[-1] - ended[warm - 1]
    lengths = np.concatenate([part.tokens.lengths[batch] for batch in timed])
    padded = sum(len(batch) * int(part.tokens.lengths[batch].max()) for batch in timed)
    useful = useful_operations(model, lengths) / seconds
    return {
        "layers": layers,
        "batch_size": batch_size,
        "tokens_per_second": float(lengths.sum() / seconds),
        "padding_share": float(1 - lengths.sum() / padded),
        "gflops": useful / 1e9,
        "peak_gflops": peak / 1e9,
        "share_of_peak": useful / peak,
    }


def useful_operations(model: TextClassifier, lengths: np.ndarray[tuple[int], np.dtype[np.int64]]) -> float:
    """Floating-point operations of the layers' matrix products, forwards and twice as many backwards.

    For each token two for each weight; for each pair of tokens of a comment four for each column, layer by layer.
    """
    layers = encoder_layers(model)
    weights = sum(module.weight.numel() for module in layers.modules() if isinstance(module, nn.Linear))
    pairs = 4 * len(layers) * model.config.hidden_size * float((lengths**2).sum())
    return 3.0 * (2.0 * weights * float(lengths.sum()) + pairs)


def matrix_peak(size: int = 2048, repeats: int = 10) -> float:
    """Operations per second of the best of several FP32 products of square matrices."""
    left, right = torch.randn(size, size), torch.randn(size, size)
    best = np.inf
    for _ in range(repeats):
        started = perf_counter()
        left @ right
        best = min(best, perf_counter() - started)
    return 2.0 * size**3 / best


def show(rows: list[dict[str, float]], arguments: argparse.Namespace) -> None:
    """The rows as a table."""
    table = Table("layers", "batch size", "tokens/s", "padding", "useful GFLOP/s", "peak GFLOP/s", "share of peak")
    for row in rows:
        table.add_row(
            str(row["layers"]),
            str(row["batch_size"]),
            f"{row['tokens_per_second']:.0f}",
            f"{row['padding_share']:.1%}",
            f"{row['gflops']:.0f}",
            f"{row['peak_gflops']:.0f}",
            f"{row['share_of_peak']:.1%}",
        )
    console = Console()
    console.print(f"{arguments.model.name} on {arguments.data.name}, FP32, {arguments.threads} threads")
    console.print(table)


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="CSV or Parquet file of comments")
    parser.add_argument("--text", default="comment", help="column with the comments")
    parser.add_argument("--labels", nargs="+", default=["bully", "sexual", "religious", "threat", "spam"])
    parser.add_argument("--model", type=Path, required=True, help="Hugging Face folder of the teacher")
    parser.add_argument("--layers", type=int, nargs="+", default=[12, 4])
    parser.add_argument("--batch-size", type=int, nargs="+", default=[32, 48, 64])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=30, help="batches of each epoch that is timed")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    return parser.parse_args()


if __name__ == "__main__":
    main()
