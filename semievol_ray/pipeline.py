"""The order of the stages, and resume; nothing else.

    ingest (-> tune) -> warmup -> retrieve (-> holdout -> calibrate)
        -> (generate -> justify -> score -> select -> evolve -> guard) x rounds
        (-> classifiers) -> baselines -> evaluate

What is to be done of it is decided before anything is (`steps.py`).
"""

from __future__ import annotations

import time

from semievol_ray.config import Config
from semievol_ray.progress import Progress, Silent
from semievol_ray.progress.live import LiveProgress
from semievol_ray.ray_session import connect, disconnect, is_connected
from semievol_ray.stages import (
    baselines,
    calibrate,
    classifiers,
    evaluate,
    evolve,
    generate,
    guard,
    holdout,
    ingest,
    justify,
    retrieve,
    score,
    select,
    tune,
    warmup,
)
from semievol_ray.stages.along import Along
from semievol_ray.stages.asked_of_task import check_asked
from semievol_ray.stages.context import Context
from semievol_ray.steps import Step, find, input_fingerprints, plan
from semievol_ray.store import Lease, Manifest, RunDirectory, StageLedger, layout
from semievol_ray.tasks import Task

FIRST = (
    ingest.STAGE, tune.STAGE, warmup.STAGE, retrieve.STAGE, holdout.STAGE, calibrate.STAGE,
)  # fmt: skip
EACH_ROUND = (
    generate.STAGE, justify.STAGE, score.STAGE, select.STAGE, evolve.STAGE, guard.STAGE,
)  # fmt: skip
LAST = (classifiers.STAGE, baselines.STAGE, evaluate.STAGE)


def steps(config: Config) -> list[Step]:
    """Every step of a run, in order."""
    rounds = range(1, config.iteration.rounds + 1)
    order = [(stage, 1) for stage in FIRST]
    order += [(stage, number) for number in rounds for stage in EACH_ROUND]
    order += [(stage, config.iteration.rounds) for stage in LAST]
    return [Step.of(stage, config, number) for stage, number in order if stage.wanted(config)]


def run(
    config: Config,
    *,
    progress: Progress | None = None,
    redo: str | None = None,
    until: str | None = None,
) -> RunDirectory:
    """Run, or continue, every stage of a config.

    `redo` names a stage to be done anew, with all that read it and what follows under other
    settings; `until` the last stage to do. Both
    take a full name (`round-1/select`), or its last part where only one stage has it. Raises
    UserError for what the user can mend, SemiEvolError for the rest; finished work is kept in
    either case.
    """
    had_ray = is_connected()
    order = steps(config)
    first_redone = find(order, redo) if redo else None
    last = find(order, until) if until else len(order) - 1
    directory = RunDirectory(config.run_dir)
    directory.check_claimable()
    with Lease(directory) as lease:
        directory.mark()
        shown = LiveProgress(directory, progress or Silent(), lease.check)
        context = Context(config, directory, StageLedger(directory, lease.check), shown)
        dropped = plan(context, order, first_redone)
        if dropped or not all(context.ledger.is_done(step.name) for step in order[: last + 1]):
            # Also of a run that was begun under other settings, or by another version.
            check_asked(config, Task.from_config(config.task))
        # From the last to the first: killed on the way, what is left is a shorter run.
        for step in reversed(dropped):
            context.ledger.drop(step.name)
        context.ledger.sweep()
        directory.write_json(layout.CONFIG, config.model_dump(mode="json"))
        try:
            last_round = None
            for step in order[: last + 1]:
                if not step.is_past(last_round):
                    done = do(context, step)
                    if step.stage.ends(done.statistics):
                        last_round = step.round_number
        finally:
            context.release_engines()
            if not had_ray:
                disconnect()
    return directory


def do(context: Context, step: Step) -> Manifest:
    """Do a step, or the rest of it, unless its work stands."""
    found = context.ledger.get(step.name)
    if found is not None and found.state == "done":
        context.progress.finish(step.name, "already done")
        return found
    begin(context, step)
    if step.stage.works_with != "nothing":
        connect(context.config.ray)
    if step.stage.works_with != "engines":
        # Replicas that hold every CPU would let the stage's own tasks wait for ever.
        context.release_engines()
    context.along = prepared(context, step)
    started = time.monotonic()
    outcome = step.stage.run(context, step.round_number)
    seconds = time.monotonic() - started
    done = context.ledger.finish(
        step.name, outcome.outputs, outcome.files, outcome.statistics, seconds
    )
    context.progress.finish(step.name, f"{done.seconds:.1f} s")
    return done


def prepared(context: Context, step: Step) -> Along | None:
    """What a step can do of a later one on the way, whose manifest is opened for that."""
    later = next((stage for stage in EACH_ROUND if stage.name == step.stage.prepares), None)
    if later is None or later.along is None or not later.wanted(context.config):
        return None
    begin(context, Step.of(later, context.config, step.round_number))
    return later.along(context, step.round_number)


def begin(context: Context, step: Step) -> None:
    """Open a step's manifest, or find it open."""
    inputs = input_fingerprints(context, step, None)
    context.ledger.begin(step.name, step.settings, inputs, step.stage.writes)
