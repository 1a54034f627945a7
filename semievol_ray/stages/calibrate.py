"""Calibrate: what each collaborator says of the labels that were held out.

Policies that weigh their voters, or promise an error, judge them by it. Models of the run's own
making (the warm model, classifiers on the labels) answer in the form of `holdout`, which has not
seen these labels; a demonstration is never the example itself. Later rounds weigh their voters as
the first one's.
"""

from __future__ import annotations

from typing import Any

from semievol_ray.config import Config
from semievol_ray.stages import generate, holdout
from semievol_ray.stages.answering import ShardJob, answer_shard
from semievol_ray.stages.context import Context
from semievol_ray.stages.facts import CALIBRATE, RunFacts, policy_of
from semievol_ray.stages.held_out import WRITES, write_held_out, write_neighbours
from semievol_ray.stages.shards import Shards
from semievol_ray.stages.stage import Outcome, Stage
from semievol_ray.touches import of_result


def run(context: Context, _: int) -> Outcome:
    """Write `part-<n>/shard-*.parquet` in the RESPONSE schema, a part for each base model."""
    folder = context.folder(CALIBRATE)
    sources = write_held_out(context, folder)
    shots = max(collaborator.shots for collaborator in context.config.collaborators)
    neighbours = write_neighbours(context, folder, sources, shots)
    outputs = dict(sources)
    pools = generate.pools(generate.voters(context, context.held_out_model))
    context.progress.start(CALIBRATE, len(pools) * len(sources), "shards")
    for number, voters in enumerate(pools):
        job = ShardJob(
            context.run,
            context.task,
            tuple(voters),
            context.config.seed,
            context.task.is_closed,
            tuple(context.shards("labeled")),
            neighbours,
            turn_end=context.turn_end,
        )
        shards = Shards(context.run, sources, f"{folder}/part-{number}", responses=len(voters))
        work = context.map(CALIBRATE, voters[0].base, answer_shard, shards.missing, job)
        for _counts in shards.recording(work):
            context.progress.advance(CALIBRATE, 1)
        outputs |= shards.outputs()
    # What the labels say of the voters is said before a corpus is paid for.
    policy = policy_of(RunFacts(context, 1, tuple(outputs)), context.config.selection)
    if note := policy.note():
        context.progress.say(CALIBRATE, note)
    return Outcome(outputs, {"labels": sum(sources.values())})


def _settings(config: Config, number: int) -> dict[str, Any]:
    asked = generate.settings(config, number)
    return asked | {"calibration": of_result(config.calibration)}


STAGE = Stage(
    CALIBRATE,
    run,
    _settings,
    lambda config, number: ["retrieve", holdout.NAME],
    writes=(*WRITES, "part-*/*", "replies/*"),
    in_round=False,
    works_with="engines",
    wanted=lambda config: config.selection.calibrates,
)
