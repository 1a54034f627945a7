"""Evaluate: vanilla, SFT and SemiEvol on the test set, greedy, with paired tests.

The three answer the same rows, so that each pair is compared by McNemar's exact test; the
predictions are kept, so that anyone can count again.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from semievol_ray.engines import Engine, Sampling, request_seed
from semievol_ray.schema import PREDICTION
from semievol_ray.stages.answering import (
    Counts,
    ShardJob,
    Voter,
    ask,
    count_responses,
    demonstrations_of,
    fit_request,
    respond,
)
from semievol_ray.stages.context import Context, ModelRef, Outcome
from semievol_ray.stages.statistics import mcnemar_exact, wilson_interval


def models(context: Context) -> dict[str, ModelRef]:
    """The models that are compared, by the names the report gives them."""
    last = context.config.iteration.rounds
    found = {"vanilla": ModelRef(context.base), "SFT": context.model("warm", 1)}
    for number in range(1, last + 1):
        name = "SemiEvol" if number == last else f"SemiEvol round {number}"
        found[name] = context.trained(
            f"round-{number}/evolve/model", context.config.training_for("evolve")
        )
    return found


def run(context: Context) -> Outcome:
    """Write `evaluate/<model>/shard-*.parquet` and `evaluate/metrics.json`."""
    compared = models(context)
    rows = context.ingested["rows"]["test"]
    context.progress.start("evaluate", rows * len(compared), "answers")
    outputs: dict[str, int] = {}
    tables: dict[str, pa.Table] = {}
    for name, model in compared.items():
        parts = predict(context, name, model)
        outputs |= {target: len(part) for target, part in parts.items()}
        tables[name] = pa.concat_tables(parts.values())
    metrics = compare(tables, context.config.evaluation.confidence)
    metrics["pseudo_answers"] = _pseudo_answer_accuracy(context)
    context.run.write_json("evaluate/metrics.json", metrics)
    outputs["evaluate/metrics.json"] = 1
    return Outcome(outputs, metrics)


def predict(context: Context, name: str, model: ModelRef) -> dict[str, pa.Table]:
    """A model's answers to the test set: PREDICTION tables by the shard they are kept in."""
    folder = f"evaluate/{name.replace(' ', '-')}"
    pairs = [(s, s.replace("data/test", folder, 1)) for s in context.shards("test")]
    job = _job(context, name, model)
    closed = context.config.evaluation.closed_answers == "score" and context.task.is_closed
    todo = list(context.missing(pairs))
    for counts in context.map("evaluate", model.base, evaluate_shard, todo, job, closed):
        context.progress.advance("evaluate", counts.rows, counts.tokens)
    return {target: context.run.read_table(target) for _, target in pairs}


async def evaluate_shard(
    engine: Engine, job: ShardJob, closed: bool, pair: tuple[str, str]
) -> Counts:
    """Answer one test shard greedily and commit its PREDICTION table.

    With `closed` the most probable option is the answer, and nothing is parsed.
    """
    source, target = pair
    voter, task = job.voters[0], job.task
    examples = job.run.read_table(source)
    rows = examples.to_pylist()
    requests = []
    for row, shown in zip(rows, demonstrations_of(job, source, rows), strict=True):
        seed = request_seed(job.seed, row["example_id"], voter.name)
        tokens = voter.sampling.max_tokens
        requests.append(fit_request(engine, task, row, shown[: voter.shots], seed, tokens)[0])
    generated, scores = await ask(engine, job, voter, rows, requests)
    responses = respond(task, examples, voter.name, requests, generated, scores)
    answers = responses["answer"].combine_chunks()
    if closed and scores is not None:
        best = [_argmax(row) for row in scores.to_pylist()]
        answers = pa.array(
            [
                None if index is None else task.candidates(row)[index]
                for index, row in zip(best, rows, strict=True)
            ],
            pa.string(),
        )
    gold = examples["answer"].combine_chunks()
    predictions = pa.table(
        {
            "example_id": responses["example_id"],
            "model": responses["collaborator"],
            "text": responses["text"],
            "answer": answers,
            "gold": gold,
            "correct": task.correct(answers, gold),
            "subject": examples["subject"],
            "option_logprobs": responses["option_logprobs"],
        },
        schema=PREDICTION,
    )
    job.run.write_table(target, predictions)
    return count_responses(responses)


def compare(tables: dict[str, pa.Table], confidence: float) -> dict[str, Any]:
    """Accuracies with intervals, by class and subject, and the paired test of each pair.

    Takes one PREDICTION table a model, all over the same rows in the same order.
    """
    metrics: dict[str, Any] = {"models": {}, "pairs": []}
    for name, table in tables.items():
        metrics["models"][name] = _accuracy(table, confidence) | {
            "unparsed": table["answer"].null_count,
            "per_class": _accuracy_by(table, "gold", confidence),
            "per_subject": _accuracy_by(table, "subject", confidence),
        }
    for first, second in itertools.combinations(tables, 2):
        right = [tables[name]["correct"].to_pylist() for name in (first, second)]
        only_first, only_second, p = mcnemar_exact(*right)
        metrics["pairs"].append(
            {
                "first": first,
                "second": second,
                "difference": (only_second - only_first) / len(right[0]),
                "only_first_right": only_first,
                "only_second_right": only_second,
                "mcnemar_p": p,
            }
        )
    return metrics


def _job(context: Context, name: str, model: ModelRef) -> ShardJob:
    evaluation = context.config.evaluation
    sampling = Sampling(0.0, 1.0, context.config.generation.max_tokens)
    return ShardJob(
        context.run,
        context.task,
        (Voter(name, model.base, model.adapter, evaluation.shots, sampling),),
        context.config.seed,
        score_options=evaluation.closed_answers == "score" and context.task.is_closed,
        labeled_shards=tuple(context.shards("labeled")),
        demonstrations=evaluation.shots > 0,
    )


def _accuracy(table: pa.Table, confidence: float) -> dict[str, Any]:
    rows, correct = len(table), pc.sum(table["correct"]).as_py() or 0
    low, high = wilson_interval(correct, rows, confidence)
    return {"accuracy": correct / rows, "low": low, "high": high, "correct": correct, "rows": rows}


def _accuracy_by(table: pa.Table, column: str, confidence: float) -> dict[str, Any]:
    """Accuracy for each value of a column; nothing where there are too many to be read."""
    values = [v for v in pc.unique(table[column]).to_pylist() if v is not None]
    if len(values) > 100:
        return {}
    return {
        value: _accuracy(table.filter(pc.field(column) == value), confidence)
        for value in sorted(values)
    }


def _pseudo_answer_accuracy(context: Context) -> list[dict[str, Any]] | None:
    """How many pseudo-answers were right, where the user's file had the answers withheld."""
    manifest = context.ledger.get("ingest")
    assert manifest is not None
    withheld = sorted(n for n in manifest.outputs if n.startswith("data/withheld/"))
    if not withheld:
        return None
    found = []
    for number in range(1, context.config.iteration.rounds + 1):
        counts = {"round": number, "rows": 0, "correct": 0, "selected": 0, "selected_correct": 0}
        for name in withheld:
            gold = context.run.read_table(name)
            selection = context.run.read_table(
                name.replace("data/withheld", f"round-{number}/select", 1),
                ["example_id", "pseudo_answer", "selected"],
            )
            joined = selection.join(gold, "example_id", join_type="inner")
            right = context.task.correct(
                joined["pseudo_answer"].combine_chunks(), joined["answer"].combine_chunks()
            )
            kept = joined["selected"].combine_chunks()
            counts["rows"] += len(joined)
            counts["correct"] += pc.sum(right).as_py() or 0
            counts["selected"] += pc.sum(kept).as_py() or 0
            counts["selected_correct"] += pc.sum(pc.and_(right, kept)).as_py() or 0
        found.append(counts)
    return found


def _argmax(row: Sequence[float] | None) -> int | None:
    return None if not row else max(range(len(row)), key=row.__getitem__)
