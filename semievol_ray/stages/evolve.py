"""Evolve: fine-tune on the labels and the pseudo-answers that were trusted (Eq. 9)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from semievol_ray.config import Config
from semievol_ray.errors import UserError
from semievol_ray.ray_session import shard_map
from semievol_ray.stages import holdout
from semievol_ray.stages.context import Context
from semievol_ray.stages.earlier import Earlier, settings_of
from semievol_ray.stages.finetune import (
    TASK_ROWS,
    TRAINING_WRITES,
    Target,
    finetune,
    training_table,
    write_labeled,
)
from semievol_ray.stages.rendering import make_renderer
from semievol_ray.stages.stage import Outcome, Stage, trained_settings
from semievol_ray.store import RunDirectory, layout
from semievol_ray.tasks import PromptRenderer, Task
from semievol_ray.touches import of_result


def run(context: Context, round_number: int) -> Outcome:
    """Leave M_evol = FT(M_base, D_selected with D_labelled) in the stage's `model`.

    In the mode "mine" what earlier rounds selected stays in; in "relabel" only this round's
    selection counts, for it has judged every row anew. Of a run that is continued what it had
    trusted stays in.
    """
    config = context.config
    folder = context.folder(layout.round_stage(round_number, "evolve"))
    # Labels that the guard compares by have to be new to the model.
    left_out = context.held_out if config.iteration.guard else frozenset()
    with_labels = config.evolve.include_labeled
    shards = write_labeled(context, folder, without=left_out) if with_labels else []
    mined = config.iteration.mode == "mine"
    first = 1 if mined else round_number
    selected = 0
    for number in range(first, round_number + 1):
        for name, rows in write_selected(context, number, folder):
            shards.append(name)
            selected += rows
    if config.continues is not None:
        for name, rows in Earlier.of(config).write_selected(context, folder):
            shards.append(name)
            selected += rows
    if not selected and not config.evolve.include_labeled:
        raise_nothing_selected(context, round_number)
    start = context.model(config.evolve.start, round_number)
    if config.iteration.guard and config.evolve.start == "warm" and round_number == 1:
        start = context.held_out_model("warm")
    outcome = finetune(
        context, "evolve", folder, shards, start=start, seed=config.seed + round_number
    )
    statistics = outcome.statistics | {"selected_rows": selected}
    return Outcome(outcome.outputs, statistics, outcome.files)


def _settings(config: Config, round_number: int) -> dict[str, Any]:
    evolve = of_result(config.evolve, without=("training",))
    # In the first round all selections are this one's: it is the same in either mode.
    later: dict[str, Any] = {}
    if round_number > 1:
        later["iteration"] = {"mode": config.iteration.mode}
    if config.iteration.guard:
        later["calibration"] = of_result(config.calibration)
    training = config.training_for("evolve")
    if training.epochs == "auto":
        later["tuning"] = {"first_epochs": config.tuning.first_epochs}
    return trained_settings(config, training) | {"evolve": evolve} | later | settings_of(config)


STAGE = Stage(
    "evolve",
    run,
    _settings,
    lambda config, number: [
        layout.round_stage(number, "select"),
        *([holdout.NAME] if config.iteration.guard else []),
        *([layout.TUNE] if config.tunes and config.training_for("evolve").is_tuned else []),
    ],
    writes=TRAINING_WRITES,
    works_with="training",
)


def raise_nothing_selected(context: Context, round_number: int) -> None:
    """Say that there is nothing to train on, and what to change."""
    raise UserError(
        f"round {round_number}: no pseudo-answer was selected and evolve.include_labeled is "
        f"false; raise selection.percentile ({context.config.selection.percentile}) or look at "
        f"the reasons: semievol status {context.run.uri}"
    )


def write_selected(context: Context, round_number: int, folder: str) -> Iterator[tuple[str, int]]:
    """The selected rows of one round as training shards: (name, rows)."""
    sources = context.shards("unlabeled")
    write = _SelectedWriter(
        run=context.run,
        task=context.task,
        renderer=make_renderer(context),
        soft=context.config.evolve.soft_targets,
        selections=context.folder(layout.round_stage(round_number, "select")),
        folder=f"{folder}/examples/selected-{round_number}",
    )
    tasks = sum(sources.values()) // TASK_ROWS
    written = shard_map(context.config.ray, tasks)(write, sources)
    yield from ((name, rows) for name, rows in written if rows)


@dataclass(frozen=True)
class _SelectedWriter:
    """Writes the selected rows of a shard as training rows. Picklable."""

    run: RunDirectory
    task: Task
    renderer: PromptRenderer
    soft: bool
    selections: str
    folder: str

    def __call__(self, source: str) -> tuple[str, int]:
        target = layout.same_shard(source, self.folder)
        selection = self.run.read_table(layout.same_shard(source, self.selections))
        kept = selection.filter(pc.field("selected")).to_pylist()
        if not kept:
            return target, 0
        chosen = {row["example_id"]: row for row in kept}
        examples = self.run.read_table(source)
        ids = pa.array(list(chosen), pa.string())
        rows = [
            (example, target_of(self.task, example, chosen[example["example_id"]], soft=self.soft))
            for example in examples.filter(pc.is_in(examples["example_id"], ids)).to_pylist()
        ]
        self.run.write_table(target, training_table(self.task, self.renderer, rows))
        return target, len(rows)


def target_of(
    task: Task, example: Mapping[str, Any], selected: Mapping[str, Any], *, soft: bool
) -> Target:
    """What an example is trained on: its pseudo-answer as written, or its distribution."""
    if soft and selected["distribution"] is not None:
        return Target.soft(task.candidates(example), selected["distribution"])
    return Target.hard(selected["pseudo_answer_text"])
