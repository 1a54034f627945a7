"""Evaluate: vanilla, SFT and SemiEvol on the test set, with paired tests.

The three answer the same rows, so that each pair is compared by McNemar's exact test; the
predictions are kept, so that anyone can count again.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from semievol_ray.config import Config
from semievol_ray.engines import Batch, Engine, Sampling, request_seed
from semievol_ray.engines.paid_replies import keeping_paid_replies
from semievol_ray.schema import PREDICTION
from semievol_ray.stages.answering import (
    ResolvedCollaborator,
    ShardJob,
    ask,
    demonstrations_of,
    fit_request,
    renderer_for,
    respond,
    scored,
)
from semievol_ray.stages.context import Context
from semievol_ray.stages.counts import Counts, count_responses, tell_cut_off
from semievol_ray.stages.run_view import ModelRef, labeller
from semievol_ray.stages.shards import TALLIES, Shards
from semievol_ray.stages.stage import Outcome, Stage, answering_settings
from semievol_ray.stages.statistics import mcnemar_exact, wilson_interval
from semievol_ray.store import layout
from semievol_ray.tasks import Task, convfinqa_correct
from semievol_ray.touches import of_result

METRICS = "metrics.json"


def models(context: Context, round_number: int) -> dict[str, ModelRef]:
    """The models that are compared, by the names the report gives them."""
    found = {"vanilla": ModelRef(context.base), "SFT": context.model("warm", 1)}
    for number in range(1, round_number + 1):
        name = "SemiEvol" if number == round_number else f"SemiEvol round {number}"
        found[name] = context.trained(layout.round_stage(number, "evolve"))
    return found


def run(context: Context, round_number: int) -> Outcome:
    """Write `<model>/shard-*.parquet` and `metrics.json` in the stage's folder."""
    folder = context.folder(layout.round_stage(round_number, "evaluate"))
    compared = models(context, round_number)
    rows = context.ingested.rows["test"]
    context.progress.start("evaluate", rows * len(compared), "answers")
    outputs: dict[str, int] = {}
    tables: dict[str, pa.Table] = {}
    for name, model in compared.items():
        parts = predict(context, name, model, f"{folder}/{folder_of(name)}")
        outputs |= {target: len(part) for target, part in parts.items()}
        tables[name] = pa.concat_tables(parts.values())
    metrics = compare(tables, context.config.evaluation.confidence)
    if context.config.task.preset == "convfinqa":
        for name, table in tables.items():
            metrics["models"][name]["as_the_authors"] = _as_the_authors(table)
    metrics["pseudo_answers"] = _pseudo_answer_accuracy(context, round_number)
    context.run.write_json(f"{folder}/{METRICS}", metrics)
    return Outcome(outputs, metrics, (f"{folder}/{METRICS}",))


def _settings(config: Config, _: int) -> dict[str, Any]:
    return answering_settings(config) | {"evaluation": of_result(config.evaluation)}


# Known by the last round it looks at: with another round it is another comparison, and both stand.
STAGE = Stage(
    "evaluate",
    run,
    _settings,
    lambda config, number: ["warmup", "retrieve", labeller(number + 1)],
    writes=("*/shard-*.parquet", f"*/{TALLIES}", "*/replies/*", METRICS),
    works_with="engines",
    wanted=lambda config: config.data.test is not None,
)


def folder_of(model: str) -> str:
    """Where a compared model's predictions lie, within the stage's folder."""
    return model.replace(" ", "-")


def predict(context: Context, name: str, model: ModelRef, folder: str) -> dict[str, pa.Table]:
    """A model's answers to the test set: PREDICTION tables by the shard they are kept in."""
    job = _job(context, name, model)
    closed = context.config.evaluation.closed_answers == "score" and context.task.is_closed
    shards = Shards(context.run, context.shards("test"), folder)
    context.progress.advance("evaluate", shards.total.rows)
    work = context.map("evaluate", model.base, evaluate_shard, shards.missing, job, closed)
    for counts in shards.recording(work):
        context.progress.advance("evaluate", counts.rows, counts.tokens)
    tell_cut_off(context.progress, f"evaluate {name}", shards.total, "evaluation.max_tokens")
    return {target: context.run.read_table(target) for target in shards.outputs()}


async def evaluate_shard(
    engine: Engine, job: ShardJob, closed: bool, pair: tuple[str, str]
) -> tuple[str, Counts]:
    """Answer one test shard and commit its PREDICTION table.

    With `closed` the most probable option is the answer: nothing is written, and nothing parsed.
    """
    source, target = pair
    voter, task = job.voters[0], job.task
    examples = job.run.read_table(source)
    rows = examples.to_pylist()
    requests = []
    # The options follow a bare prompt: behind one that asks for a thought there is none yet.
    renderer = renderer_for(engine, task, replace(voter, thinks=voter.thinks and not closed))
    for row, shown in zip(rows, demonstrations_of(job, source, rows), strict=True):
        seed = request_seed(job.seed, row["example_id"], voter.name)
        near = shown[: voter.shots]
        request, _ = fit_request(engine, renderer, task, row, near, seed, voter.sampling)
        requests.append(request)
    with keeping_paid_replies(engine, job.run, target) as asked:
        if closed:
            adapter = None if voter.adapter is None else job.run.localise(voter.adapter)
            batch = scored(Batch(requests, adapter=adapter), renderer, task, rows)
            scores = (await asked.answer(batch)).scores
            assert scores is not None  # there are candidates
            best = zip(map(_argmax, scores.to_pylist()), rows, strict=True)
            names = [None if index is None else task.candidates(row)[index] for index, row in best]
            texts, answers = pa.nulls(len(rows), pa.string()), pa.array(names, pa.string())
            counts = Counts(rows=len(rows))
        else:
            generated, scores = await ask(asked, job, voter, rows, requests)
            responses = respond(task, examples, voter.name, requests, generated, scores)
            texts, answers = responses["text"], responses["answer"].combine_chunks()
            counts = count_responses(responses)
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
    sampling = Sampling(evaluation.temperature, 1.0, evaluation.max_tokens)
    return ShardJob(
        context.run,
        context.task,
        (ResolvedCollaborator.of(name, model, evaluation.shots, sampling),),
        context.config.seed,
        score_options=False,
        labeled_shards=tuple(context.shards("labeled")),
        neighbours=context.neighbours("test") if evaluation.shots else None,
    )


def _accuracy(table: pa.Table, confidence: float) -> dict[str, Any]:
    rows, correct = len(table), pc.sum(table["correct"]).as_py() or 0
    low, high = wilson_interval(correct, rows, confidence)
    return {"accuracy": correct / rows, "low": low, "high": high, "correct": correct, "rows": rows}


def _as_the_authors(table: pa.Table) -> float:
    """ConvFinQA's accuracy by the rule of the authors' code."""
    right = convfinqa_correct(table["text"].to_pylist(), table["gold"].to_pylist())
    return sum(right) / len(right)


def _accuracy_by(table: pa.Table, column: str, confidence: float) -> dict[str, Any]:
    """Accuracy for each value of a column; nothing where there are too many to be read."""
    values = [v for v in pc.unique(table[column]).to_pylist() if v is not None]
    if len(values) > 100:
        return {}
    return {
        value: _accuracy(table.filter(pc.field(column) == value), confidence)
        for value in sorted(values)
    }


def _pseudo_answer_accuracy(context: Context, rounds: int) -> list[dict[str, Any]] | None:
    """How many pseudo-answers were right, where the user's file had the answers withheld."""
    withheld = context.shards("withheld")
    if not withheld:
        return None
    found = []
    for number in range(1, rounds + 1):
        selections = context.folder(layout.round_stage(number, "select"))
        counts = {"round": number, "rows": 0, "correct": 0, "selected": 0, "selected_correct": 0}
        for name in withheld:
            gold = context.run.read_table(name)
            selection = context.run.read_table(
                layout.same_shard(name, selections),
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
    """The most probable option; null where the engine can tell of none."""
    if not row or max(row) == -math.inf:
        return None
    return max(range(len(row)), key=row.__getitem__)
