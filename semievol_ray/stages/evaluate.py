"""Evaluate: SemiEvol on the test set, with paired tests against the baselines.

All answer the same rows, so that each pair is compared by McNemar's exact test; the predictions are
kept, so that anyone can count again.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from semievol_ray.config import Config, ModelConfig
from semievol_ray.ray_session import shard_map
from semievol_ray.stages import baselines, classifiers
from semievol_ray.stages.context import Context
from semievol_ray.stages.predictions import predict_test
from semievol_ray.stages.run_view import ModelRef, labeller, what_rounds_left
from semievol_ray.stages.shards import TALLIES
from semievol_ray.stages.stage import Outcome, Stage, answering_settings
from semievol_ray.stages.statistics import SIGNIFICANCE, mcnemar_exact, wilson_interval
from semievol_ray.store import RunDirectory, layout
from semievol_ray.tasks import Task, convfinqa_correct
from semievol_ray.touches import of_result

METRICS = "metrics.json"
# What the report calls a classifier that has learnt from what was selected.
REFITTED = ", refitted"
# And one that knows the labels alone; each is called by its embedder.
LINEAR = " + LR"
_REFERENCES = {
    "tfidf": "TF-IDF",
    "sentence-transformers": "sentences",
    "model": "hidden states",
    "openai": "embeddings",
}


def models(context: Context, round_number: int) -> dict[str, ModelRef]:
    """What the baselines are compared with, by the names the report gives them."""
    found: dict[str, ModelRef] = {}
    accepted = context.accepted_round(round_number)
    for number in range(1, round_number + 1):
        stage = layout.round_stage(number, "evolve")
        if number != accepted and context.ledger.is_done(stage):
            undone = " rolled back" if number > accepted else ""
            found[f"SemiEvol round {number}{undone}"] = context.trained(stage)
    found["SemiEvol"] = context.trained(labeller(accepted + 1))
    if classifiers.STAGE.wanted(context.config):
        fitted = classifiers.fitted(context, round_number)
        found |= {who + REFITTED: model for who, model in fitted.items()}
    return found | references(context.config)


def reference_name(embedder: str) -> str:
    """What the report calls a linear classifier over an embedder."""
    return _REFERENCES[embedder] + LINEAR


def references(config: Config) -> dict[str, ModelRef]:
    """Linear classifiers on the labels, by the names the report gives them."""
    found: dict[str, ModelRef] = {}
    for reference in config.evaluation.references:
        name = _REFERENCES[reference.embedder]
        if name + LINEAR in found:
            name = f"{(reference.model or name).rstrip('/').rpartition('/')[2]} ({len(found)})"
        unused = set() if reference.base_url else {"api_key_env"}
        options = reference.model_dump(exclude_none=True, exclude=unused)
        if reference.embedder == "model":
            options.setdefault("model", config.model.name)
        model = ModelConfig(
            name=f"{name}{LINEAR} {reference.model or ''}".rstrip(),
            engine="probe",
            engine_options=options,
            trust_remote_code=config.model.trust_remote_code,
        )
        found[name + LINEAR] = ModelRef(model)
    return found


def run(context: Context, round_number: int) -> Outcome:
    """Write `<model>/shard-*.parquet` and `metrics.json` in the stage's folder."""
    folder = context.folder(layout.round_stage(round_number, "evaluate"))
    compared = models(context, round_number)
    rows = context.ingested.rows["test"]
    context.progress.start("evaluate", rows * len(compared), "answers")
    outputs: dict[str, int] = {}
    tables: dict[str, pa.Table] = dict(baselines.predictions(context))
    for name, model in compared.items():
        parts = predict_test(context, "evaluate", name, model, folder)
        outputs |= {target: len(part) for target, part in parts.items()}
        tables[name] = pa.concat_tables(parts.values())
    metrics = compare(tables, context.config.evaluation.confidence)
    if context.config.task.preset == "convfinqa":
        for name, table in tables.items():
            metrics["models"][name]["as_the_authors"] = _as_the_authors(table)
    # Of many shards the right answers are counted by tasks, which need the replicas' CPUs.
    context.release_engines()
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
    lambda config, number: [
        "warmup",
        baselines.NAME,
        "retrieve",
        *what_rounds_left(config, number),
        *([layout.round_stage(number, classifiers.NAME)] if classifiers.named(config) else []),
    ],
    writes=("*/shard-*.parquet", f"*/{TALLIES}", "*/replies/*", METRICS),
    works_with="engines",
    wanted=lambda config: config.data.test is not None,
    follows_rounds=True,
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


def as_good_as_evolved(metrics: Mapping[str, Any]) -> dict[str, str]:
    """Classifiers that are not significantly worse than the evolved model: by how much not."""
    return {
        pair["second"]: (
            "significantly better"
            if pair["difference"] > 0 and pair["mcnemar_p"] < SIGNIFICANCE
            else "no worse than by chance"
        )
        + f" (McNemar p = {pair['mcnemar_p']:.2g})"
        for pair in metrics["pairs"]
        if pair["first"] == "SemiEvol"
        and pair["second"].endswith((REFITTED, LINEAR))
        and (pair["difference"] >= 0 or pair["mcnemar_p"] >= SIGNIFICANCE)
    }


def pairs_to_read(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Of the pairs those that say something: a reference against the model that counts alone."""
    return [
        pair
        for pair in metrics["pairs"]
        if not pair["second"].endswith(LINEAR) or pair["first"] == "SemiEvol"
    ]


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
        if not context.ledger.is_done(layout.round_stage(number, "select")):
            break  # the rounds ended before it
        selections = context.folder(layout.round_stage(number, "select"))
        count = RightAnswers(context.run, context.task, selections)
        counts: Counter[str] = Counter()
        for of_shard in shard_map(context.config.ray, len(withheld))(count, withheld):
            counts.update(of_shard)
        found.append({"round": number, **counts})
    return found


@dataclass(frozen=True)
class RightAnswers:
    """Counts a shard's pseudo-answers and those that are right, of all and of the selected."""

    run: RunDirectory
    task: Task
    selections: str

    def __call__(self, withheld: str) -> dict[str, int]:
        """Of a shard of `withheld` the counts."""
        selection = self.run.read_table(
            layout.same_shard(withheld, self.selections),
            ["example_id", "pseudo_answer", "selected"],
        )
        joined = selection.join(self.run.read_table(withheld), "example_id", join_type="inner")
        # Of a file that has some of its answers the others are unknown, and not wrong.
        joined = joined.filter(pc.field("answer").is_valid())
        right = self.task.correct(
            joined["pseudo_answer"].combine_chunks(), joined["answer"].combine_chunks()
        )
        kept = joined["selected"].combine_chunks()
        return {
            "rows": len(joined),
            "correct": pc.sum(right).as_py() or 0,
            "selected": pc.sum(kept).as_py() or 0,
            "selected_correct": pc.sum(pc.and_(right, kept)).as_py() or 0,
        }
