"""Generate: every collaborator answers every unlabelled example."""

from __future__ import annotations

import pyarrow as pa

from semievol_ray.engines import Sampling
from semievol_ray.stages.answering import Counts, ShardJob, Voter, generate_shard, interleave
from semievol_ray.stages.context import Context, Outcome
from semievol_ray.store import RunDirectory


def run(context: Context, round_number: int) -> Outcome:
    """Write `round-<n>/generate/shard-*.parquet` in the RESPONSE schema.

    With several base models each pool first writes parts of its own, which are then joined in
    the order of the collaborators.
    """
    folder = f"round-{round_number}/generate"
    voters = _voters(context, round_number)
    pools: dict[str, list[Voter]] = {}
    for voter in voters:
        pools.setdefault(voter.base.model_dump_json(), []).append(voter)
    sources = context.shards("unlabeled")
    statistics = Counts()
    finals = [(s, s.replace("data/unlabeled", folder, 1)) for s in sources]
    todo = list(context.missing(finals))
    rows = context.ingested["rows"]["unlabeled"] * len(voters)
    context.progress.start("generate", rows, "responses")
    parts: list[str] = []
    for number, members in enumerate(pools.values()):
        target = folder if len(pools) == 1 else f"{folder}/part-{number}"
        parts.append(target)
        job = ShardJob(
            context.run,
            context.task,
            tuple(members),
            context.config.seed + round_number - 1,
            context.config.generation.score_options and context.task.is_closed,
            tuple(context.shards("labeled")),
            context.config.retrieval.k > 0,
            _earlier_selections(context, round_number),
        )
        pairs = list(context.missing((s, s.replace("data/unlabeled", target, 1)) for s, _ in todo))
        for counts in context.pool(members[0].base).map(generate_shard, pairs, job):
            statistics += counts
            context.progress.advance("generate", counts.rows, counts.tokens)
    if len(pools) > 1:
        order = [voter.name for voter in voters]
        for source, final in todo:
            names = [source.replace("data/unlabeled", part, 1) for part in parts]
            _join_parts(context.run, names, final, order)
        for part in parts:
            context.run.delete(part)
    outputs = {final: context.run.row_count(final) or 0 for _, final in finals}
    return Outcome(outputs, statistics.as_dict() | {"collaborators": [v.name for v in voters]})


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
