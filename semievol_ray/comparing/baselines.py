"""Models that are no run of their own: asked on the test set beside a run's models."""

from __future__ import annotations

import pyarrow as pa

from semievol_ray import pipeline
from semievol_ray.config import Config
from semievol_ray.errors import UserError
from semievol_ray.stages import evaluate, finetune
from semievol_ray.stages.context import Context
from semievol_ray.stages.rendering import make_renderer
from semievol_ray.stages.run_view import ModelRef
from semievol_ray.store import RunDirectory, StageLedger, layout

ALL_LABELS_STAGE, SHOTS_STAGE = "all-labels", "shots"
ALL_LABELS, SHOTS = "all labels", "base, with shots"


def with_shots(config: Config, redo: str | None = None) -> pa.Table:
    """The base model's predictions where it is shown each question's nearest labels.

    `redo` is the first step that the run directory has under other settings.
    """
    shots = config.retrieval.k
    if not shots:
        raise UserError("the arm rag shows a model its nearest labels, but retrieval.k is 0")
    directory = pipeline.run(config, until="retrieve", redo=redo)
    evaluation = config.evaluation.model_copy(update={"shots": shots})
    asked = config.model_copy(update={"evaluation": evaluation})
    context = Context(asked, directory, StageLedger(directory))
    return _kept(context, SHOTS_STAGE, SHOTS, ModelRef(context.base))


def with_all_labels(config: Config, redo: str | None = None) -> pa.Table:
    """Predictions of the base fine-tuned on the labels and on the answers that were withheld.

    Raises UserError where the unlabelled rows have none.
    """
    directory = pipeline.run(config, until="ingest", redo=redo)
    context = Context(config, directory, StageLedger(directory))
    if not context.shards("withheld"):
        raise UserError("the arm all-labels needs the unlabelled rows' true answers")
    folder = context.ledger.begin(ALL_LABELS_STAGE, {}, {}, finetune.TRAINING_WRITES).folder
    renderer = make_renderer(context)
    names = finetune.write_labeled(context, folder)
    for shard in context.shards("unlabeled"):
        withheld = directory.read_table(shard.replace("unlabeled", "withheld", 1)).to_pylist()
        gold = {row["example_id"]: row["answer"] for row in withheld if row["answer"]}
        rows = (row for row in directory.read_table(shard).to_pylist() if row["example_id"] in gold)
        targets = ((row, finetune.Target.hard(gold[row["example_id"]])) for row in rows)
        names.append(layout.same_shard(shard, f"{folder}/examples/withheld"))
        directory.write_table(names[-1], finetune.training_table(context.task, renderer, targets))
    finetune.finetune(
        context, "evolve", folder, names, start=ModelRef(context.base), seed=config.seed
    )
    return _kept(context, ALL_LABELS_STAGE, ALL_LABELS, context.trained(ALL_LABELS_STAGE))


def kept(run: RunDirectory, stage: str) -> pa.Table | None:
    """What an earlier try left of one of these; null where it did not come to its end."""
    folder = f"{layout.attempt_folder(stage, 1)}/predictions"
    names = run.files(folder, ".parquet")
    if not run.exists(f"{folder}/done.json"):
        return None
    return pa.concat_tables([run.read_table(name) for name in names])


def _kept(context: Context, stage: str, name: str, model: ModelRef) -> pa.Table:
    folder = f"{layout.attempt_folder(stage, 1)}/predictions"
    try:
        parts = evaluate.predict_test(context, name, model, folder)
    finally:
        context.release_engines()
    context.run.write_json(f"{folder}/done.json", {})
    return pa.concat_tables(parts.values())
