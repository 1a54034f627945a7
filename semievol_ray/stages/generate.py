"""Generate: every collaborator answers every unlabelled example."""

from __future__ import annotations

import pyarrow as pa

from semievol_ray.engines import Engine, Sampling
from semievol_ray.stages import justify
from semievol_ray.stages.answering import (
    Counts,
    ShardJob,
    Voter,
    answer_shard,
    committed_counts,
    interleave,
)
from semievol_ray.stages.budget import Budget
from semievol_ray.stages.context import Context, Outcome
from semievol_ray.stages.justify import Justification
from semievol_ray.store import RunDirectory


def run(context: Context, round_number: int) -> Outcome:
    """Write `round-<n>/generate/shard-*.parquet` in the RESPONSE schema.

    With one base model its replicas justify a shard as soon as it is answered. With several, each
    pool first writes parts of its own, which are then joined in the order of the collaborators.
    """
    folder = f"round-{round_number}/generate"
    voters = _voters(context, round_number)
    pools: dict[str, list[Voter]] = {}
    for voter in voters:
        pools.setdefault(voter.base.model_dump_json(), []).append(voter)
    finals = [(s, s.replace("data/unlabeled", folder, 1)) for s in context.shards("unlabeled")]
    todo = list(context.missing(finals))
    there = {target for _, target in finals} - {target for _, target in todo}
    statistics, budget = Counts(), Budget(context)
    rows = context.ingested["rows"]["unlabeled"] * len(voters)
    context.progress.start("generate", rows, "responses")
    parts: list[str] = []
    for number, members in enumerate(pools.values()):
        base = members[0].base
        target = folder if len(pools) == 1 else f"{folder}/part-{number}"
        parts.append(target)
        planned = _justification(context, round_number) if len(pools) == 1 else None
        job = _job(context, round_number, members)
        pairs = [(s, s.replace("data/unlabeled", target, 1)) for s, _ in todo]
        left = list(context.missing(pairs))
        begun = {target for _, target in pairs} - {target for _, target in left}
        before = committed_counts(context.run, there | begun, {v.name for v in members})
        statistics += before
        budget.spend(base, before)
        if planned is not None:
            budget.spend(base, planned.counts_so_far(context), by_this_stage=False)
        context.progress.advance("generate", before.rows)
        work = context.map(
            "generate", base, answer_and_justify, left, job, planned, enough=budget.is_spent
        )
        for answered, justified in work:
            statistics += answered
            budget.spend(base, answered)
            budget.spend(base, justified, by_this_stage=False)
            context.progress.advance("generate", answered.rows, answered.tokens + justified.tokens)
        budget.check(context.missing(left))
    if len(pools) > 1:
        order = [voter.name for voter in voters]
        for source, final in todo:
            names = [source.replace("data/unlabeled", part, 1) for part in parts]
            _join_parts(context.run, names, final, order)
        for part in parts:
            context.run.delete(part)
    outputs = {final: context.run.row_count(final) or 0 for _, final in finals}
    who = {"collaborators": [v.name for v in voters]}
    return Outcome(outputs, who | statistics.as_dict() | budget.spent_here)


async def answer_and_justify(
    engine: Engine, job: ShardJob, planned: Justification | None, pair: tuple[str, str]
) -> tuple[Counts, Counts]:
    """Answer a shard and, where this engine is the one that justifies, justify it at once.

    The next shard's prompts are in the engine meanwhile: it does not idle at the seam.
    """
    answered = await answer_shard(engine, job, pair)
    if planned is None:
        return answered, Counts()
    source, _ = pair
    return answered, await justify.justify_shard(engine, planned, (source, planned.target(source)))


def _justification(context: Context, round_number: int) -> Justification | None:
    """How this round's shards are justified, where the replicas that answer can do it."""
    if context.config.justify.when == "never":
        return None
    planned = justify.plan(context, round_number)
    only = {voter.base.model_dump_json() for voter in _voters(context, round_number)}
    return planned if only == {planned.base.model_dump_json()} else None


def _job(context: Context, round_number: int, members: list[Voter]) -> ShardJob:
    return ShardJob(
        context.run,
        context.task,
        tuple(members),
        context.config.seed + round_number - 1,
        context.config.generation.score_options and context.task.is_closed,
        tuple(context.shards("labeled")),
        context.config.retrieval.k > 0,
        _earlier_selections(context, round_number),
    )


def _voters(context: Context, round_number: int) -> list[Voter]:
    voters = []
    for collaborator in context.config.collaborators:
        model = context.model(collaborator.model, round_number)
        sampling = Sampling(
            collaborator.temperature, collaborator.top_p, context.config.generation.max_tokens
        )
        assert collaborator.name is not None  # config names every one
        voters.append(
            Voter(collaborator.name, model.base, model.adapter, collaborator.shots, sampling)
        )
    return voters


def _earlier_selections(context: Context, round_number: int) -> tuple[str, ...]:
    if context.config.iteration.mode != "mine":
        return ()
    return tuple(f"round-{number}/select" for number in range(1, round_number))


def _join_parts(run: RunDirectory, parts: list[str], final: str, order: list[str]) -> None:
    tables = [run.read_table(part) for part in parts]
    by_voter: dict[str, pa.Table] = {}
    for table in tables:
        names = table["collaborator"].to_pylist()
        for name in dict.fromkeys(names):
            rows = [i for i, n in enumerate(names) if n == name]
            by_voter[name] = table.take(rows)
    run.write_table(final, interleave([by_voter[name] for name in order]))
