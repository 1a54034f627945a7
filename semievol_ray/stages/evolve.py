"""Evolve: fine-tune on the labels and the pseudo-answers that were trusted (Eq. 9)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from semievol_ray.stages.context import Context, Outcome
from semievol_ray.stages.finetune import (
    Target,
    finetune,
    make_renderer,
    training_table,
    write_labeled,
)


def run(context: Context, round_number: int) -> Outcome:
    """Leave M_evol = FT(M_base, D_selected with D_labelled) in `round-<n>/evolve/model`.

    In the mode "mine" what earlier rounds selected stays in; in "relabel" only this round's
    selection counts, for it has judged every row anew.
    """
    config, folder = context.config, f"round-{round_number}/evolve"
    shards = write_labeled(context, folder) if config.evolve.include_labeled else []
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
    outcome = finetune(
        context, "evolve", folder, shards, start=start, seed=config.seed + round_number
    )
    return Outcome(outcome.outputs, outcome.statistics | {"selected_rows": selected})


def raise_nothing_selected(context: Context, round_number: int) -> None:
    """Say that there is nothing to train on, and what to change."""
    from semievol_ray.errors import UserError

    raise UserError(
        f"round {round_number}: no pseudo-answer was selected and evolve.include_labeled is "
        f"false; raise selection.percentile ({context.config.selection.percentile}) or look at "
        f"the reasons in {context.run.uri}/round-{round_number}/select"
    )


def _write_selected(context: Context, round_number: int, folder: str) -> Iterator[tuple[str, int]]:
    """The selected rows of one round as training shards: (name, rows)."""
    renderer = make_renderer(context)
    soft = context.config.selection.soft_targets
    for source in context.shards("unlabeled"):
        name = source.replace("data/unlabeled", f"round-{round_number}/select", 1)
        selection = context.run.read_table(name).to_pylist()
        chosen = {row["example_id"]: row for row in selection if row["selected"]}
        if not chosen:
            continue
        examples = context.run.read_table(source).to_pylist()
        rows = [
            (example, _target(context, example, chosen[example["example_id"]], soft))
            for example in examples
            if example["example_id"] in chosen
        ]
        target = source.replace(
            "data/unlabeled/", f"{folder}/examples/round-{round_number}-selected-", 1
        )
        context.run.write_table(target, training_table(context.task, renderer, rows))
        yield target, len(rows)


def _target(
    context: Context, example: dict[str, Any], selected: dict[str, Any], soft: bool
) -> Target:
    if soft and selected["distribution"] is not None:
        return Target.soft(context.task.candidates(example), selected["distribution"])
    return Target.hard(selected["pseudo_answer"])
