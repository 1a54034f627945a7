"""Justify: the warm model is shown the collaborators' answers and gives the final one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from semievol_ray.config import Config, ModelConfig
from semievol_ray.engines import Engine, Sampling, request_seed
from semievol_ray.engines.paid_replies import keeping_paid_replies
from semievol_ray.stages.along import Along
from semievol_ray.stages.answering import (
    ResolvedCollaborator,
    ShardJob,
    answer_shard,
    ask,
    renderer_for,
    respond,
    take,
)
from semievol_ray.stages.budget import Budget
from semievol_ray.stages.context import Context
from semievol_ray.stages.counts import Counts, count_responses, tell_cut_off, tell_lost
from semievol_ray.stages.limits import response_tokens
from semievol_ray.stages.rendering import make_request
from semievol_ray.stages.shards import TALLIES, Shards
from semievol_ray.stages.stage import Outcome, Stage, answering_settings
from semievol_ray.store import layout
from semievol_ray.touches import of_result

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

    def pair(self, source: str) -> tuple[str, str]:
        """A shard of the unlabelled set, and where its verdicts go."""
        return source, layout.same_shard(source, self.folder)

    def shards(self, context: Context) -> Shards:
        """The verdicts that are there."""
        sources = context.shards("unlabeled")
        return Shards(context.run, sources, self.folder, responses=1, sparse=True)


def plan(context: Context, round_number: int) -> Justification:
    """How a round's responses are justified."""
    config = context.config
    warm = context.model("warm", round_number)
    limit = response_tokens(context, warm, config.justify.max_tokens)
    sampling = Sampling(config.justify.temperature, 1.0, limit)
    job = ShardJob(
        context.run,
        context.task,
        (ResolvedCollaborator.of(COLLABORATOR, warm, 0, sampling),),
        config.seed + round_number - 1,
        score_options=False,
    )
    return Justification(
        job,
        context.folder(layout.round_stage(round_number, "generate")),
        context.folder(layout.round_stage(round_number, "justify")),
        config.justify.when == "disagreement",
    )


def run(context: Context, round_number: int) -> Outcome:
    """Write the verdicts: in each shard one RESPONSE row for each justified example.

    Where the replicas of generate hosted the warm model they have done most of it already.
    """
    planned = plan(context, round_number)
    budget = Budget(context)
    shards = planned.shards(context)
    context.progress.start("justify", len(context.shards("unlabeled")), "shards")
    context.progress.advance("justify", len(shards.done))
    budget.spend(planned.base, shards.total)
    work = context.map(
        "justify", planned.base, justify_shard, shards.missing, planned, enough=budget.is_spent
    )
    for counts in shards.recording(work):
        budget.spend(planned.base, counts)
        context.progress.advance("justify", 1, counts.tokens)
    budget.check(shards.missing)
    total, outputs = shards.total, shards.outputs()
    tell_cut_off(context.progress, "justify", total, "justify.max_tokens")
    tell_lost(context.progress, "justify", total)
    if context.config.selection.percentile_over == "labeled":
        outputs |= _answer_labeled(context, planned)
    return Outcome(outputs, total.as_dict() | budget.spent_here)


def along(context: Context, round_number: int) -> Along:
    """How replicas that host the warm model justify what they have just answered."""
    planned = plan(context, round_number)
    return Along(planned.base, planned.shards(context), partial(_justify, planned))


async def _justify(planned: Justification, engine: Engine, source: str) -> tuple[str, Counts]:
    return await justify_shard(engine, planned, planned.pair(source))


def _settings(config: Config, _: int) -> dict[str, Any]:
    also = {"labeled": config.selection.percentile_over == "labeled"}
    asked = {"justify": of_result(config.justify) | also}
    return answering_settings(config) | asked


STAGE = Stage(
    "justify",
    run,
    _settings,
    lambda config, number: [layout.round_stage(number, "generate")],
    writes=("shard-*.parquet", TALLIES, "labeled/*", "replies/*"),
    works_with="engines",
    wanted=lambda config: config.justify.when != "never",
    along=along,
)


def _answer_labeled(context: Context, planned: Justification) -> dict[str, int]:
    """The warm model's own responses to the labelled set, for a threshold that is taken there."""
    folder = f"{planned.folder}/labeled"
    shards = Shards(context.run, context.shards("labeled"), folder, responses=1)
    work = context.map("justify", planned.base, answer_shard, shards.missing, planned.job)
    for _ in shards.recording(work):
        pass
    tell_lost(context.progress, "justify", shards.total, "the labelled set")
    return shards.outputs()


async def justify_shard(
    engine: Engine, planned: Justification, pair: tuple[str, str]
) -> tuple[str, Counts]:
    """Justify one shard and commit the table; examples without a proposal are left out."""
    source, target = pair
    job = planned.job
    voter = job.voters[0]
    examples = job.run.read_table(source)
    proposals = _proposals(job, layout.same_shard(source, planned.generated))
    rows = examples.to_pylist()
    kept = [
        index
        for index, row in enumerate(rows)
        if _is_open(proposals.get(row["example_id"], ()), planned.only_disagreement)
    ]
    renderer = renderer_for(engine, job.task, voter)
    requests = [
        make_request(
            renderer,
            job.task.justify_messages(rows[i], [p.text for p in proposals[rows[i]["example_id"]]]),
            request_seed(job.seed, rows[i]["example_id"], COLLABORATOR),
        )
        for i in kept
    ]
    with keeping_paid_replies(engine, job.run, target) as asked:
        written, _ = await ask(asked, job, voter, [rows[i] for i in kept], requests)
        table = respond(job.task, take(examples, kept), COLLABORATOR, requests, written, None)
        job.run.write_table(target, table)
    return target, count_responses(table)


class Proposal(NamedTuple):
    """What a collaborator answered: as votes are counted, and as it is written."""

    answer: str
    text: str


def _proposals(job: ShardJob, generated: str) -> dict[str, list[Proposal]]:
    """The parsed answers of each example, in the order of the collaborators."""
    table = job.run.read_table(generated, ["example_id", "answer", "answer_text"])
    found: dict[str, list[Proposal]] = {}
    for row in table.to_pylist():
        if row["answer"] is not None:
            proposal = Proposal(row["answer"], row["answer_text"])
            found.setdefault(row["example_id"], []).append(proposal)
    return found


def _is_open(proposals: Sequence[Proposal], only_disagreement: bool) -> bool:
    different = {proposal.answer for proposal in proposals}
    return len(different) > 1 if only_disagreement else bool(different)
