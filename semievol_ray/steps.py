"""What earlier work is worth to a config: a stage stands, goes on, is done anew or refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from semievol_ray.config import Config
from semievol_ray.errors import UserError
from semievol_ray.stages import ingest
from semievol_ray.stages.context import Context
from semievol_ray.stages.stage import Stage
from semievol_ray.store import Manifest, check_unchanged, flatten


@dataclass(frozen=True)
class Step:
    """A stage of one run: its full name, its settings, what it reads."""

    name: str
    stage: Stage
    round_number: int
    settings: dict[str, Any]
    inputs: tuple[str, ...]

    @classmethod
    def of(cls, stage: Stage, config: Config, round_number: int) -> Step:
        """A stage as a config has it in a round."""
        return cls(
            stage.full_name(round_number),
            stage,
            round_number,
            flatten(stage.settings(config, round_number)),
            tuple(stage.inputs(config, round_number)),
        )

    def is_past(self, last_round: int | None) -> bool:
        """Whether it belongs to a round after the last; None: that is not known yet."""
        in_round = self.stage.in_round and not self.stage.follows_rounds
        return last_round is not None and in_round and self.round_number > last_round


def plan(context: Context, order: Sequence[Step], first_redone: int | None) -> list[Step]:
    """The steps whose work does not count any more. Nothing is changed.

    Raises UserError where work was done under other settings, or the files it would need are gone.
    """
    dropped: list[Step] = []
    undone: set[str] = set()
    last_round = None
    for number, step in enumerate(order):
        if step.is_past(last_round):
            if number == first_redone:
                raise UserError(f"stage {step.name}: the rounds ended with round {last_round}")
            continue
        found = context.ledger.get(step.name)
        follows = first_redone is not None and number > first_redone
        verdict = (
            "redo"
            if number == first_redone
            else judge(context, step, found, undone, follows=follows)
        )
        if verdict in ("begin", "redo"):
            undone.add(step.name)
            if step.stage is ingest.STAGE:
                ingest.sources(context.config)
        if verdict == "redo" and found is not None:
            dropped.append(step)
        if verdict == "stands" and found is not None and step.stage.ends(found.statistics):
            last_round = step.round_number
    return dropped


def judge(
    context: Context,
    step: Step,
    found: Manifest | None,
    undone: set[str],
    *,
    follows: bool = False,
) -> Literal["stands", "continue", "redo", "begin"]:
    """What is to be done about a step, whose manifest may be there.

    One that `follows` a step that the user wants anew is done anew under other settings, too.
    """
    if found is None:
        return "begin"
    if undone.intersection(step.inputs) or (found.state == "running" and not step.stage.continues):
        return "redo"
    inputs = input_fingerprints(context, step, found)
    # A user's file that changed is the user's to decide about; another way to here is ours.
    if step.inputs and inputs != found.inputs:
        return "redo"
    if follows and step.settings != found.settings:
        return "redo"
    check_unchanged(found, step.settings, inputs)
    return "stands" if found.state == "done" else "continue"


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
