"""A transformer encoder as ONNX Runtime runs it, on one thread, as it was measured."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from tokenizers import Tokenizer


class OnnxEncoder:
    """Tokenizer and session of a folder with `model.onnx`, `tokenizer.json` and `deploy.json`."""

    def __init__(self, folder: Path) -> None:
        deploy = json.loads((folder / "deploy.json").read_text(encoding="utf-8"))
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.enable_truncation(deploy["max_tokens"])
        self.tokenizer.enable_padding(pad_id=deploy["pad_id"])
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.x64quantprecision", "1")  # else int8 overflows on CPUs without VNNI
        model = str(folder / "model.onnx")
        self.session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def predict_logits(self, texts: Sequence[str], batch_size: int = 32) -> NDArray[np.float32]:
        """Logits [comments, labels] in the comments' order."""
        answers = []
        for start in range(0, len(texts), batch_size):
            encodings = self.tokenizer.encode_batch(list(texts[start : start + batch_size]))
            feed = {
                "input_ids": np.array([one.ids for one in encodings], dtype=np.int64),
                "attention_mask": np.array([one.attention_mask for one in encodings], dtype=np.int64),
            }
            answers.append(self.session.run(None, feed)[0])
        logits: NDArray[np.float32] = np.concatenate(answers)
        return logits
