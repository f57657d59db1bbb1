"""One way to run any model: text in, logits out, whether ONNX Runtime, NumPy, scikit-learn or eager PyTorch answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from pipeline.tokens import load_tokenizer, sorted_batches, tokenise

Run = Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.float32]]
DEPLOY, ONNX_WEIGHTS, TOKENIZER = "deploy.json", "model.onnx", "tokenizer.json"
PADDED_AT_ONCE = 64
"""Batches padded before they are run: padding and model in turn would push each other's code out of the caches."""


@dataclass(frozen=True)
class Deployment:
    """What is needed beside the weights to answer a request; stored as `deploy.json`."""

    runtime: Literal["onnxruntime", "scikit-learn", "ngram"]
    labels: tuple[str, ...]
    weight_files: tuple[str, ...]
    """The files that make up `model_size_mb`; an encoder's tokenizer is none of them."""
    max_tokens: int = 0
    pad_id: int = 0
    batch_invariant: bool = True
    """Whether a comment's logits are the same in any batch: dynamic quantization scales by the batch."""

    def save(self, folder: Path) -> None:
        """Write `deploy.json`."""
        (folder / DEPLOY).write_text(json.dumps(asdict(self), ensure_ascii=False, indent=1), encoding="utf-8")


def load_deployment(folder: Path) -> Deployment:
    """Read `deploy.json`."""
    facts: dict[str, Any] = json.loads((folder / DEPLOY).read_text(encoding="utf-8"))
    facts |= {name: tuple(facts[name]) for name in ("labels", "weight_files")}
    return Deployment(**facts)


class Classifier(Protocol):
    """Anything that answers comments."""

    def predict_logits(self, texts: Sequence[str], batch_size: int = 32) -> NDArray[np.float32]:
        """Logits [comments, labels] in the comments' order; probabilities are their sigmoid."""


def sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Sigmoid of the logits, label by label, without overflow."""
    return 0.5 * (1.0 + np.tanh(0.5 * logits.astype(np.float64)))


class OnnxClassifier:
    """A tokenizer and an ONNX Runtime session."""

    def __init__(self, folder: Path, threads: int = 1) -> None:
        import onnxruntime

        self.deployment = load_deployment(folder)
        self.tokenizer = load_tokenizer(folder / TOKENIZER, self.deployment.max_tokens)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.x64quantprecision", "1")  # else int8 overflows on CPUs without VNNI
        self.session = onnxruntime.InferenceSession(
            str(folder / ONNX_WEIGHTS), options, providers=["CPUExecutionProvider"]
        )

    def predict_logits(self, texts: Sequence[str], batch_size: int = 32) -> NDArray[np.float32]:
        """Logits [comments, labels] in the comments' order."""
        return answer_in_batches(self.tokenizer, texts, batch_size, self.deployment.pad_id, self._run)

    def _run(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> NDArray[np.float32]:
        feed = {"input_ids": input_ids, "attention_mask": attention_mask}
        logits: NDArray[np.float32] = self.session.run(None, feed)[0]
        return logits


class EagerClassifier:
    """The same model as plain PyTorch runs it."""

    def __init__(self, folder: Path) -> None:
        from pipeline.models import load_model

        self.deployment = load_deployment(folder)
        self.tokenizer = load_tokenizer(folder / TOKENIZER, self.deployment.max_tokens)
        self.model = load_model(folder).eval()

    def predict_logits(self, texts: Sequence[str], batch_size: int = 32) -> NDArray[np.float32]:
        """Logits [comments, labels] in the comments' order."""
        return answer_in_batches(self.tokenizer, texts, batch_size, self.deployment.pad_id, self._run)

    def _run(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> NDArray[np.float32]:
        import torch

        with torch.inference_mode():
            logits = self.model(torch.from_numpy(input_ids), torch.from_numpy(attention_mask))
        answer: NDArray[np.float32] = logits.numpy()
        return answer


def load_classifier(folder: Path, threads: int = 1) -> Classifier:
    """The deployable model in a folder."""
    runtime = load_deployment(folder).runtime
    if runtime == "onnxruntime":
        return OnnxClassifier(folder, threads)
    if runtime == "ngram":
        from pipeline.ngram import NgramClassifier

        return NgramClassifier(folder)
    from pipeline.classical import ClassicalClassifier

    return ClassicalClassifier(folder)


def answer_in_batches(
    tokenizer: Tokenizer, texts: Sequence[str], batch_size: int, pad_id: int, run: Run
) -> NDArray[np.float32]:
    """Tokenise, sort by length, pad each batch to its longest, run, and put the answers back in order."""
    if len(texts) == 1:
        ids = np.array([tokenizer.encode(texts[0]).ids], dtype=np.int64)
        return run(ids, np.ones_like(ids))
    tokens = tokenise(tokenizer, texts)
    batches = list(sorted_batches(tokens.lengths, batch_size))
    found: list[NDArray[np.float32]] = []
    for start in range(0, len(batches), PADDED_AT_ONCE):
        padded = [tokens.pad(rows, pad_id) for rows in batches[start : start + PADDED_AT_ONCE]]
        found += [run(*batch) for batch in padded]
    answers = np.concatenate(found)
    logits = np.empty_like(answers)
    logits[np.concatenate(batches)] = answers
    return logits
