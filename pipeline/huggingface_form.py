"""The `save_pretrained` form of an encoder, for those who go on with PyTorch: where it exists, it is checked."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from logging import ERROR
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.runtime import TOKENIZER, load_deployment

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.models import TextClassifier

HEAD_WEIGHTS, TOKENIZER_CONFIG = "head.safetensors", "tokenizer_config.json"
TOLERANCE = 1e-4


def write_huggingface(model_folder: Path, folder: Path, texts: Sequence[str]) -> str | None:
    """Write encoder, tokenizer and head so that transformers' own `AutoModel` loads the encoder.

    No `AutoModelForSequenceClassification` has our pooling and a single linear layer, so the head stands beside it
    (`head.safetensors`: `weight` [labels, width], `bias` [labels]; pooling in `classifier.json`).

    Args:
        model_folder: artifact of the model.
        folder: to write; must not exist.
        texts: comments that the written form must answer as the model does.

    Returns:
        None when it was written, else why the form does not exist.
    """
    from pipeline.models import HEAD_CONFIG, WEIGHTS, load_model

    if load_deployment(model_folder).runtime != "onnxruntime":
        return "the model is no transformer"
    if not (model_folder / WEIGHTS).is_file():
        return "a quantized model exists for ONNX Runtime alone"
    from safetensors.torch import save_file

    model = load_model(model_folder).eval()
    if not _fits_its_architecture(model):
        return "pruning left layers of different widths, which the architecture's config.json cannot say"
    with _silent():
        model.encoder.save_pretrained(folder)  # type: ignore[operator]
    labels = load_deployment(model_folder).labels
    _name_labels(folder / "config.json", labels)
    shutil.copyfile(model_folder / TOKENIZER, folder / TOKENIZER)
    shutil.copyfile(model_folder / HEAD_CONFIG, folder / HEAD_CONFIG)
    save_file({name: tensor.contiguous() for name, tensor in model.head.state_dict().items()}, folder / HEAD_WEIGHTS)
    _write_tokenizer_config(model_folder, folder)
    if not _answers_alike(folder, model, texts):
        shutil.rmtree(folder)
        return "transformers does not answer with it as the model does"
    return None


def _fits_its_architecture(model: TextClassifier) -> bool:
    """Whether the architecture, built from its config, has just the weights that the model has; notes fewer tokens."""
    import torch
    from transformers import AutoModel

    tokens = model.encoder.get_input_embeddings()  # type: ignore[operator]
    model.config.vocab_size = tokens.weight.shape[0]
    with torch.device("meta"):
        built = AutoModel.from_config(model.config)
    expected = {name: value.shape for name, value in built.state_dict().items() if not name.startswith("pooler.")}
    return expected == {name: value.shape for name, value in model.encoder.state_dict().items()}


def _name_labels(file: Path, labels: Sequence[str]) -> None:
    config = json.loads(file.read_text(encoding="utf-8"))
    config |= {
        "id2label": {str(index): label for index, label in enumerate(labels)},
        "label2id": {label: index for index, label in enumerate(labels)},
        "problem_type": "multi_label_classification",
    }
    file.write_text(json.dumps(config, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def _write_tokenizer_config(model_folder: Path, folder: Path) -> None:
    """What `AutoTokenizer` needs beside `tokenizer.json`."""
    from tokenizers import Tokenizer

    deployment = load_deployment(model_folder)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": deployment.max_tokens,
        "pad_token": Tokenizer.from_file(str(folder / TOKENIZER)).id_to_token(deployment.pad_id),
    }
    (folder / TOKENIZER_CONFIG).write_text(json.dumps(config, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def _answers_alike(folder: Path, model: TextClassifier, texts: Sequence[str]) -> bool:
    """Whether transformers, from the written folder alone, gives the model's logits."""
    import torch
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    batch = tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt")
    ids, mask = batch["input_ids"], batch["attention_mask"]
    with torch.inference_mode():
        return bool(torch.allclose(huggingface_logits(folder, ids, mask), model(ids, mask), atol=TOLERANCE))


def huggingface_logits(folder: Path, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Logits [comments, labels] of a written form, from int64 ids and mask [comments, tokens]: the card shows this."""
    from safetensors.torch import load_file
    from torch.nn.functional import linear
    from transformers import AutoModel

    from pipeline.models import HEAD_CONFIG, pool

    with _silent():  # it would tell of the pooler, which was pretrained for a task that is not ours
        encoder = AutoModel.from_pretrained(folder, trust_remote_code=False).eval()
    pooling = json.loads((folder / HEAD_CONFIG).read_text(encoding="utf-8"))["pooling"]
    head = load_file(folder / HEAD_WEIGHTS)
    hidden = encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
    return linear(pool(hidden, attention_mask, pooling), head["weight"], head["bias"])


@contextmanager
def _silent() -> Iterator[None]:
    """transformers without its progress bars and remarks."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(ERROR)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
