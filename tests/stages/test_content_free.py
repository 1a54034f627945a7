"""Options without their priors, against the same sums by hand on the demo's tiny Llama."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from semievol_ray.config import ModelConfig, TaskConfig
from semievol_ray.engines import SCORES, Batch, Sampling
from semievol_ray.engines.transformers_engine import TransformersEngine
from semievol_ray.stages.answering import ResolvedCollaborator, ShardJob, ask
from semievol_ray.stages.content_free import without_their_priors
from semievol_ray.stages.rendering import make_request, scored
from semievol_ray.tasks import PromptRenderer, Task
from tests.engines.asking import options

LABEL = {"kind": "label", "labels": ["delivery", "payments", "a team of many words"]}
CHOICE = {"kind": "multiple_choice"}


@pytest.fixture(scope="module")
def engine(tiny_model) -> TransformersEngine:
    return TransformersEngine(ModelConfig(name=str(tiny_model), engine="transformers"), options())


def row(question: str, choices: list[str] | None = None) -> dict[str, Any]:
    return {"example_id": question, "question": question, "context": "a context",
            "options": choices, "answer": None, "subject": None, "weight": None}  # fmt: skip


def scores_of(engine, renderer, task: Task, rows) -> list[list[float]]:
    requests = [make_request(renderer, task.messages(r), 0) for r in rows]
    batch = scored(Batch(requests), renderer, task, rows, exactly=True)
    found = asyncio.run(engine.answer(batch)).scores
    return found.to_pylist()


@pytest.mark.parametrize(
    ("kind", "choices"),
    [(LABEL, [None, None]), (CHOICE, [["red", "blue"], ["one", "two", "three"]])],
    ids=["label", "options of each row"],
)
def test_what_is_likely_without_a_question_is_taken_away(engine, kind, choices) -> None:
    task, renderer = Task.from_config(TaskConfig(**kind)), PromptRenderer(engine.tokenizer)
    rows = [row("where is my parcel", choices[0]), row("I was charged twice", choices[1])]
    own = scores_of(engine, renderer, task, rows)
    found = asyncio.run(
        without_their_priors(engine, renderer, task, rows, pa.array(own, SCORES))
    ).to_pylist()
    for example, raw, less in zip(rows, own, found, strict=True):
        bare = [example | {"question": q, "context": None} for q in ("N/A", "[MASK]", "")]
        prior = np.exp(scores_of(engine, renderer, task, bare)).mean(axis=0)
        gain = np.exp(raw) / prior
        assert less == pytest.approx(np.log(gain / gain.sum()).tolist(), abs=1e-4)
        assert sum(map(math.exp, less)) == pytest.approx(1)
        # Another order of some options than by log P alone would be no surprise; equal is one.
        assert less != pytest.approx(raw, abs=1e-3)


class Says:
    """An engine that has the same to say of every request."""

    def __init__(self, said: list[float] | None) -> None:
        self.tokenizer, self.said = None, said

    async def answer(self, batch: Batch) -> Any:
        class Replied:
            scores = pa.array([self.said] * len(batch.requests), SCORES)

        return Replied()


@pytest.mark.parametrize(
    ("prior", "own", "expected"),
    [
        (None, [-1.0, -2.0, -9.0], [-1.0, -2.0, -9.0]),
        ([-1.0, -1.0, -3.0], None, None),
        # Endpoints tell of their top tokens alone, in the one place or in the other.
        ([-2.0, -2.0, -math.inf], [-1.0, -2.0, -math.inf], [-0.3133, -1.3133, -math.inf]),
        ([-1.0, -1.0, -1.0], [-math.inf] * 3, [-math.inf] * 3),
    ],
)
def test_where_nothing_was_said_nothing_is_made_up(prior, own, expected) -> None:
    task = Task.from_config(TaskConfig(**LABEL))
    scores = pa.array([own], SCORES)
    renderer: Any = PromptRenderer(None)
    (found,) = asyncio.run(
        without_their_priors(Says(prior), renderer, task, [row("q")], scores)
    ).to_pylist()
    assert found is None if expected is None else found == pytest.approx(expected, abs=1e-4)


def test_every_option_is_computed_for_pmi_alone(engine, monkeypatch) -> None:
    task, renderer = Task.from_config(TaskConfig(**LABEL)), PromptRenderer(engine.tokenizer)
    rows = [row("where is my parcel")]
    requests = [make_request(renderer, task.messages(r), 0) for r in rows]
    said, answer = [], engine.answer

    async def recorded(batch):
        said.append(batch.negligible)
        return await answer(batch)

    monkeypatch.setattr(engine, "answer", recorded)
    for pmi in (True, False):
        model, sampling = ModelConfig(name="any"), Sampling(0, 1, 4)
        voter = ResolvedCollaborator("voter", model, None, 0, sampling, pmi=pmi)
        asyncio.run(ask(engine, ShardJob(None, task, (voter,), 0, True), voter, rows, requests))
    assert said[0] == 0 < said[1] < 1e-3
