"""Score: how sure the warm model is of what the collaborators agree on (Eq. 6).

Entropies are compared with each other, so they have to be of one model under one prompt. What is
justified is the warm model's own answer; what is not may have been written by another model, or
behind demonstrations, and is scored here as if the warm model had written it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from semievol_ray.config import Config
from semievol_ray.engines import Batch, Engine, Sampling
from semievol_ray.schema import SCORE
from semievol_ray.selection import Groups
from semievol_ray.selection.policies import POLICIES
from semievol_ray.stages import justify
from semievol_ray.stages.answering import (
    ResolvedCollaborator,
    ShardJob,
    renderer_for,
    take,
)
from semievol_ray.stages.context import Context
from semievol_ray.stages.counts import Counts
from semievol_ray.stages.rendering import make_request
from semievol_ray.stages.shards import TALLIES, Shards
from semievol_ray.stages.stage import Outcome, Stage, answering_settings
from semievol_ray.store import layout
from semievol_ray.tasks import PromptRenderer
from semievol_ray.tokens import Tokens

_NAME = "score"
_WINNER = ["example_id", "answer", "answer_text", "tokens", "token_logprobs"]
_NOTHING_IS_WRITTEN = Sampling(0.0, 1.0, 1)


@dataclass(frozen=True)
class Scoring:
    """What a replica needs to score one shard after another."""

    job: ShardJob
    generated: str
    # The folder of the verdicts; null where nothing is justified.
    justified: str | None


def run(context: Context, round_number: int) -> Outcome:
    """Write shards in the SCORE schema: the agreed answers that were not justified."""
    warm = context.model("warm", round_number)
    voter = ResolvedCollaborator.of(_NAME, warm, 0, _NOTHING_IS_WRITTEN)
    job = ShardJob(context.run, context.task, (voter,), context.config.seed, score_options=False)
    verdicts = layout.round_stage(round_number, justify.STAGE.name)
    scoring = Scoring(
        job,
        context.folder(layout.round_stage(round_number, "generate")),
        context.folder(verdicts) if justify.STAGE.wanted(context.config) else None,
    )
    sources = context.shards("unlabeled")
    folder = context.folder(layout.round_stage(round_number, _NAME))
    shards = Shards(context.run, sources, folder, sparse=True)
    context.progress.start(_NAME, len(sources), "shards")
    context.progress.advance(_NAME, len(shards.done))
    for _ in shards.recording(context.map(_NAME, warm.base, score_shard, shards.missing, scoring)):
        context.progress.advance(_NAME, 1)
    return Outcome(shards.outputs(), {"scored_rows": shards.total.rows})


def wanted(config: Config) -> bool:
    """Whether entropies would be of several models or prompts without it."""
    alike = all(c.model == "warm" and c.shots == 0 for c in config.collaborators)
    by_entropy = POLICIES[config.selection.policy].ranks_by_entropy
    return by_entropy and config.justify.when != "always" and not alike


def _settings(config: Config, _: int) -> dict[str, Any]:
    return answering_settings(config)


STAGE = Stage(
    _NAME,
    run,
    _settings,
    lambda config, number: [
        layout.round_stage(number, name)
        for name in ("generate", *([justify.STAGE.name] if justify.STAGE.wanted(config) else ()))
    ],
    writes=("shard-*.parquet", TALLIES),
    works_with="engines",
    wanted=wanted,
)


async def score_shard(
    engine: Engine, scoring: Scoring, pair: tuple[str, str]
) -> tuple[str, Counts]:
    """Score one shard's agreed answers and commit the table."""
    source, target = pair
    job = scoring.job
    texts = _agreed(scoring, source)
    examples = job.run.read_table(source)
    kept = pc.indices_nonzero(pc.is_in(examples["example_id"], pa.array(list(texts), pa.string())))
    rows = take(examples, kept.to_pylist()).to_pylist()
    table = SCORE.empty_table()
    if rows:
        voter = job.voters[0]
        adapter = None if voter.adapter is None else job.run.localise(voter.adapter)
        renderer = renderer_for(engine, job.task, voter)
        requests = [make_request(renderer, job.task.messages(row), 0) for row in rows]
        said = [renderer.completion(texts[row["example_id"]]) for row in rows]
        batch = Batch(requests, candidates=[[text] for text in said], adapter=adapter)
        found = (await engine.answer(batch)).scores
        assert found is not None  # there are candidates
        columns = {
            "example_id": pa.array([row["example_id"] for row in rows], pa.string()),
            "answer_text": pa.array([texts[row["example_id"]] for row in rows], pa.string()),
            "tokens": pa.array(_counts(renderer, said), pa.int32()),
            "logprob": pa.array([None if s is None else s[0] for s in found.to_pylist()]).cast(
                pa.float64()
            ),
        }
        table = pa.table(columns, schema=SCORE)
    job.run.write_table(target, table)
    return target, Counts(rows=len(table))


def _agreed(scoring: Scoring, source: str) -> dict[str, str]:
    """The agreed answer of each example as it is written, but for what was justified."""
    run, task = scoring.job.run, scoring.job.task
    responses = run.read_table(layout.same_shard(source, scoring.generated), _WINNER)
    tolerance = task.relative_tolerance if task.kind == "numeric" else 0.0
    known = Groups(responses["example_id"]).examples(
        responses["answer"], responses["tokens"], responses["token_logprobs"], tolerance=tolerance
    )
    rows = known["winner_row"]
    texts = responses["answer_text"].combine_chunks().take(rows).to_pylist()
    agreed = dict(zip(known["example_id"].to_pylist(), texts, strict=True))
    settled: set[str] = set()
    if scoring.justified is not None:
        verdicts = run.read_table(layout.same_shard(source, scoring.justified), ["example_id"])
        settled = set(verdicts["example_id"].to_pylist())
    return {name: text for name, text in agreed.items() if text is not None and name not in settled}


def _counts(renderer: PromptRenderer, said: list[str]) -> list[int]:
    """Tokens of answers, their end left out; words where the engine has no tokenizer."""
    if renderer.tokenizer is None:
        return [max(len(text.split()), 1) for text in said]
    chat = [renderer.chat] * len(said)
    return [len(ids) for ids in Tokens(renderer.tokenizer).answers(said, chat)]
