"""Evolve: fine-tune on the labels and the pseudo-answers that were trusted (Eq. 9)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from semievol_ray.config import Config
from semievol_ray.errors import UserError
from semievol_ray.stages import holdout
from semievol_ray.stages.context import Context
from semievol_ray.stages.finetune import (
    TRAINING_WRITES,
    Target,
    finetune,
    training_table,
    write_labeled,
)
from semievol_ray.stages.rendering import make_renderer
from semievol_ray.stages.stage import Outcome, Stage, trained_settings
from semievol_ray.store import layout
from semievol_ray.touches import of_result


def run(context: Context, round_number: int) -> Outcome:
    """Leave M_evol = FT(M_base, D_selected with D_labelled) in the stage's `model`.

    In the mode "mine" what earlier rounds selected stays in; in "relabel" only this round's
    selection counts, for it has judged every row anew.
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
        for name, rows in _write_selected(context, number, folder):
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
    later = {"iteration": {"mode": config.iteration.mode}} if round_number > 1 else {}
    if config.iteration.guard:
        later["calibration"] = of_result(config.calibration)
    return trained_settings(config, config.training_for("evolve")) | {"evolve": evolve} | later


STAGE = Stage(
    "evolve",
    run,
    _settings,
    lambda config, number: [
        layout.round_stage(number, "select"),
        *([holdout.NAME] if config.iteration.guard else []),
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


def _write_selected(context: Context, round_number: int, folder: str) -> Iterator[tuple[str, int]]:
    """The selected rows of one round as training shards: (name, rows)."""
    renderer = make_renderer(context)
    soft = context.config.evolve.soft_targets
    selections = context.folder(layout.round_stage(round_number, "select"))
    for source in context.shards("unlabeled"):
        selection = context.run.read_table(layout.same_shard(source, selections)).to_pylist()
        chosen = {row["example_id"]: row for row in selection if row["selected"]}
        if not chosen:
            continue
        examples = context.run.read_table(source).to_pylist()
        rows = [
            (example, _target(context, example, chosen[example["example_id"]], soft))
            for example in examples
            if example["example_id"] in chosen
        ]
        target = layout.same_shard(source, f"{folder}/examples/selected-{round_number}")
        context.run.write_table(target, training_table(context.task, renderer, rows))
        yield target, len(rows)


def _target(
    context: Context, example: dict[str, Any], selected: dict[str, Any], soft: bool
) -> Target:
    if soft and selected["distribution"] is not None:
        return Target.soft(context.task.candidates(example), selected["distribution"])
    return Target.hard(selected["pseudo_answer_text"])
