"""A finished run whose every vote, truth and prediction is known, written by hand."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from semievol_ray.results import Run
from semievol_ray.schema import EXAMPLE, PREDICTION, RESPONSE, SELECTION
from semievol_ray.stages.context import Context
from semievol_ray.stages.evaluate import METRICS, compare
from semievol_ray.store import layout
from tests.stages.ingesting import ingested

CLASSES = ("red", "blue", "green")
VOTERS = ("warm", "warm-1shot", "probe")


@dataclass
class Made:
    """What the run was made of."""

    run: Run
    # By example: the true answer, each voter's, and whether it was selected.
    truth: dict[str, str] = field(default_factory=dict)
    votes: dict[str, dict[str, str | None]] = field(default_factory=dict)
    selected: dict[str, bool] = field(default_factory=dict)
    # The test rows that each model has right.
    right: dict[str, list[bool]] = field(default_factory=dict)


def nullable(schema: pa.Schema) -> pa.Schema:
    return pa.schema([f.with_nullable(True) for f in schema])


def make_run(
    folder: Path,
    *,
    rows: int = 60,
    tests: int = 80,
    shard_rows: int = 25,
    truth: bool = True,
    question: Callable[[int], str] = lambda i: f"what colour is thing {i}?",
    classes: tuple[str, ...] = CLASSES,
    seed: int = 0,
) -> Made:
    """A run with one round, its evaluation where there are test rows; the same for a seed."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(seed)
    labeled = "id,question,answer\n" + "".join(
        f"l{i},label {i},{c}\n" for i, c in enumerate(classes)
    )
    corpus = "id,question\n" + "".join(f"u{i},q{i}\n" for i in range(rows))
    values = {
        "model": {"name": "sim", "engine": "simulated"},
        "collaborators": [{"model": "base", "name": name} for name in VOTERS],
        "data": {"shard_rows": shard_rows},
        "justify": {"when": "never"},
    }
    context = ingested(folder, values, labeled, corpus)
    made = Made(Run(context.run.uri))
    for source in context.shards("unlabeled"):
        table = context.run.read_table(source)
        texts = [question(int(i[1:])) for i in table["example_id"].to_pylist()]
        asked = table.set_column(table.schema.get_field_index("question"), "question", [texts])
        context.run.write_table(source, asked.cast(EXAMPLE))
    _vote(context, made, rng, classes, truth)
    _train(context, made)
    if tests:
        _evaluate(context, made, rng, classes, tests, question)
    return made


def _vote(context: Context, made: Made, rng: random.Random, classes, truth: bool) -> None:
    generate = context.ledger.begin("round-1/generate", {}, {}).folder
    select = context.ledger.begin("round-1/select", {}, {}).folder
    ingest = context.ledger.done("ingest")
    outputs: dict[str, dict[str, int]] = {"generate": {}, "select": {}, "withheld": {}}
    for source in context.shards("unlabeled"):
        ids = context.run.read_table(source)["example_id"].to_pylist()
        responses, selections, withheld = [], [], []
        for name in ids:
            gold = rng.choice(classes)
            votes = {
                voter: None if rng.random() < 0.05
                else gold if rng.random() < share else rng.choice(classes)
                for voter, share in zip(VOTERS, (0.8, 0.6, 0.7), strict=True)
            }  # fmt: skip
            made.truth[name], made.votes[name] = gold, votes
            said = [v for v in votes.values() if v]
            winner = max(dict.fromkeys(said), key=said.count, default=None)
            share = said.count(winner) / len(said) if said else 0.0
            kept = made.selected[name] = winner is not None and share > 0.6
            sure = rng.uniform(0.05, 0.9) if winner == gold else rng.uniform(0.3, 2.0)
            counts = [said.count(c) / len(said) for c in set(said)] if said else []
            selections.append(
                {f.name: None for f in SELECTION}
                | {
                    "example_id": name, "pseudo_answer": winner, "pseudo_answer_text": winner,
                    "entropy": sure if winner else None, "n_valid": len(said), "agreement": share,
                    "vote_entropy": -sum(p * math.log(p) for p in counts), "margin": share,
                    "selected": kept, "reason": "selected" if kept else "outside_quota",
                }
            )  # fmt: skip
            responses += [
                {f.name: None for f in RESPONSE}
                | {"example_id": name, "collaborator": who, "answer": what, "text": what or "",
                   "finish_reason": "stop", "prompt_tokens": 9, "tokens": 2, "seed": 1,
                   "token_logprobs": [-0.5, -0.25]}
                for who, what in votes.items()
            ]  # fmt: skip
            withheld.append({"example_id": name, "answer": gold})
        for stage, table in (
            ("generate", pa.Table.from_pylist(responses, schema=nullable(RESPONSE))),
            ("select", pa.Table.from_pylist(selections, schema=nullable(SELECTION))),
            ("withheld", pa.Table.from_pylist(withheld)),
        ):
            into = {"generate": generate, "select": select}.get(stage, f"{ingest.folder}/withheld")
            if stage != "withheld" or truth:
                target = layout.same_shard(source, into)
                outputs[stage][target] = context.run.write_table(target, table)
    reasons = {"selected": sum(made.selected.values())}
    spent = {"tokens": 6, "prompt_tokens": 27, "spent_cost": 1.25}
    context.ledger.finish("round-1/generate", outputs["generate"], (), spent, 2.5)
    context.ledger.finish("round-1/select", outputs["select"], (), {"reasons": reasons}, 0.1)
    values = asdict(ingest) | {"outputs": ingest.outputs | outputs["withheld"]}
    context.run.write_json(layout.manifest("ingest"), values)


def _train(context: Context, made: Made) -> None:
    folder = context.ledger.begin("round-1/evolve", {}, {}).folder
    trained = {f"{folder}/examples/selected-1/shard-00000.parquet": sum(made.selected.values())}
    context.ledger.finish("round-1/evolve", trained, (f"{folder}/model/x",), {"tokens": 99}, 30.0)


def _evaluate(context: Context, made: Made, rng, classes, tests: int, question) -> None:
    ingest = context.ledger.done("ingest")
    ids = [f"t{i}" for i in range(tests)]
    gold = [rng.choice(classes) for _ in ids]
    blank = {f.name: None for f in EXAMPLE}
    examples = [blank | {"example_id": i, "question": question(n)} for n, i in enumerate(ids)]
    shard = f"{ingest.folder}/test/{layout.shard(0)}"
    context.run.write_table(shard, pa.Table.from_pylist(examples, schema=nullable(EXAMPLE)))
    folder = context.ledger.begin("round-1/evaluate", {}, {}).folder
    outputs, tables = {}, {}
    for model, share in (("vanilla", 0.3), ("SFT", 0.6), ("SemiEvol", 0.8)):
        rows: list[dict[str, Any]] = []
        for name, true in zip(ids, gold, strict=True):
            said = true if rng.random() < share else rng.choice(classes)
            likely = [3.0 * (c == said) + rng.random() for c in classes]
            rows.append(
                {"example_id": name, "model": model, "text": said, "answer": said, "gold": true,
                 "correct": said == true, "subject": "even" if int(name[1:]) % 2 else "odd",
                 "option_logprobs": likely}
            )  # fmt: skip
        made.right[model] = [row["correct"] for row in rows]
        tables[model] = pa.Table.from_pylist(rows, schema=PREDICTION)
        target = f"{folder}/{model}/{layout.shard(0)}"
        outputs[target] = context.run.write_table(target, tables[model])
    metrics = compare(tables, 0.95)
    metrics["pseudo_answers"] = None
    context.run.write_json(f"{folder}/{METRICS}", metrics)
    context.ledger.finish("round-1/evaluate", outputs, (f"{folder}/{METRICS}",), metrics, 5.0)
