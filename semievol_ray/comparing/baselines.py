"""Models that are no run of their own: asked on the test set beside a run's models."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa

from semievol_ray import pipeline
from semievol_ray.config import Config
from semievol_ray.errors import UserError
from semievol_ray.retrieval import example_texts
from semievol_ray.schema import DEMONSTRATIONS
from semievol_ray.stages import evaluate, finetune
from semievol_ray.stages.context import Context
from semievol_ray.stages.predictions import folder_of, predict
from semievol_ray.stages.rendering import make_renderer
from semievol_ray.stages.run_view import ModelRef
from semievol_ray.stages.stage import tested_settings, texts_settings, trained_settings
from semievol_ray.store import Manifest, RunDirectory, StageLedger, digest, layout

# In the folder of a model's predictions: what they are answers to.
_ASKED = "asked.json"
ALL_LABELS, SHOTS, BM25 = "all-labels", "shots", "bm25"


def of_labels(config: Config, redo: str | None = None, *, name: str) -> pa.Table:
    """Predictions of a model that knows the labels at most, and of no more of a run than it needs.

    `name` is what a run's evaluation calls it. `redo` is the first step that the run directory has
    under other settings.
    """
    until = "warmup" if name == "SFT" else "ingest"
    # Models that are compared are shown labels where the config's evaluation says so.
    directory = pipeline.run(
        config, until="retrieve" if config.evaluation.shots else until, redo=redo
    )
    context = Context(config, directory, StageLedger(directory))
    if name == "SFT":
        model = context.model("warm", 1)
        return _kept(context, name, model, _neighbours(context), context.ledger.done("warmup"))
    model = {"vanilla": ModelRef(context.base), **evaluate.references(config)}[name]
    return _kept(context, name, model, _neighbours(context))


def with_shots(config: Config, redo: str | None = None) -> pa.Table:
    """The base model's predictions where it is shown each question's nearest labels.

    `redo` is the first step that the run directory has under other settings.
    """
    context = _shown(config, pipeline.run(config, until="retrieve", redo=redo))
    return _kept(context, SHOTS, ModelRef(context.base), context.neighbours("test"))


def with_bm25(config: Config, redo: str | None = None) -> pa.Table:
    """The same with the labels that BM25 ranks first (Lucene's variant, by `bm25s`)."""
    import bm25s

    context = _shown(config, pipeline.run(config, until="ingest", redo=redo))
    labeled, k = context.labeled, min(config.retrieval.k, len(context.labeled))
    ids = labeled["example_id"].to_pylist()
    index = bm25s.BM25()
    index.index(_words(example_texts(labeled)), show_progress=False)
    folder = f"{layout.attempt_folder(BM25, 1)}/test"
    for source in context.shards("test"):
        examples = context.run.read_table(source)
        found, scores = index.retrieve(_words(example_texts(examples)), k=k, show_progress=False)
        table = {
            "example_id": examples["example_id"],
            "demonstration_ids": [[ids[row] for row in rows] for rows in found.tolist()],
            "similarities": scores.tolist(),
        }
        target = layout.same_shard(source, folder)
        context.run.write_table(target, pa.table(table, schema=DEMONSTRATIONS))
    return _kept(context, BM25, ModelRef(context.base), folder)


def with_all_labels(config: Config, redo: str | None = None) -> pa.Table:
    """Predictions of the base fine-tuned on the labels and on the answers that were withheld.

    Raises UserError where the unlabelled rows have none.
    """
    # Models that are compared are shown labels where the config's evaluation says so.
    until = "tune" if config.tunes else "ingest"
    until = "retrieve" if config.evaluation.shots else until
    directory = pipeline.run(config, until=until, redo=redo)
    context = Context(config, directory, StageLedger(directory))
    if not context.shards("withheld"):
        raise UserError("the arm all-labels needs the unlabelled rows' true answers")
    begun = _begun(context)
    folder = begun.folder
    renderer = make_renderer(context)
    names = finetune.write_labeled(context, folder)
    known = context.shards("withheld")
    for shard in context.shards("unlabeled"):
        answers = shard.replace("unlabeled", "withheld", 1)
        if answers not in known:
            continue
        withheld = directory.read_table(answers).to_pylist()
        gold = {row["example_id"]: row["answer"] for row in withheld if row["answer"]}
        rows = (row for row in directory.read_table(shard).to_pylist() if row["example_id"] in gold)
        targets = ((row, finetune.Target.hard(gold[row["example_id"]])) for row in rows)
        names.append(layout.same_shard(shard, f"{folder}/examples/withheld"))
        directory.write_table(names[-1], finetune.training_table(context.task, renderer, targets))
    finetune.finetune(
        context, "evolve", folder, names, start=ModelRef(context.base), seed=config.seed
    )
    return _kept(context, ALL_LABELS, context.trained(ALL_LABELS), _neighbours(context), begun)


def _begun(context: Context) -> Manifest:
    """The training on all labels, gone on with; under other settings than it was, begun anew."""
    settings = trained_settings(context.config, context.config.training_for("evolve"))
    settings = json.loads(json.dumps(settings, default=str))
    inputs = {"ingest": context.ledger.done("ingest").fingerprint}
    if context.config.tunes:
        inputs[layout.TUNE] = context.ledger.done(layout.TUNE).fingerprint
    before = context.ledger.get(ALL_LABELS)
    if before is not None and (before.settings, before.inputs) != (settings, inputs):
        context.ledger.drop(ALL_LABELS)
        context.ledger.sweep()
    return context.ledger.begin(ALL_LABELS, settings, inputs, finetune.TRAINING_WRITES)


def _shown(config: Config, directory: RunDirectory) -> Context:
    """A run whose models are shown the labels that are found for each question."""
    if not config.retrieval.k:
        raise UserError("the arms rag-… show a model its nearest labels, but retrieval.k is 0")
    evaluation = config.evaluation.model_copy(update={"shots": config.retrieval.k})
    asked = config.model_copy(update={"evaluation": evaluation})
    return Context(asked, directory, StageLedger(directory))


def _neighbours(context: Context) -> str | None:
    return context.neighbours("test") if context.config.evaluation.shots else None


def _folder(stage: str) -> str:
    return f"{layout.attempt_folder(folder_of(stage), 1)}/predictions"


def _words(texts: list[str]) -> Any:
    import bm25s

    return bm25s.tokenize(texts, stopwords=None, show_progress=False)


def _kept(
    context: Context,
    stage: str,
    model: ModelRef,
    neighbours: str | None = None,
    trained: Manifest | None = None,
) -> pa.Table:
    """A model's predictions, taken from an earlier try as far as it asked for the same.

    `trained`: the stage that trained it, if one did.
    """
    folder, run = _folder(stage), context.run
    shards = context.shards("test")
    found = neighbours is not None and context.ledger.is_done("retrieve")
    stages = ["ingest", "retrieve"] if found else ["ingest"]
    asked = {
        "settings": tested_settings(context.config),
        "model": model.base.model_dump(mode="json"),
        "inputs": [context.ledger.done(name).fingerprint for name in stages],
        "trained": trained and [trained.settings, trained.inputs, trained.attempt],
    }
    if model.base.is_classifier:
        asked |= texts_settings(context.config)
    now = {"fingerprint": digest(asked)}
    if run.read_mapping(f"{folder}/{_ASKED}") != now:
        run.delete_owned(folder, (), ("*",))
        run.write_json(f"{folder}/{_ASKED}", now)
    try:
        parts = predict(context, "evaluate", stage, model, shards, neighbours, folder)
    finally:
        context.release_engines()
    return pa.concat_tables(parts.values())
