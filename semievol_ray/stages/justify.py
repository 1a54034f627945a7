"""Justify: the warm model is shown the collaborators' answers and gives the final one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from semievol_ray.engines import Engine, Sampling, request_seed
from semievol_ray.stages.answering import (
    Counts,
    ShardJob,
    Voter,
    count_responses,
    generate_shard,
    make_request,
    respond,
)
from semievol_ray.stages.context import Context, Outcome

COLLABORATOR = "justify"


def run(context: Context, round_number: int) -> Outcome:
    """Write `round-<n>/justify/shard-*.parquet`: one RESPONSE row for each justified example."""
    config = context.config
    folder = f"round-{round_number}/justify"
    warm = context.model("warm", round_number)
    sampling = Sampling(config.justify.temperature, 1.0, config.generation.max_tokens)
    job = ShardJob(
        context.run,
        context.task,
        (Voter(COLLABORATOR, warm.base, warm.adapter, 0, sampling),),
        config.seed + round_number - 1,
        score_options=False,
        labeled_shards=(),
        demonstrations=False,
    )
    pairs = [(s, s.replace("data/unlabeled", folder, 1)) for s in context.shards("unlabeled")]
    context.progress.start("justify", len(pairs), "shards")
    todo = list(context.missing(pairs))
    context.progress.advance("justify", len(pairs) - len(todo))
    statistics = Counts()
    only_disagreement = config.justify.when == "disagreement"
    work = context.pool(warm.base).map(
        justify_shard, todo, job, f"round-{round_number}/generate", only_disagreement
    )
    for counts in work:
        statistics += counts
        context.progress.advance("justify", 1, counts.tokens)
    if config.selection.percentile_over == "labeled":
        pairs += _answer_labeled(context, job, folder)
    outputs = {target: context.run.row_count(target) or 0 for _, target in pairs}
    return Outcome(outputs, statistics.as_dict())


def _answer_labeled(context: Context, job: ShardJob, folder: str) -> list[tuple[str, str]]:
    """The warm model's own responses to the labelled set, for a threshold that is taken there."""
    names = context.shards("labeled")
    pairs = [(name, name.replace("data/labeled", f"{folder}/labeled", 1)) for name in names]
    pool = context.pool(job.voters[0].base)
    for _ in pool.map(generate_shard, list(context.missing(pairs)), job):
        pass
    return pairs


async def justify_shard(
    engine: Engine,
    job: ShardJob,
    generated_folder: str,
    only_disagreement: bool,
    pair: tuple[str, str],
) -> Counts:
    """Justify one shard and commit the table; examples without a proposal are left out."""
    source, target = pair
    voter = job.voters[0]
    examples = job.run.read_table(source)
    proposals = _proposals(job, source.replace("data/unlabeled", generated_folder, 1))
    rows = examples.to_pylist()
    kept = [
        index
        for index, row in enumerate(rows)
        if _is_open(proposals.get(row["example_id"], ()), only_disagreement)
    ]
    requests = [
        make_request(
            engine,
            job.task,
            job.task.justify_messages(rows[i], proposals[rows[i]["example_id"]]),
            request_seed(job.seed, rows[i]["example_id"], COLLABORATOR),
        )
        for i in kept
    ]
    written = await engine.generate(requests, voter.sampling, voter.adapter)
    table = respond(job.task, examples.take(kept), COLLABORATOR, requests, written, None)
    job.run.write_table(target, table)
    return count_responses(table)


def _proposals(job: ShardJob, generated: str) -> dict[str, list[str]]:
    """The parsed answers of each example, in the order of the collaborators."""
    table = job.run.read_table(generated, ["example_id", "answer"])
    found: dict[str, list[str]] = {}
    for row in table.to_pylist():
        if row["answer"] is not None:
            found.setdefault(row["example_id"], []).append(row["answer"])
    return found


def _is_open(proposals: Sequence[Any], only_disagreement: bool) -> bool:
    return len(set(proposals)) > 1 if only_disagreement else bool(proposals)
