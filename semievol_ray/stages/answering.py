"""One shard, answered: the work that a replica does for the stages generate, justify and evaluate.

A replica reads the shard, renders the prompts, lets the engine write, and commits one table; only
counts travel back to the driver.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from semievol_ray.config import ModelConfig
from semievol_ray.engines import Engine, Message, Request, Sampling, request_seed
from semievol_ray.engines.protocol import FAILED
from semievol_ray.schema import RESPONSE
from semievol_ray.stages.context import selected_ids
from semievol_ray.store import RunDirectory
from semievol_ray.tasks import PromptRenderer, Task, completion_text
from semievol_ray.tasks.prompts import plain_text


@dataclass(frozen=True)
class Voter:
    """A collaborator with its model resolved."""

    name: str
    base: ModelConfig
    adapter: str | None
    shots: int
    sampling: Sampling


@dataclass(frozen=True)
class ShardJob:
    """What a replica needs to answer one shard after another."""

    run: RunDirectory
    task: Task
    voters: tuple[Voter, ...]
    seed: int
    score_options: bool
    labeled_shards: tuple[str, ...]
    demonstrations: bool
    # Selections of earlier rounds whose rows are settled and are not answered again.
    settled_by: tuple[str, ...] = ()


COUNTED = ["collaborator", "finish_reason", "tokens", "prompt_tokens", "answer"]


@dataclass(frozen=True)
class Counts:
    """What a shard, or many, came to."""

    rows: int = 0
    tokens: int = 0
    prompt_tokens: int = 0
    failed: int = 0
    unparsed: int = 0
    # Numbers that can be read in two ways; like the next, counted as a shard is answered.
    ambiguous: int = 0
    dropped_demonstrations: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(a + b for a, b in zip(self._values(), other._values(), strict=True)))

    def _values(self) -> tuple[int, ...]:
        return tuple(self.__dict__.values())

    def as_dict(self) -> dict[str, int]:
        """The counts by name."""
        return dict(self.__dict__)


async def answer_shard(engine: Engine, job: ShardJob, pair: tuple[str, str]) -> Counts:
    """Answer one shard under every voter of the job, and commit the table."""
    source, target = pair
    examples = job.run.read_table(source)
    rows = examples.to_pylist()
    shown = demonstrations_of(job, source, rows)
    if job.settled_by:
        settled = _settled_ids(job, source)
        open_rows = [i for i, row in enumerate(rows) if row["example_id"] not in settled]
        examples = examples.take(open_rows)
        rows, shown = [rows[i] for i in open_rows], [shown[i] for i in open_rows]
    tables = await asyncio.gather(
        *(_answer(engine, job, voter, rows, shown, examples) for voter in job.voters)
    )
    dropped = sum(count for _, count in tables)
    table = interleave([t for t, _ in tables])
    job.run.write_table(target, table)
    return count_responses(table, dropped, job.task.ambiguous(table["text"]))


def count_responses(table: pa.Table, dropped_demonstrations: int = 0, ambiguous: int = 0) -> Counts:
    """The counts of a RESPONSE table, or of one with its columns COUNTED alone."""
    failed = pc.sum(pc.is_in(table["finish_reason"], pa.array(FAILED))).as_py() or 0
    return Counts(
        rows=len(table),
        tokens=pc.sum(table["tokens"]).as_py() or 0,
        prompt_tokens=pc.sum(table["prompt_tokens"]).as_py() or 0,
        failed=failed,
        unparsed=table["answer"].null_count - failed,
        ambiguous=ambiguous,
        dropped_demonstrations=dropped_demonstrations,
    )


def committed_counts(
    run: RunDirectory, names: Iterable[str], collaborators: Collection[str] | None = None
) -> Counts:
    """What the shards that are already there came to, or some collaborators' part of them.

    Demonstrations that were left out are not written down, and so not counted.
    """
    found = Counts()
    for name in names:
        table = run.read_table(name, COUNTED)
        if collaborators is not None:
            table = table.filter(pc.field("collaborator").isin(list(collaborators)))
        found += count_responses(table)
    return found


async def _answer(
    engine: Engine,
    job: ShardJob,
    voter: Voter,
    rows: Sequence[Mapping[str, Any]],
    shown: Sequence[Sequence[Mapping[str, Any]]],
    examples: pa.Table,
) -> tuple[pa.Table, int]:
    """One voter's RESPONSE table over a shard, and how many demonstrations found no room."""
    dropped = 0
    requests = []
    for row, demonstrations in zip(rows, shown, strict=True):
        seed = request_seed(job.seed, row["example_id"], voter.name)
        request, shots = fit_request(
            engine, job.task, row, demonstrations[: voter.shots], seed, voter.sampling.max_tokens
        )
        dropped += min(voter.shots, len(demonstrations)) - shots
        requests.append(request)
    generated, scores = await ask(engine, job, voter, rows, requests)
    return respond(job.task, examples, voter.name, requests, generated, scores), dropped


def fit_request(
    engine: Engine,
    task: Task,
    example: Mapping[str, Any],
    demonstrations: Sequence[Mapping[str, Any]],
    seed: int,
    max_tokens: int,
) -> tuple[Request, int]:
    """The prompt with as many demonstrations as the context holds; the farthest go first."""
    shown = list(demonstrations)
    room = engine.max_model_len - max_tokens
    while True:
        request = make_request(engine, task, task.messages(example, shown), seed)
        # A token holds at least a byte: most prompts need no counting.
        if not shown or engine.tokenizer is None or len(request.prompt.encode()) < room:
            return request, len(shown)
        renderer = PromptRenderer(engine.tokenizer, task.use_chat_template)
        if renderer.count_tokens(request.prompt) <= room:
            return request, len(shown)
        shown.pop()


def make_request(engine: Engine, task: Task, messages: list[Message], seed: int) -> Request:
    """Messages rendered for the engine's tokenizer, or as plain text where it has none."""
    if engine.tokenizer is None:
        prompt = plain_text(messages)
    else:
        prompt = PromptRenderer(engine.tokenizer, task.use_chat_template).render(messages)
    return Request(prompt, seed, tuple(messages))


async def ask(
    engine: Engine,
    job: ShardJob,
    voter: Voter,
    rows: Sequence[Mapping[str, Any]],
    requests: list[Request],
) -> tuple[pa.Table, pa.Array | None]:
    """What a voter writes and, where the task is closed, log P of every option of every row."""
    if not job.score_options:
        return await engine.generate(requests, voter.sampling, voter.adapter), None
    chat = (
        engine.tokenizer is not None
        and PromptRenderer(engine.tokenizer, job.task.use_chat_template).chat
    )
    candidates = [[completion_text(c, chat=chat) for c in job.task.candidates(row)] for row in rows]
    # One label may begin another ("card", "card lost"): there the end of the text counts too.
    closed = job.task.kind == "label"
    return await engine.answer(requests, voter.sampling, candidates, voter.adapter, closed=closed)


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
    columns = {
        "example_id": examples["example_id"].combine_chunks(),
        "collaborator": pa.array([collaborator] * count, pa.string()),
        "text": texts,
        "answer": task.parse(texts, examples["options"].combine_chunks()),
        "finish_reason": generated["finish_reason"].combine_chunks(),
        "prompt_tokens": generated["prompt_tokens"].combine_chunks(),
        "tokens": generated["tokens"].combine_chunks(),
        "token_logprobs": generated["token_logprobs"].combine_chunks(),
        "option_logprobs": (
            pa.nulls(count, RESPONSE.field("option_logprobs").type) if scores is None else scores
        ),
        "seed": pa.array([r.seed for r in requests], pa.int64()),
    }
    return pa.table(columns, schema=RESPONSE)


def _settled_ids(job: ShardJob, source: str) -> set[str]:
    found = (selected_ids(job.run, source.replace("data/unlabeled", folder, 1))
             for folder in job.settled_by)  # fmt: skip
    return set().union(*found)


def demonstrations_of(
    job: ShardJob, source: str, rows: Sequence[Mapping[str, Any]]
) -> list[list[dict[str, Any]]]:
    """Each row's labelled neighbours, nearest first."""
    if not job.demonstrations or not any(voter.shots for voter in job.voters):
        return [[] for _ in rows]
    labeled = _labeled_by_id(job.run.uri, job.labeled_shards)
    found = job.run.read_table(source.replace("data/", "retrieve/", 1), ["demonstration_ids"])
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
    return pa.concat_tables(tables).take(order).combine_chunks()
