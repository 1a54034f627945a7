"""Justify: the warm model is shown the collaborators' answers and gives the final one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from semievol_ray.config import ModelConfig
from semievol_ray.engines import Engine, Sampling, request_seed
from semievol_ray.stages.answering import (
    Counts,
    ShardJob,
    Voter,
    answer_shard,
    committed_counts,
    count_responses,
    make_request,
    respond,
)
from semievol_ray.stages.budget import Budget
from semievol_ray.stages.context import Context, Outcome

COLLABORATOR = "justify"


@dataclass(frozen=True)
class Justification:
    """What a replica needs to justify one shard after another."""

    job: ShardJob
    generated: str
    folder: str
    only_disagreement: bool

    @property
    def base(self) -> ModelConfig:
        """The base of the model that decides."""
        return self.job.voters[0].base

    def target(self, source: str) -> str:
        """The table of a shard of the unlabelled set."""
        return source.replace("data/unlabeled", self.folder, 1)

    def counts_so_far(self, context: Context) -> Counts:
        """What the shards that are justified already came to."""
        return committed_counts(context.run, context.run.files(self.folder, ".parquet"))


def plan(context: Context, round_number: int) -> Justification:
    """How a round's responses are justified."""
    config = context.config
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
    folder = f"round-{round_number}"
    return Justification(
        job,
        f"{folder}/generate",
        f"{folder}/justify",
        config.justify.when == "disagreement",
    )


def run(context: Context, round_number: int) -> Outcome:
    """Write `round-<n>/justify/shard-*.parquet`: one RESPONSE row for each justified example.

    Where the replicas of generate hosted the warm model they have done most of it already.
    """
    planned = plan(context, round_number)
    budget = Budget(context)
    pairs = [(source, planned.target(source)) for source in context.shards("unlabeled")]
    todo = list(context.missing(pairs))
    statistics = planned.counts_so_far(context)
    context.progress.start("justify", len(pairs), "shards")
    context.progress.advance("justify", len(pairs) - len(todo))
    budget.spend(planned.base, statistics)
    work = context.map(
        "justify", planned.base, justify_shard, todo, planned, enough=budget.is_spent
    )
    for counts in work:
        statistics += counts
        budget.spend(planned.base, counts)
        context.progress.advance("justify", 1, counts.tokens)
    budget.check(context.missing(todo))
    if context.config.selection.percentile_over == "labeled":
        pairs += _answer_labeled(context, planned)
    outputs = {target: context.run.row_count(target) or 0 for _, target in pairs}
    return Outcome(outputs, statistics.as_dict() | budget.spent_here)


def _answer_labeled(context: Context, planned: Justification) -> list[tuple[str, str]]:
    """The warm model's own responses to the labelled set, for a threshold that is taken there."""
    names = context.shards("labeled")
    pairs = [(name, name.replace("data/labeled", f"{planned.folder}/labeled", 1)) for name in names]
    todo = list(context.missing(pairs))
    for _ in context.map("justify", planned.base, answer_shard, todo, planned.job):
        pass
    return pairs


async def justify_shard(engine: Engine, planned: Justification, pair: tuple[str, str]) -> Counts:
    """Justify one shard and commit the table; examples without a proposal are left out."""
    source, target = pair
    job = planned.job
    voter = job.voters[0]
    examples = job.run.read_table(source)
    proposals = _proposals(job, source.replace("data/unlabeled", planned.generated, 1))
    rows = examples.to_pylist()
    kept = [
        index
        for index, row in enumerate(rows)
        if _is_open(proposals.get(row["example_id"], ()), planned.only_disagreement)
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
