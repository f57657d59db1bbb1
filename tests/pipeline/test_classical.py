"""The stored floor against scikit-learn's own pipeline."""

import json
import pickletools
import zipfile

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline

from pipeline.config import ClassicalConfig
from pipeline.runtime import load_classifier, load_deployment, sigmoid
from pipeline.stages import train_classical


def fitted(comments, ngrams, minimum_documents, c):
    """The same floor as one would write it with scikit-learn alone."""
    pipeline = make_pipeline(
        TfidfVectorizer(
            analyzer="char", ngram_range=ngrams, min_df=minimum_documents, sublinear_tf=True, dtype=np.float32
        ),
        OneVsRestClassifier(LogisticRegression(C=c, max_iter=1000)),
    )
    return pipeline.fit(comments.train.texts, comments.train.labels)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (ClassicalConfig(), ((2, 5), 2, 4.0)),
        (
            ClassicalConfig(smallest_ngram=1, longest_ngram=3, minimum_documents=4, inverse_regularization=0.5),
            ((1, 3), 4, 0.5),
        ),
    ],
    ids=["default", "other"],
)
def test_probabilities_are_scikit_learns(tiny_store, tiny_data, tiny_comments, config, expected):
    artifact = tiny_store.run(train_classical, config, tiny_data)
    pipeline = fitted(tiny_comments, *expected)
    texts = [*tiny_comments.validation.texts, "", "HELLO নদী", "漢字"]
    found = sigmoid(load_classifier(artifact.path).predict_logits(texts))
    np.testing.assert_allclose(found, pipeline.predict_proba(texts), atol=1e-5)
    assert artifact.notes["features"] == len(pipeline[0].vocabulary_)


def test_the_floor_has_learnt_something(tiny_classical, tiny_comments):
    logits = load_classifier(tiny_classical.path).predict_logits(tiny_comments.test.texts)
    assert roc_auc_score(tiny_comments.test.labels, logits, average="macro") > 0.6


def test_answers_do_not_depend_on_the_batch(tiny_classical, tiny_comments):
    classifier, texts = load_classifier(tiny_classical.path), tiny_comments.test.texts[:20]
    one_by_one = np.concatenate([classifier.predict_logits([text]) for text in texts])
    np.testing.assert_allclose(classifier.predict_logits(texts), one_by_one, atol=1e-6)


def test_the_folder_holds_no_pickle(tiny_classical):
    deployment = load_deployment(tiny_classical.path)
    assert deployment.labels == ("bully", "sexual", "threat")
    names = {path.name for path in tiny_classical.path.iterdir()}
    assert names == {*deployment.weight_files, "deploy.json", "manifest.json"}
    for name in names:
        path = tiny_classical.path / name
        contents = [path.read_bytes()]
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                contents = [archive.read(member) for member in archive.namelist()]
            with np.load(path, allow_pickle=False) as stored:
                assert all(stored[array].dtype == np.float32 for array in stored.files)
        else:
            json.loads(path.read_text(encoding="utf-8"))
        for content in contents:
            with pytest.raises(ValueError):
                list(pickletools.genops(content))
