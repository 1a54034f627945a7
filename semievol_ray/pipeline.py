"""The order of the stages, and resume; nothing else.

    ingest -> warmup -> retrieve (-> holdout -> calibrate)
        -> (generate -> justify -> score -> select -> evolve) x rounds -> evaluate

Before any work is done it is decided of every stage whether its work stands, is gone on with, is
done anew or is refused. A stage that is done anew makes those that read it undone.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from semievol_ray.config import Config
from semievol_ray.errors import UserError
from semievol_ray.ray_session import connect, disconnect, is_connected
from semievol_ray.stages import (
    calibrate,
    evaluate,
    evolve,
    generate,
    holdout,
    ingest,
    justify,
    retrieve,
    score,
    select,
    warmup,
)
from semievol_ray.stages.context import Context, Progress, Silent
from semievol_ray.stages.live import LiveProgress
from semievol_ray.stages.stage import Stage
from semievol_ray.store import (
    Lease,
    Manifest,
    RunDirectory,
    StageLedger,
    check_unchanged,
    flatten,
    layout,
)

FIRST = (ingest.STAGE, warmup.STAGE, retrieve.STAGE, holdout.STAGE, calibrate.STAGE)
EACH_ROUND = (generate.STAGE, justify.STAGE, score.STAGE, select.STAGE, evolve.STAGE)
LAST = (evaluate.STAGE,)


@dataclass(frozen=True)
class Step:
    """A stage of one run: its full name, its settings, what it reads."""

    name: str
    stage: Stage
    round_number: int
    settings: dict[str, Any]
    inputs: tuple[str, ...]


def steps(config: Config) -> list[Step]:
    """Every step of a run, in order."""
    rounds = range(1, config.iteration.rounds + 1)
    order = [(stage, 1) for stage in FIRST]
    order += [(stage, number) for number in rounds for stage in EACH_ROUND]
    order += [(stage, config.iteration.rounds) for stage in LAST]
    return [
        Step(
            stage.full_name(number),
            stage,
            number,
            flatten(stage.settings(config, number)),
            tuple(stage.inputs(config, number)),
        )
        for stage, number in order
        if stage.wanted(config)
    ]


def run(
    config: Config,
    *,
    progress: Progress | None = None,
    redo: str | None = None,
    until: str | None = None,
) -> RunDirectory:
    """Run, or continue, every stage of a config.

    `redo` names a stage to be done anew, with all that read it; `until` the last stage to do. Both
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
        # From the last to the first: killed on the way, what is left is a shorter run.
        for step in reversed(dropped):
            context.ledger.drop(step.name)
        context.ledger.sweep()
        directory.write_json(layout.CONFIG, config.model_dump(mode="json"))
        try:
            for step in order[: last + 1]:
                do(context, step)
        finally:
            context.release_engines()
            if not had_ray:
                disconnect()
    return directory


def plan(context: Context, order: Sequence[Step], first_redone: int | None) -> list[Step]:
    """The steps whose work does not count any more. Nothing is changed.

    Raises UserError where work was done under other settings, or the files it would need are gone.
    """
    dropped: list[Step] = []
    undone: set[str] = set()
    for number, step in enumerate(order):
        found = context.ledger.get(step.name)
        verdict = "redo" if number == first_redone else judge(context, step, found, undone)
        if verdict in ("begin", "redo"):
            undone.add(step.name)
            if step.stage is ingest.STAGE:
                ingest.sources(context.config)
        if verdict == "redo" and found is not None:
            dropped.append(step)
    return dropped


def judge(
    context: Context, step: Step, found: Manifest | None, undone: set[str]
) -> Literal["stands", "continue", "redo", "begin"]:
    """What is to be done about a step, whose manifest may be there."""
    if found is None:
        return "begin"
    if undone.intersection(step.inputs) or (found.state == "running" and not step.stage.continues):
        return "redo"
    inputs = input_fingerprints(context, step, found)
    # A user's file that changed is the user's to decide about; another way to here is ours.
    if step.inputs and inputs != found.inputs:
        return "redo"
    check_unchanged(found, step.settings, inputs)
    return "stands" if found.state == "done" else "continue"


def do(context: Context, step: Step) -> None:
    """Do a step, or the rest of it, unless its work stands."""
    found = context.ledger.get(step.name)
    if found is not None and found.state == "done":
        context.progress.finish(step.name, "already done")
        return
    begin(context, step)
    if step.stage.works_with != "nothing":
        connect(context.config.ray)
    if step.stage.works_with != "engines":
        # Replicas that hold every CPU would let the stage's own tasks wait for ever.
        context.release_engines()
    later = step.stage.prepares
    if later is not None and later.wanted(context.config):
        name = later.full_name(step.round_number)
        begin(context, next(s for s in steps(context.config) if s.name == name))
    started = time.monotonic()
    outcome = step.stage.run(context, step.round_number)
    seconds = time.monotonic() - started
    done = context.ledger.finish(
        step.name, outcome.outputs, outcome.files, outcome.statistics, seconds
    )
    context.progress.finish(step.name, f"{done.seconds:.1f} s")


def begin(context: Context, step: Step) -> None:
    """Open a step's manifest, or find it open."""
    inputs = input_fingerprints(context, step, None)
    context.ledger.begin(step.name, step.settings, inputs, step.stage.writes)


def input_fingerprints(context: Context, step: Step, found: Manifest | None) -> dict[str, str]:
    """What a step reads: the stages before it, or the user's files."""
    if step.stage is ingest.STAGE:
        return ingest.source_fingerprints(context.config, found)
    manifests = {name: context.ledger.get(name) for name in step.inputs}
    return {name: "" if m is None else m.fingerprint for name, m in manifests.items()}


def find(order: Sequence[Step], name: str) -> int:
    """Index of a step by its full name, or by its last part where only one has it."""
    found = [i for i, step in enumerate(order) if step.name == name]
    found = found or [i for i, step in enumerate(order) if step.stage.name == name]
    if len(found) == 1:
        return found[0]
    if found:
        several = ", ".join(order[i].name for i in found)
        raise UserError(f"stage {name!r} is in several rounds; say which: {several}")
    known = ", ".join(step.name for step in order)
    raise UserError(f"no stage {name!r}; this run has {known}")
