"""The classical floor as scikit-learn runs it: TF-IDF of character n-grams, one linear model a label."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer


class TfidfFloor:
    """Vectorizer and coefficients of a folder with `vocabulary.json` and `coefficients.npz`."""

    def __init__(self, folder: Path) -> None:
        vocabulary = json.loads((folder / "vocabulary.json").read_text(encoding="utf-8"))
        stored = np.load(folder / "coefficients.npz", allow_pickle=False)
        self.vectorizer = TfidfVectorizer(
            analyzer="char",
            ngram_range=tuple(vocabulary["ngrams"]),
            vocabulary={term: index for index, term in enumerate(vocabulary["terms"])},
            sublinear_tf=True,
            dtype=np.float32,
        )
        self.vectorizer.idf_ = stored["idf"]
        self.weights, self.bias = np.ascontiguousarray(stored["weights"].T), stored["bias"]

    def predict_logits(self, texts: Sequence[str], batch_size: int = 32) -> NDArray[np.float32]:
        """Logits [comments, labels] in the comments' order."""
        return np.asarray(self.vectorizer.transform(list(texts)) @ self.weights + self.bias, dtype=np.float32)
