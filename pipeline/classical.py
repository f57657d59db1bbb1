"""The floor: TF-IDF of character n-grams and one logistic regression a label, what a user would otherwise take."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import scipy.sparse
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from pipeline.artifact import Artifact, Notes
from pipeline.config import ClassicalConfig
from pipeline.data import Data, load_data
from pipeline.ensemble import Member, Rows, over_folds
from pipeline.runtime import Deployment

VOCABULARY, COEFFICIENTS = "vocabulary.json", "coefficients.npz"


@dataclass(frozen=True)
class Floor:
    """A fitted floor."""

    vectorizer: TfidfVectorizer
    weights: NDArray[np.float32]
    """[n-grams, labels]"""
    bias: NDArray[np.float32]
    """[labels]"""

    def logits(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Logits [comments, labels]."""
        features: scipy.sparse.csr_matrix = self.vectorizer.transform(list(texts))
        logits: NDArray[np.float32] = np.asarray(features @ self.weights + self.bias, dtype=np.float32)
        return logits


def fit_floor(config: ClassicalConfig, texts: Sequence[str], labels: NDArray[np.int8]) -> Floor:
    """TF-IDF over the texts and one logistic regression a label; labels [comments, labels], 0 or 1."""
    ngrams = (config.smallest_ngram, config.longest_ngram)
    vectorizer = TfidfVectorizer(
        analyzer="char", ngram_range=ngrams, min_df=config.minimum_documents, sublinear_tf=True, dtype=np.float32
    )
    features = vectorizer.fit_transform(list(texts))
    fits = [
        LogisticRegression(C=config.inverse_regularization, max_iter=1000, random_state=config.seed).fit(features, y)
        for y in labels.T
    ]
    weights = np.ascontiguousarray(np.concatenate([fit.coef_ for fit in fits]).T, dtype=np.float32)
    return Floor(vectorizer, weights, np.concatenate([fit.intercept_ for fit in fits]).astype(np.float32))


def floor_member(config: ClassicalConfig, comments: Data, parts: Sequence[tuple[Rows, Rows]]) -> Member:
    """The floor as a member of an ensemble; out of fold where there are folds."""

    def answer(inside: Rows, outside: Rows) -> dict[str, NDArray[np.float32]]:
        floor = fit_floor(config, [comments.train.texts[row] for row in inside], comments.train.labels[inside])
        return {name: floor.logits(split.texts) for name, split in comments.splits.items()}

    everything = np.arange(len(comments.train))
    whole = Member(answer(everything, everything[:0]))
    return replace(whole, out_of_fold=over_folds(answer, parts).out_of_fold) if parts else whole


def train_classical(config: ClassicalConfig, folder: Path, data: Artifact) -> Notes:
    """Fit on the train split and store vocabulary and coefficients, without pickle."""
    comments = load_data(data.path)
    floor = fit_floor(config, comments.train.texts, comments.train.labels)
    idf = floor.vectorizer.idf_.astype(np.float32)
    np.savez(folder / COEFFICIENTS, idf=idf, weights=floor.weights.T, bias=floor.bias)
    terms = {term: int(index) for term, index in floor.vectorizer.vocabulary_.items()}
    ngrams = (config.smallest_ngram, config.longest_ngram)
    vocabulary = {"ngrams": ngrams, "terms": sorted(terms, key=terms.__getitem__)}
    (folder / VOCABULARY).write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    Deployment("scikit-learn", tuple(comments.label_columns), (COEFFICIENTS, VOCABULARY)).save(folder)
    return {"features": len(terms)}


class ClassicalClassifier:
    """The stored floor, run by scikit-learn's vectorizer and a sparse product."""

    def __init__(self, folder: Path) -> None:
        vocabulary = json.loads((folder / VOCABULARY).read_text(encoding="utf-8"))
        stored = np.load(folder / COEFFICIENTS, allow_pickle=False)
        vectorizer = TfidfVectorizer(
            analyzer="char",
            ngram_range=tuple(vocabulary["ngrams"]),
            vocabulary={term: index for index, term in enumerate(vocabulary["terms"])},
            sublinear_tf=True,
            dtype=np.float32,
        )
        vectorizer.idf_ = stored["idf"]
        self.floor = Floor(vectorizer, np.ascontiguousarray(stored["weights"].T), stored["bias"])

    def predict_logits(self, texts: Sequence[str], batch_size: int = 32) -> NDArray[np.float32]:
        """Logits [comments, labels] in the comments' order."""
        return self.floor.logits(texts)
