"""Engines that are no LLMs: classifiers on the labels (`semievol_ray.classifiers`).

Voters of another kind than language models, fitted in seconds, where every example has the same
answers to choose from. `engine_options` are those of the config's `retrieval` section.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from semievol_ray.classifiers import Classifier
from semievol_ray.classifiers.heads import SMALLEST
from semievol_ray.config import ModelConfig, RetrievalConfig
from semievol_ray.engines.protocol import Batch, Engine, EngineOptions, Replies, Request, Row
from semievol_ray.errors import UserError
from semievol_ray.validation import one_line

_WHO = "a collaborator that is a classifier"

_Probabilities = NDArray[np.float64]


class ClassifierEngine(Engine):
    """A classifier of the questions; it scores options, and writes the most probable one."""

    tokenizer = None
    max_model_len = 2**20

    def __init__(self, model: ModelConfig, options: EngineOptions) -> None:
        """Fit it to `options.labels` and `.corpus`, or load what the run kept if there are none."""
        if options.labels:
            self._classifier = fit(model, options.labels, options.corpus)
        else:
            self._classifier = Classifier.load(
                Path(model.name), trust_remote_code=model.trust_remote_code
            )

    async def answer(self, batch: Batch) -> Replies:
        """See Engine.answer; the text is the most probable candidate, whatever the temperature.

        Raises UserError where there are no candidates: a classifier writes nothing of its own.
        """
        if batch.candidates is None:
            raise UserError(f"{_WHO}: needs a closed task, and generation.score_options: true")
        self.beats += 1
        texts = [request.question for request in batch.requests]
        probabilities = await asyncio.to_thread(self._classifier.probabilities, texts)
        self.answered += len(texts)
        rows = zip(batch.requests, batch.candidates, probabilities, strict=True)
        return Replies.of(batch, (self._reply(*row) for row in rows))

    async def close(self) -> None:
        """See Engine.close."""

    def _reply(
        self, request: Request, candidates: Sequence[str], probabilities: _Probabilities
    ) -> Row:
        logprobs = self._of_classes(request, probabilities).tolist()
        best = max(range(len(logprobs)), key=logprobs.__getitem__)
        # Where nothing speaks for one of them, the first is no answer.
        text = "" if min(logprobs) == max(logprobs) else candidates[best].strip()
        said = {"text": text, "finish_reason": "stop", "prompt_tokens": 0, "tokens": 1,
                "token_logprobs": [logprobs[best]]}  # fmt: skip
        return said, logprobs

    @cached_property
    def _index(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self._classifier.classes)}

    def _of_classes(self, request: Request, probabilities: _Probabilities) -> _Probabilities:
        """Log-probabilities of a request's own classes; one without a label has next to none."""
        known = [self._index.get(name) for name in request.classes]
        own = np.array([SMALLEST if i is None else probabilities[i] for i in known])
        own = np.maximum(own, SMALLEST)
        return np.log(own / own.sum())


def check_learnable(answers: Sequence[str], who: str = _WHO) -> None:
    """Raise UserError where labels of these classes are none that a classifier can learn.

    `who` is how the message calls it.
    """
    names = set(answers)
    if len(names) > max(len(answers) / 2, 2):
        raise UserError(
            f"{who}: {len(answers)} labels hold {len(names)} different answers; a classifier "
            "needs the same few in every example"
        )
    if len(names) == 1:
        raise UserError(f"{who}: every label is {min(names)!r}")


def fit(
    model: ModelConfig, labels: Sequence[tuple[str, str]], corpus: Sequence[str] = ()
) -> Classifier:
    """The classifier that a model's config describes, on questions with their classes.

    `corpus` are questions without one.

    Raises UserError where the labels are none that a classifier can learn.
    """
    check_learnable([name for _, name in labels])
    try:
        config = RetrievalConfig(**model.engine_options)
    except ValidationError as error:
        raise UserError(f"model {model.name}: {one_line(error, RetrievalConfig)}") from None
    return Classifier.fit(model.engine, labels, config, model, corpus)
