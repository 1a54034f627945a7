"""Engines that are no LLMs: classifiers on the labels, over a frozen embedder.

Voters of another kind than language models, fitted in seconds, where every example has the same
answers to choose from: `probe` is logistic regression, `neighbours` the similarity-weighted votes
of the nearest labels. `engine_options` are those of the config's `retrieval` section.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import cached_property, partial
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from semievol_ray.config import ModelConfig, RetrievalConfig
from semievol_ray.engines.protocol import Batch, Engine, EngineOptions, Replies, Request, Row
from semievol_ray.errors import UserError
from semievol_ray.retrieval import create_embedder
from semievol_ray.validation import one_line

# What is tried, and chosen by cross-validated log loss.
_PENALTIES = np.logspace(-1, 3, 5)
_NEIGHBOURS = (5, 15, 50)
_TEMPERATURES = (0.03, 0.1, 0.3)
_FOLDS = 5
# A probability that a classifier gives is never so small that it rules an answer out.
_SMALLEST = 1e-6

_WHO = "a collaborator that is a classifier"

_Probabilities = npt.NDArray[np.float64]


class ClassifierEngine(Engine):
    """A classifier of the questions; it scores options, and writes the most probable one."""

    tokenizer = None
    max_model_len = 2**20

    def __init__(self, model: ModelConfig, options: EngineOptions) -> None:
        """Fit it to `options.labels`: questions with the names of their classes."""
        labels = options.labels
        texts, names = [text for text, _ in labels], [name for _, name in labels]
        if len(set(names)) > max(len(names) / 2, 2):
            raise UserError(
                f"{_WHO}: the {len(names)} labels hold {len(set(names))} different answers; a "
                "classifier needs the same few in every example"
            )
        try:
            config = RetrievalConfig(**model.engine_options)
        except ValidationError as error:
            raise UserError(f"model {model.name}: {one_line(error, RetrievalConfig)}") from None
        self._batch_rows = config.batch_rows
        self._embedder = create_embedder(config, texts, model)
        vectors = self._embed(texts)
        # No solution leaves the space that the labels span: where they are fewer than dimensions,
        # in it the fit is the same and takes a fraction of the time.
        self._basis = np.linalg.qr(vectors.T)[0] if len(texts) < vectors.shape[1] else None
        candidates = _CANDIDATES[model.engine](len(texts))
        self._classifier = _fit(candidates, self._project(vectors), names)

    async def answer(self, batch: Batch) -> Replies:
        """See Engine.answer; the text is the most probable candidate, whatever the temperature.

        Raises UserError where there are no candidates: a classifier writes nothing of its own.
        """
        if batch.candidates is None:
            raise UserError(f"{_WHO}: needs a closed task, and generation.score_options: true")
        self.beats += 1
        texts = [request.question for request in batch.requests]
        vectors = self._project(await asyncio.to_thread(self._embed, texts))
        rows = zip(
            batch.requests,
            batch.candidates,
            self._classifier.predict_proba(vectors),
            strict=True,
        )
        return Replies.of(batch, (self._reply(*row) for row in rows))

    async def close(self) -> None:
        """See Engine.close."""

    def _reply(
        self, request: Request, candidates: Sequence[str], probabilities: _Probabilities
    ) -> Row:
        logprobs = self._of_classes(request, probabilities).tolist()
        best = max(range(len(logprobs)), key=logprobs.__getitem__)
        text = candidates[best].strip()
        said = {"text": text, "finish_reason": "stop", "prompt_tokens": 0, "tokens": 1,
                "token_logprobs": [logprobs[best]]}  # fmt: skip
        return said, logprobs

    @cached_property
    def _index(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self._classifier.classes_)}

    def _of_classes(self, request: Request, probabilities: _Probabilities) -> _Probabilities:
        """Log-probabilities of a request's own classes; one without a label has next to none."""
        known = [self._index.get(name) for name in request.classes]
        own = np.array([_SMALLEST if i is None else probabilities[i] for i in known])
        own = np.maximum(own, _SMALLEST)
        return np.log(own / own.sum())

    def _project(self, vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return vectors if self._basis is None else vectors @ self._basis

    def _embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        starts = range(0, len(texts), self._batch_rows)
        return np.concatenate(
            [self._embedder.embed(texts[s : s + self._batch_rows]) for s in starts]
        )


def _fit(candidates: Sequence[Any], vectors: npt.NDArray[np.float32], names: list[str]) -> Any:
    """The candidate whose cross-validated log loss is the least, fitted to all labels."""
    from sklearn.base import clone
    from sklearn.model_selection import KFold, cross_val_predict

    classes = sorted(set(names))
    if len(classes) < 2:
        raise UserError(f"{_WHO}: every label is {classes[0]!r}")
    gold = np.array([classes.index(name) for name in names])
    folds = KFold(min(_FOLDS, len(names)), shuffle=True, random_state=0)

    def loss(model: Any) -> float:
        found = cross_val_predict(model, vectors, gold, cv=folds, method="predict_proba")
        return -float(np.log(np.maximum(found[np.arange(len(gold)), gold], _SMALLEST)).mean())

    return clone(min(candidates, key=loss)).fit(vectors, names)


def _logistic_regressions(labels: int) -> list[Any]:
    from sklearn.linear_model import LogisticRegression

    return [LogisticRegression(C=penalty, max_iter=1000) for penalty in _PENALTIES]


def _nearest_neighbours(labels: int) -> list[Any]:
    from sklearn.neighbors import KNeighborsClassifier

    # In a fold there are fewer labels than in all.
    most = max(labels * (_FOLDS - 1) // _FOLDS, 1)
    counts = dict.fromkeys(min(k, most) for k in _NEIGHBOURS)
    return [
        KNeighborsClassifier(k, weights=partial(_similarity, t), metric="cosine", algorithm="brute")
        for k in counts
        for t in _TEMPERATURES
    ]


def _similarity(temperature: float, distances: npt.NDArray[np.float64]) -> _Probabilities:
    return np.exp((distances.min(axis=1, keepdims=True) - distances) / temperature)


_CANDIDATES = {"probe": _logistic_regressions, "neighbours": _nearest_neighbours}
