"""A stage of one's own: the longest question of each shard of the unlabelled set."""

from __future__ import annotations

from semievol_ray.stages.context import Context
from semievol_ray.stages.stage import Outcome, Stage
from semievol_ray.store import layout


def run(context: Context, round_number: int) -> Outcome:
    folder, outputs = context.folder(STAGE.full_name(round_number)), {}
    for source in context.shards("unlabeled"):
        table = context.run.read_table(source, ["example_id", "question"])
        longest = max(table.to_pylist(), key=lambda row: len(row["question"]))
        target = layout.same_shard(source, folder)
        kept = table.filter(
            [row == longest["example_id"] for row in table["example_id"].to_pylist()]
        )
        outputs[target] = context.run.write_table(target, kept)
    return Outcome(outputs, {"shards": len(outputs)})


STAGE = Stage(
    "longest",
    run,
    lambda config, number: {},
    lambda config, number: ["ingest"],
    writes=("shard-*.parquet",),
    works_with="nothing",
)
