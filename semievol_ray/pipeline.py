"""The order of the stages, and resume; nothing else.

    ingest -> warmup -> retrieve -> (generate -> justify -> select -> evolve) x rounds -> evaluate

A stage declares the settings and the stages its outputs depend on. One whose manifest agrees is
skipped; one that was begun under other settings is refused. Settings that only say how fast or
where (replicas, workers, ZeRO stage) are in no fingerprint: they may change on the way.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from semievol_ray.config import Config, TrainingConfig
from semievol_ray.errors import UserError
from semievol_ray.ray_session import connect, disconnect, is_connected
from semievol_ray.stages import (
    evaluate,
    evolve,
    generate,
    ingest,
    justify,
    retrieve,
    select,
    warmup,
)
from semievol_ray.stages.context import Context, Outcome, Progress, Silent
from semievol_ray.stages.live import LiveProgress
from semievol_ray.store import RunDirectory, StageLedger, digest, flatten

CONFIG_FILE = "config.json"

_MODEL = {"name", "revision", "dtype", "trust_remote_code", "max_model_len"}
_TASK_OF_INGEST = {"preset", "kind", "labels", "first_option_number"}
_SPEED_OF_TRAINING = {
    "micro_batch_size", "gradient_checkpointing", "zero_stage", "offload_optimizer",
    "offload_parameters", "nvme_path", "workers", "cpus_per_worker", "gpus_per_worker",
    "checkpoint_every_steps", "max_failures", "timeout_seconds", "trackers", "packing",
}  # fmt: skip

# What comes between two of these has the machines to itself.
_WITH_ENGINES = ("generate", "justify", "evaluate")


@dataclass(frozen=True)
class Step:
    """One stage of one run."""

    name: str
    work: Callable[[Context], Outcome]
    settings: dict[str, Any]
    after: Sequence[str]
    # Whether half-done work is gone on with; if not, it is dropped and begun anew.
    continues: bool = True
    # A later step, part of whose work this one does on the way: its settings hold from here on.
    prepares: Step | None = None


def steps(config: Config) -> Iterator[Step]:
    """Every step of a run, in order."""
    base = {"seed": config.seed, "model": config.model.model_dump(include=_MODEL)}
    task = {"task": config.task.model_dump()}
    shape = config.data.model_dump(exclude={"labeled", "unlabeled", "test", "max_bad_rows"})
    labels = {"data": shape, "task": config.task.model_dump(include=_TASK_OF_INGEST)}
    yield Step("ingest", ingest.run, labels, [], continues=False)
    yield Step(
        "warmup", warmup.run, base | task | _training(config.training_for("warmup")), ["ingest"]
    )
    retrieval = {"retrieval": config.retrieval.model_dump(exclude={"batch_rows", "api_key_env"})}
    yield Step("retrieve", retrieve.run, retrieval, ["ingest"])
    labeller = "warmup"
    for number in range(1, config.iteration.rounds + 1):
        yield from _round(config, number, labeller, base | task)
        labeller = f"round-{number}/evolve"
    if config.data.test is not None:
        evaluation = base | task | {"evaluation": config.evaluation.model_dump()}
        yield Step("evaluate", evaluate.run, evaluation, ["warmup", "retrieve", labeller])


def _round(config: Config, number: int, labeller: str, base: dict[str, Any]) -> Iterator[Step]:
    name = f"round-{number}"
    collaborators = {
        "collaborators": [c.model_dump() for c in config.collaborators],
        "models": {k: m.model_dump(include=_MODEL | {"engine"}) for k, m in config.models.items()},
        "generation": config.generation.model_dump(include={"max_tokens", "score_options"}),
        "iteration": {"mode": config.iteration.mode},
    }
    justification = None
    if config.justify.when != "never":
        justification = Step(
            f"{name}/justify",
            lambda context: justify.run(context, number),
            base | {"justify": config.justify.model_dump()},
            [f"{name}/generate"],
        )
    yield Step(
        f"{name}/generate",
        lambda context: generate.run(context, number),
        base | collaborators,
        ["retrieve", labeller],
        prepares=justification,
    )
    if justification is not None:
        yield justification
    selection = config.selection.model_dump(exclude={"soft_targets", "percentile"})
    selection["percentile"] = config.selection.percentile_of(number)
    answered = "generate" if config.justify.when == "never" else "justify"
    yield Step(
        f"{name}/select",
        lambda context: select.run(context, number),
        {"selection": selection},
        [f"{name}/{answered}"],
    )
    evolution = config.evolve.model_dump(exclude={"training"})
    yield Step(
        f"{name}/evolve",
        lambda context: evolve.run(context, number),
        base
        | _training(config.training_for("evolve"))
        | {"evolve": evolution, "selection": {"soft_targets": config.selection.soft_targets}},
        [f"{name}/select"],
    )


def run(
    config: Config,
    *,
    progress: Progress | None = None,
    redo: str | None = None,
    until: str | None = None,
) -> RunDirectory:
    """Run, or continue, every stage of a config.

    `redo` names a stage to be done anew, with all that come after it; `until` the last stage to
    do. Both take a full name (`round-1/select`) or its last part. Raises UserError for what the
    user can mend, SemiEvolError for the rest; finished work is kept in either case.
    """
    had_ray = is_connected()
    order = list(steps(config))
    first_redone = _position(order, redo) if redo else len(order)
    last = _position(order, until, last=True) if until else len(order) - 1
    directory = RunDirectory(config.run_dir)
    context = Context(
        config,
        directory,
        StageLedger(directory),
        LiveProgress(directory, progress or Silent()),
    )
    _check_settings(context, order[:first_redone])
    for step in order[first_redone:]:
        _forget(context, step)
    directory.write_json(CONFIG_FILE, config.model_dump(mode="json"))
    try:
        for step in order[: last + 1]:
            _run_step(context, step)
    finally:
        context.release_engines()
        if not had_ray:
            disconnect()
    return directory


def _run_step(context: Context, step: Step) -> None:
    ledger = context.ledger
    stage = step.name.split("/")[-1]
    settings, inputs = flatten(step.settings), _inputs(context, step)
    done = ledger.begin(step.name, settings, inputs, continues=step.continues)
    if done is None:
        if not step.continues:
            context.run.delete(_folder(step))
        if stage != "ingest":
            connect(context.config.ray)
        if stage not in _WITH_ENGINES:
            # Replicas that hold every CPU would let the stage's own tasks wait for ever.
            context.release_engines()
        if step.prepares is not None:
            later = step.prepares
            ledger.begin(later.name, flatten(later.settings), _inputs(context, later))
        started = time.monotonic()
        outcome = step.work(context)
        done = ledger.finish(
            step.name, outcome.outputs, outcome.statistics, time.monotonic() - started
        )
        context.progress.finish(step.name, f"{done.seconds:.1f} s")
    else:
        context.progress.finish(step.name, "already done")


def _inputs(context: Context, step: Step) -> dict[str, str]:
    """Fingerprints of what a step reads: the user's files, or the stages before it."""
    if step.name == "ingest":
        # By content and not by path: a corpus that was moved is still the same corpus.
        found = ingest.sources(context.config)
        return {
            f"data.{split}": digest([(Path(f.path).name, f.fingerprint()) for f in files])
            for split, files in found.items()
        }
    inputs = {}
    for name in step.after:
        manifest = context.ledger.get(name)
        assert manifest is not None, f"{step.name} before {name}"
        inputs[name] = manifest.fingerprint
    return inputs


def _check_settings(context: Context, order: Sequence[Step]) -> None:
    """Refuse before any work is done: a changed setting of a late stage must not cost hours."""
    for step in order:
        before = context.ledger.get(step.name)
        if before is not None and (step.continues or before.state == "done"):
            context.ledger.begin(step.name, flatten(step.settings), before.inputs)


def _forget(context: Context, step: Step) -> None:
    context.ledger.forget(step.name)
    context.run.delete(_folder(step))


def _folder(step: Step) -> str:
    """Where a step's outputs lie."""
    return {"ingest": "data", "warmup": "round-1/warmup"}.get(step.name, step.name)


def _position(order: Sequence[Step], name: str, last: bool = False) -> int:
    """Index of a step by its full name or its last part; of several, the first (or the last)."""
    found = [i for i, s in enumerate(order) if name in (s.name, s.name.split("/")[-1])]
    if not found:
        known = ", ".join(step.name for step in order)
        raise UserError(f"no stage {name!r}; this run has {known}")
    return found[-1] if last else found[0]


def _training(training: TrainingConfig) -> dict[str, Any]:
    return {"training": training.model_dump(exclude=_SPEED_OF_TRAINING)}
