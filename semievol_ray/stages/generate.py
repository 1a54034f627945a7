"""Generate: every collaborator answers every unlabelled example."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

import pyarrow as pa

from semievol_ray.config import Collaborator, Config
from semievol_ray.engines import Engine, Sampling
from semievol_ray.stages.along import Along
from semievol_ray.stages.answering import (
    ResolvedCollaborator,
    ShardJob,
    answer_shard,
    interleave,
    take,
)
from semievol_ray.stages.budget import Budget
from semievol_ray.stages.context import Context
from semievol_ray.stages.counts import (
    COUNTED,
    Counts,
    count_responses,
    may_be_lost,
    of_collaborators,
    tell_cut_off,
    tell_dropped,
    tell_lost,
)
from semievol_ray.stages.limits import response_tokens
from semievol_ray.stages.run_view import ModelRef, labeller
from semievol_ray.stages.shards import TALLIES, Shards
from semievol_ray.stages.stage import Outcome, Stage, answering_settings, engine_settings
from semievol_ray.store import RunDirectory, layout
from semievol_ray.touches import of_result


def run(context: Context, round_number: int) -> Outcome:
    """Write the shards of a round in the RESPONSE schema.

    With one base model its replicas do of a later stage what they can (`context.along`), a shard as
    soon as it is answered. With several, each
    pool first writes parts of its own, which are then joined in the order of the collaborators.
    """
    folder = context.folder(layout.round_stage(round_number, "generate"))
    asked = voters(context, lambda name: context.model(name, round_number))
    pooled = pools(asked)
    sources = context.shards("unlabeled")
    shards = Shards(context.run, sources, folder, responses=len(asked))
    budget = Budget(context)
    rows = context.ingested.rows["unlabeled"] * len(asked)
    context.progress.start("generate", rows, "responses")
    if len(pooled) == 1:
        along = context.along
        if along is not None and along.base != asked[0].base:
            along = None  # another model's replicas will do it, later
        total = _answer(context, round_number, asked, shards, budget, along)
    elif shards.missing:
        total = _answer_in_parts(context, round_number, pooled, shards, budget)
    else:
        # All is joined; only the parts had not gone yet, when this was stopped.
        total = Counts()
        for members in pooled:
            found = _counts_of(context.run, shards.done, {voter.name for voter in members})
            budget.spend(members[0].base, found)
            total += found
    outputs = shards.outputs()
    if len(pooled) > 1:
        for number in range(len(pooled)):
            context.run.delete_owned(f"{folder}/part-{number}", (), ("*",))
    tell_cut_off(context.progress, "generate", total, "generation.max_tokens")
    tell_dropped(context.progress, "generate", total)
    if may_be_lost(total, len(asked)):
        for voter in asked:
            found = _counts_of(context.run, outputs, {voter.name})
            tell_lost(context.progress, "generate", found, voter.name)
    who = {"collaborators": [voter.name for voter in asked]}
    return Outcome(outputs, who | total.as_dict() | budget.spent_here)


def settings(config: Config, round_number: int) -> dict[str, Any]:
    """The collaborators, what they are asked, and how."""
    asked = {
        "collaborators": [of_result(c) for c in config.collaborators],
        "models": {name: engine_settings(model) for name, model in config.models.items()},
        "generation": of_result(config.generation),
    }
    # The first round has no selection before it: it is the same in either mode.
    later = of_result(config.iteration, without=("rounds", "guard", "stop_below"))
    return answering_settings(config) | asked | ({"iteration": later} if round_number > 1 else {})


STAGE = Stage(
    "generate",
    run,
    settings,
    lambda config, number: ["retrieve", labeller(number)],
    writes=("shard-*.parquet", TALLIES, "part-*/*", "replies/*"),
    works_with="engines",
    prepares="justify",
)


def _answer(
    context: Context,
    round_number: int,
    voters: Sequence[ResolvedCollaborator],
    shards: Shards,
    budget: Budget,
    along: Along | None = None,
) -> Counts:
    """Let the voters of one base model answer the shards that are missing; what all came to."""
    base = voters[0].base
    job = _job(context, round_number, tuple(voters))
    budget.spend(base, shards.total)
    context.progress.advance("generate", shards.total.rows)
    more = None
    if along is not None:
        budget.count(base, along.shards.total)
        more = along.work
    work = context.map(
        "generate", base, answer_and_more, shards.missing, job, more, enough=budget.is_spent
    )
    try:
        for target, answered, extra in work:
            shards.record(target, answered)
            budget.spend(base, answered)
            tokens = answered.tokens
            if extra is not None and along is not None:
                along.shards.record(*extra)
                budget.count(base, extra[1])
                tokens += extra[1].tokens
            context.progress.advance("generate", answered.rows, tokens)
    finally:
        shards.write_tally()
        if along is not None:
            along.shards.write_tally()
    budget.check(shards.missing)
    return shards.total


def _answer_in_parts(
    context: Context,
    round_number: int,
    pools: Sequence[Sequence[ResolvedCollaborator]],
    shards: Shards,
    budget: Budget,
) -> Counts:
    """Let each pool answer into a folder of its own, then join the parts into the shards."""
    folder = context.folder(layout.round_stage(round_number, "generate"))
    sources, total = context.shards("unlabeled"), Counts()
    parts = []
    for number, members in enumerate(pools):
        part = f"{folder}/part-{number}"
        answered = Shards(context.run, sources, part, responses=len(members))
        total += _answer(context, round_number, members, answered, budget)
        parts.append(part)
    order = [c.name for c in context.config.collaborators if c.name is not None]
    for source, target in shards.missing:
        names = [layout.same_shard(source, part) for part in parts]
        shards.record(target, _join_parts(context.run, names, target, order, sources[source]))
    return total


async def answer_and_more(
    engine: Engine,
    job: ShardJob,
    more: Callable[[Engine, str], Awaitable[tuple[str, Counts]]] | None,
    pair: tuple[str, str],
) -> tuple[str, Counts, tuple[str, Counts] | None]:
    """Answer a shard and, where this engine can, do a later stage's work on it at once.

    The next shard's prompts are in the engine meanwhile: it does not idle at the seam. Returns the
    shard with its counts, and the later stage's with its own.
    """
    source, _ = pair
    target, answered = await answer_shard(engine, job, pair)
    return target, answered, None if more is None else await more(engine, source)


def _job(
    context: Context, round_number: int, members: tuple[ResolvedCollaborator, ...]
) -> ShardJob:
    mined = context.config.iteration.mode == "mine"
    earlier = range(1, round_number) if mined else ()
    return ShardJob(
        context.run,
        context.task,
        members,
        context.config.seed + round_number - 1,
        context.config.generation.score_options and context.task.is_closed,
        tuple(context.shards("labeled")),
        context.neighbours("unlabeled"),
        tuple(context.folder(layout.round_stage(number, "select")) for number in earlier),
        turn_end=context.turn_end,
    )


def voters(context: Context, model_of: Callable[[str], ModelRef]) -> list[ResolvedCollaborator]:
    """The collaborators with their models, as `model_of` gives these by name."""
    found = []
    for collaborator in context.config.collaborators:
        model = model_of(collaborator.model)
        names = {field.name for field in fields(Sampling)} & Collaborator.model_fields.keys()
        chosen = {name: getattr(collaborator, name) for name in names}
        limit = response_tokens(context, model, context.config.generation.max_tokens)
        sampling = Sampling(max_tokens=limit, **chosen)
        assert collaborator.name is not None  # config names every one
        found.append(
            ResolvedCollaborator.of(
                collaborator.name, model, collaborator.shots, sampling, collaborator
            )
        )
    return found


def pools(asked: Sequence[ResolvedCollaborator]) -> list[list[ResolvedCollaborator]]:
    """The voters by the base model whose replicas host them."""
    found: dict[str, list[ResolvedCollaborator]] = {}
    for voter in asked:
        found.setdefault(voter.base.model_dump_json(), []).append(voter)
    return list(found.values())


def _join_parts(
    run: RunDirectory, parts: list[str], target: str, order: list[str], source_rows: int
) -> Counts:
    by_voter: dict[str, pa.Table] = {}
    for table in map(run.read_table, parts):
        names = table["collaborator"].to_pylist()
        for name in dict.fromkeys(names):
            by_voter[name] = take(table, [i for i, n in enumerate(names) if n == name])
    table = interleave([by_voter[name] for name in order]) if by_voter else table
    run.write_table(target, table)
    return count_responses(table, settled=source_rows - len(table) // len(order))


def _counts_of(run: RunDirectory, names: Mapping[str, Any], collaborators: set[str]) -> Counts:
    def each() -> Iterator[Counts]:
        for name in names:
            yield count_responses(of_collaborators(run.read_table(name, COUNTED), collaborators))

    return sum(each(), Counts())
