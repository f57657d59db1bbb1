"""The floor: TF-IDF of character n-grams and one logistic regression a label, what a user would otherwise take."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import scipy.sparse
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from pipeline.artifact import Artifact, Notes, stage
from pipeline.config import ClassicalConfig
from pipeline.data import load_data
from pipeline.runtime import Deployment

VOCABULARY, COEFFICIENTS = "vocabulary.json", "coefficients.npz"


@stage("classical", version=1)
def train_classical(config: ClassicalConfig, folder: Path, data: Artifact) -> Notes:
    """Fit on the train split and store vocabulary and coefficients, without pickle."""
    comments = load_data(data.path)
    ngrams = (config.smallest_ngram, config.longest_ngram)
    vectorizer = TfidfVectorizer(
        analyzer="char", ngram_range=ngrams, min_df=config.minimum_documents, sublinear_tf=True, dtype=np.float32
    )
    features = vectorizer.fit_transform(comments.train.texts)
    fits = [
        LogisticRegression(C=config.inverse_regularization, max_iter=1000, random_state=config.seed).fit(features, y)
        for y in comments.train.labels.T
    ]
    np.savez(
        folder / COEFFICIENTS,
        idf=vectorizer.idf_.astype(np.float32),
        weights=np.concatenate([fit.coef_ for fit in fits]).astype(np.float32),
        bias=np.concatenate([fit.intercept_ for fit in fits]).astype(np.float32),
    )
    terms = {term: int(index) for term, index in vectorizer.vocabulary_.items()}
    vocabulary = {"ngrams": ngrams, "terms": sorted(terms, key=terms.__getitem__)}
    (folder / VOCABULARY).write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    Deployment("scikit-learn", tuple(comments.label_columns), (COEFFICIENTS, VOCABULARY)).save(folder)
    return {"features": len(terms)}


class ClassicalClassifier:
    """The stored floor, run by scikit-learn's vectorizer and a sparse product."""

    def __init__(self, folder: Path) -> None:
        vocabulary = json.loads((folder / VOCABULARY).read_text(encoding="utf-8"))
        stored = np.load(folder / COEFFICIENTS, allow_pickle=False)
        self.vectorizer = TfidfVectorizer(
            analyzer="char",
            ngram_range=tuple(vocabulary["ngrams"]),
            vocabulary={term: index for index, term in enumerate(vocabulary["terms"])},
            sublinear_tf=True,
            dtype=np.float32,
        )
        self.vectorizer.idf_ = stored["idf"]
        self.weights: NDArray[np.float32] = np.ascontiguousarray(stored["weights"].T)
        self.bias: NDArray[np.float32] = stored["bias"]

    def predict_logits(self, texts: Sequence[str], batch_size: int = 32) -> NDArray[np.float32]:
        """Logits [comments, labels] in the comments' order."""
        features: scipy.sparse.csr_matrix = self.vectorizer.transform(list(texts))
        logits: NDArray[np.float32] = np.asarray(features @ self.weights + self.bias, dtype=np.float32)
        return logits
