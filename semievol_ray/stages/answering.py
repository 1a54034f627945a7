"""One shard, answered: the work that a replica does for the stages generate, justify and evaluate.

A replica reads the shard, renders the prompts, lets the engine write, and commits one table; only
counts travel back to the driver.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from semievol_ray.config import Collaborator, ModelConfig, thinking_of
from semievol_ray.engines import (
    CUT_OFF,
    GENERATION,
    SCORES,
    Batch,
    Engine,
    Request,
    Sampling,
    request_seed,
)
from semievol_ray.engines.paid_replies import keeping_paid_replies
from semievol_ray.retrieval import example_texts
from semievol_ray.schema import RESPONSE
from semievol_ray.stages.content_free import without_their_priors
from semievol_ray.stages.counts import Counts, count_responses
from semievol_ray.stages.limits import fit_window
from semievol_ray.stages.rendering import make_request, scored
from semievol_ray.stages.run_view import ModelRef, selected_answers
from semievol_ray.store import RunDirectory, layout
from semievol_ray.tasks import PromptRenderer, Task


@dataclass(frozen=True)
class ResolvedCollaborator:
    """A collaborator with its model resolved; `adapter` may be a `layout.reference`."""

    name: str
    base: ModelConfig
    adapter: str | None
    shots: int
    sampling: Sampling
    # Variables of the chat template, and whether the model is to think before it answers.
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    thinks: bool = False
    # Whether it can write nothing but an option.
    guided: bool = False
    # Whether options are compared by PMI (content_free.py).
    pmi: bool = False

    @classmethod
    def of(
        cls,
        name: str,
        model: ModelRef,
        shots: int,
        sampling: Sampling,
        collaborator: Collaborator | None = None,
    ) -> ResolvedCollaborator:
        """A model as it is asked: as its config has it, or as a collaborator's.

        A thought has room of its own, beside the answer's. What this run trained has never been
        shown one.
        """
        as_asked = collaborator or Collaborator()
        kwargs, tokens = thinking_of(as_asked, model.base)
        if model.was_trained:
            tokens = 0
        least = None if sampling.least_tokens is None else sampling.least_tokens + tokens
        sampling = replace(sampling, max_tokens=sampling.max_tokens + tokens, least_tokens=least)
        return cls(
            name,
            model.base,
            model.adapter,
            shots,
            sampling,
            kwargs,
            tokens > 0,
            as_asked.guided,
            as_asked.pmi,
        )


@dataclass(frozen=True)
class ShardJob:
    """What a replica needs to answer one shard after another."""

    run: RunDirectory
    task: Task
    voters: tuple[ResolvedCollaborator, ...]
    seed: int
    score_options: bool
    labeled_shards: tuple[str, ...] = ()
    # The folder of each example's neighbours; null: no demonstrations are shown.
    neighbours: str | None = None
    # Folders of selections of earlier rounds: rows that they settled are not answered again.
    settled_by: tuple[str, ...] = ()
    # In plain text: what comes after an answer that is shown; null: answers hold it themselves.
    turn_end: str | None = None


async def answer_shard(engine: Engine, job: ShardJob, pair: tuple[str, str]) -> tuple[str, Counts]:
    """Answer one shard under every voter of the job, and commit the table; its name and counts."""
    source, target = pair
    examples = job.run.read_table(source)
    rows = examples.to_pylist()
    shown = demonstrations_of(job, source, rows)
    settled = 0
    if job.settled_by:
        known = _settled_ids(job, source)
        open_rows = [i for i, row in enumerate(rows) if row["example_id"] not in known]
        settled = len(rows) - len(open_rows)
        examples = take(examples, open_rows)
        rows, shown = [rows[i] for i in open_rows], [shown[i] for i in open_rows]
    with keeping_paid_replies(engine, job.run, target) as asked:
        tables = await asyncio.gather(
            *(_answer(asked, job, voter, rows, shown, examples) for voter in job.voters)
        )
        dropped = sum(count for _, count in tables)
        table = interleave([t for t, _ in tables])
        job.run.write_table(target, table)
    ambiguous = job.task.ambiguous(table["text"])
    return target, count_responses(table, dropped, settled, ambiguous)


def with_questions(
    requests: list[Request], task: Task, base: ModelConfig, examples: pa.Table
) -> list[Request]:
    """The requests with what a classifier reads instead of a prompt, where that is who answers."""
    if not (base.is_classifier and task.is_closed):
        return requests
    return [
        replace(request, question=question, classes=task.classes(row))
        for request, question, row in zip(
            requests, example_texts(examples), examples.to_pylist(), strict=True
        )
    ]


async def _answer(
    engine: Engine,
    job: ShardJob,
    voter: ResolvedCollaborator,
    rows: Sequence[Mapping[str, Any]],
    shown: Sequence[Sequence[Mapping[str, Any]]],
    examples: pa.Table,
) -> tuple[pa.Table, int]:
    """One voter's RESPONSE table over a shard, and how many demonstrations found no room."""
    dropped = 0
    requests = []
    renderer = renderer_for(engine, job.task, voter)
    for row, demonstrations in zip(rows, shown, strict=True):
        seed = request_seed(job.seed, row["example_id"], voter.name)
        request, shots = fit_request(
            engine, renderer, job.task, row, demonstrations[: voter.shots], seed, voter.sampling
        )
        dropped += min(voter.shots, len(demonstrations)) - shots
        requests.append(request)
    requests = with_questions(requests, job.task, voter.base, examples)
    voter = ending_its_turn(job, voter, renderer)
    generated, scores = await ask(engine, job, voter, rows, requests)
    if voter.pmi and scores is not None and rows:
        adapter = None if voter.adapter is None else job.run.localise(voter.adapter)
        scores = await without_their_priors(engine, renderer, job.task, rows, scores, adapter)
    return respond(job.task, examples, voter.name, requests, generated, scores), dropped


def fit_request(
    engine: Engine,
    renderer: PromptRenderer,
    task: Task,
    example: Mapping[str, Any],
    demonstrations: Sequence[Mapping[str, Any]],
    seed: int,
    sampling: Sampling,
) -> tuple[Request, int]:
    """The prompt with as many demonstrations as the context holds; the farthest go first."""
    shown = list(demonstrations)
    room = engine.max_model_len - fit_window(sampling, engine).needed_tokens
    while True:
        request = make_request(renderer, task.messages(example, shown), seed)
        # A token holds at least a byte: most prompts need no counting.
        if not shown or engine.tokenizer is None or len(request.prompt.encode()) < room:
            return request, len(shown)
        if renderer.count_tokens(request.prompt) <= room:
            return request, len(shown)
        shown.pop()


def renderer_for(engine: Engine, task: Task, voter: ResolvedCollaborator) -> PromptRenderer:
    """What makes a voter's prompts."""
    return PromptRenderer(
        engine.tokenizer,
        task.use_chat_template,
        day=task.day,
        options=voter.template_kwargs,
        thinks=voter.thinks,
    )


def ending_its_turn(
    job: ShardJob, voter: ResolvedCollaborator, renderer: PromptRenderer
) -> ResolvedCollaborator:
    """The voter, whose response ends where it would go on with a next example of its own.

    Of demonstrations in plain text a model that was not trained on them learns that after an answer
    comes the next question. A thought has blank lines of its own.
    """
    if renderer.tokenizer is None or renderer.chat or voter.thinks:
        return voter
    if job.turn_end is None or not voter.shots:
        return voter
    stop = (*voter.sampling.stop, job.turn_end)
    return replace(voter, sampling=replace(voter.sampling, stop=stop))


async def ask(
    engine: Engine,
    job: ShardJob,
    voter: ResolvedCollaborator,
    rows: Sequence[Mapping[str, Any]],
    requests: list[Request],
) -> tuple[pa.Table, pa.Array | None]:
    """What a voter writes and, where the task is closed, log P of every option of every row."""
    if not requests:
        # All the rows are settled: no engine is asked for nothing.
        return GENERATION.empty_table(), pa.nulls(0, SCORES) if job.score_options else None
    adapter = None if voter.adapter is None else job.run.localise(voter.adapter)
    batch = Batch(requests, fit_window(voter.sampling, engine), adapter=adapter)
    # Where the model thinks first, no option follows the prompt.
    if (job.score_options or voter.guided) and not voter.thinks:
        renderer = renderer_for(engine, job.task, voter)
        batch = scored(batch, renderer, job.task, rows, exactly=voter.pmi)
        batch = replace(
            batch,
            candidates=batch.candidates if job.score_options else None,
            choices=batch.candidates if voter.guided else None,
        )
    replies = await engine.answer(batch)
    assert replies.generated is not None  # there is a sampling
    return replies.generated, replies.scores


def respond(
    task: Task,
    examples: pa.Table,
    collaborator: str,
    requests: Sequence[Request],
    generated: pa.Table,
    scores: pa.Array | None,
) -> pa.Table:
    """The RESPONSE table of one collaborator over some examples."""
    count = len(examples)
    texts = generated["text"].combine_chunks()
    answers = task.parse(texts, examples["options"].combine_chunks())
    if not task.is_closed:
        # What was cut off is not what the model had to say; an option named before the cut is.
        cut_off = pc.equal(generated["finish_reason"].combine_chunks(), CUT_OFF)
        answers = pc.if_else(cut_off, pa.scalar(None, pa.string()), answers)
    columns = {
        "example_id": examples["example_id"].combine_chunks(),
        "collaborator": pa.array([collaborator] * count, pa.string()),
        "text": texts,
        "answer": answers,
        "answer_text": task.written(texts, answers),
        "finish_reason": generated["finish_reason"].combine_chunks(),
        "prompt_tokens": generated["prompt_tokens"].combine_chunks(),
        "tokens": generated["tokens"].combine_chunks(),
        "token_logprobs": generated["token_logprobs"].combine_chunks(),
        "rationale": generated["rationale"].combine_chunks(),
        "rationale_logprobs": generated["rationale_logprobs"].combine_chunks(),
        "option_logprobs": (
            pa.nulls(count, RESPONSE.field("option_logprobs").type) if scores is None else scores
        ),
        "seed": pa.array([r.seed for r in requests], pa.int64()),
    }
    return pa.table(columns, schema=RESPONSE)


def _settled_ids(job: ShardJob, source: str) -> set[str]:
    names = (layout.same_shard(source, folder) for folder in job.settled_by)
    return set().union(*(selected_answers(job.run, name) for name in names))


def demonstrations_of(
    job: ShardJob, source: str, rows: Sequence[Mapping[str, Any]]
) -> list[list[dict[str, Any]]]:
    """Each row's labelled neighbours, nearest first."""
    if job.neighbours is None or not any(voter.shots for voter in job.voters):
        return [[] for _ in rows]
    labeled = _labeled_by_id(job.run.uri, job.labeled_shards)
    found = job.run.read_table(layout.same_shard(source, job.neighbours), ["demonstration_ids"])
    return [[labeled[i] for i in ids] for ids in found["demonstration_ids"].to_pylist()]


@lru_cache(maxsize=1)
def _labeled_by_id(uri: str, shards: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    run = RunDirectory(uri)
    rows = (row for shard in shards for row in run.read_table(shard).to_pylist())
    return {row["example_id"]: row for row in rows}


def interleave(tables: list[pa.Table]) -> pa.Table:
    """Tables of like length to one: all of the first example's rows, then the second's, …"""
    count = len(tables[0])
    order = [voter * count + row for row in range(count) for voter in range(len(tables))]
    return take(pa.concat_tables(tables), order).combine_chunks()


def take(table: pa.Table, rows: Sequence[int]) -> pa.Table:
    """Some rows of a table, or none: an empty list alone would be of no type that Arrow takes."""
    return table.take(pa.array(rows, pa.int64()))
