"""What a model answers to examples whose answers are known: PREDICTION tables, shard by shard."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pyarrow as pa

from semievol_ray.engines import Batch, Engine, Sampling, request_seed
from semievol_ray.engines.paid_replies import keeping_paid_replies
from semievol_ray.schema import PREDICTION
from semievol_ray.stages.answering import (
    ResolvedCollaborator,
    ShardJob,
    ask,
    demonstrations_of,
    ending_its_turn,
    fit_request,
    renderer_for,
    respond,
    with_questions,
)
from semievol_ray.stages.content_free import without_their_priors
from semievol_ray.stages.context import Context
from semievol_ray.stages.counts import (
    Counts,
    count_responses,
    tell_cut_off,
    tell_dropped,
    tell_lost,
)
from semievol_ray.stages.limits import response_tokens
from semievol_ray.stages.rendering import scored
from semievol_ray.stages.run_view import ModelRef
from semievol_ray.stages.shards import Shards
from semievol_ray.tasks import Task

# What ends a response, where the model does not.
_LIMITS = "evaluation.max_tokens, or model.max_model_len where a prompt leaves it less"


def folder_of(model: str) -> str:
    """Where a compared model's predictions lie, within a stage's folder."""
    return model.replace(", ", "-").replace(" ", "-")


def predict_test(
    context: Context, stage: str, name: str, model: ModelRef, folder: str
) -> dict[str, pa.Table]:
    """A model's answers to the test set: PREDICTION tables by the shard they are kept in."""
    neighbours = context.neighbours("test") if context.config.evaluation.shots else None
    target = f"{folder}/{folder_of(name)}"
    return predict(context, stage, name, model, context.shards("test"), neighbours, target)


def predict(
    context: Context,
    stage: str,
    name: str,
    model: ModelRef,
    sources: Mapping[str, int],
    neighbours: str | None,
    folder: str,
) -> dict[str, pa.Table]:
    """A model's answers to example shards (`sources`, with their rows), asked as `evaluation` says.

    PREDICTION tables by the shard of `folder` they are kept in. `neighbours` is the folder of the
    examples' demonstrations, `stage` whose progress it is.
    """
    job = _job(context, name, model, neighbours)
    closed = context.config.evaluation.closed_answers != "generate" and context.task.is_closed
    shards = Shards(context.run, sources, folder)
    context.progress.advance(stage, shards.total.rows)
    work = context.map(stage, model.base, predict_shard, shards.missing, job, closed)
    for counts in shards.recording(work):
        context.progress.advance(stage, counts.rows, counts.tokens)
    tell_cut_off(context.progress, f"{stage} {name}", shards.total, _LIMITS)
    tell_lost(context.progress, f"{stage} {name}", shards.total)
    tell_dropped(context.progress, f"{stage} {name}", shards.total)
    return {target: context.run.read_table(target) for target in shards.outputs()}


async def predict_shard(
    engine: Engine, job: ShardJob, closed: bool, pair: tuple[str, str]
) -> tuple[str, Counts]:
    """Answer one shard and commit its PREDICTION table.

    With `closed` the most probable option is the answer: nothing is written, and nothing parsed.
    """
    source, target = pair
    voter, task = job.voters[0], job.task
    closed = closed or voter.base.is_classifier
    examples = job.run.read_table(source)
    rows = examples.to_pylist()
    requests = []
    near = [shown[: voter.shots] for shown in demonstrations_of(job, source, rows)]
    dropped = 0
    # The options follow a bare prompt: behind one that asks for a thought there is none yet.
    renderer = renderer_for(engine, task, replace(voter, thinks=voter.thinks and not closed))
    for row, shown in zip(rows, near, strict=True):
        seed = request_seed(job.seed, row["example_id"], voter.name)
        request, shots = fit_request(engine, renderer, task, row, shown, seed, voter.sampling)
        dropped += len(shown) - shots
        requests.append(request)
    voter = ending_its_turn(job, voter, renderer)
    requests = with_questions(requests, task, voter.base, examples)
    with keeping_paid_replies(engine, job.run, target) as asked:
        if closed:
            adapter = None if voter.adapter is None else job.run.localise(voter.adapter)
            batch = Batch(requests, adapter=adapter)
            batch = scored(batch, renderer, task, rows, exactly=voter.pmi)
            scores = (await asked.answer(batch)).scores
            assert scores is not None  # there are candidates
            if voter.pmi and not voter.base.is_classifier:
                scores = await without_their_priors(asked, renderer, task, rows, scores, adapter)
            best = zip(map(_argmax, scores.to_pylist()), rows, strict=True)
            names = [None if index is None else task.candidates(row)[index] for index, row in best]
            texts, answers = pa.nulls(len(rows), pa.string()), pa.array(names, pa.string())
            counts = Counts(
                rows=len(rows), unparsed=answers.null_count, dropped_demonstrations=dropped
            )
        else:
            generated, scores = await ask(asked, job, voter, rows, requests)
            responses = respond(task, examples, voter.name, requests, generated, scores)
            texts, answers = responses["text"], responses["answer"].combine_chunks()
            counts = count_responses(responses, dropped)
        table = _predictions(task, examples, voter.name, texts, answers, scores)
        job.run.write_table(target, table)
    return target, counts


def _predictions(
    task: Task,
    examples: pa.Table,
    model: str,
    texts: pa.Array | pa.ChunkedArray,
    answers: pa.Array,
    scores: pa.Array | None,
) -> pa.Table:
    """The PREDICTION table of a model's answers."""
    gold = examples["answer"].combine_chunks()
    nothing = pa.nulls(len(examples), PREDICTION.field("option_logprobs").type)
    return pa.table(
        {
            "example_id": examples["example_id"],
            "model": pa.array([model] * len(examples), pa.string()),
            "text": texts,
            "answer": answers,
            "gold": gold,
            "correct": task.correct(answers, gold),
            "subject": examples["subject"],
            "option_logprobs": nothing if scores is None else scores,
        },
        schema=PREDICTION,
    )


def _job(context: Context, name: str, model: ModelRef, neighbours: str | None) -> ShardJob:
    evaluation = context.config.evaluation
    least = min(evaluation.max_tokens, response_tokens(context, model, "auto"))
    sampling = Sampling(
        evaluation.temperature, 1.0, evaluation.max_tokens, least_tokens=least
    )  # fmt: skip
    voter = ResolvedCollaborator.of(name, model, evaluation.shots, sampling)
    return ShardJob(
        context.run,
        context.task,
        (replace(voter, pmi=evaluation.closed_answers == "pmi"),),
        context.config.seed,
        score_options=False,
        labeled_shards=tuple(context.shards("labeled")),
        neighbours=neighbours if evaluation.shots else None,
        turn_end=context.turn_end,
    )


def _argmax(row: Sequence[float] | None) -> int | None:
    """The most probable option; null where the engine can tell of none."""
    if not row or max(row) == -math.inf:
        return None
    return max(range(len(row)), key=row.__getitem__)
