"""Another policy over a run's responses: seconds, and nothing is generated."""

from __future__ import annotations

from dataclasses import dataclass

from semievol_ray.config_file import load_config
from semievol_ray.errors import UserError
from semievol_ray.stages import select
from semievol_ray.stages.context import Context
from semievol_ray.store import RunDirectory, StageLedger, digest, layout


@dataclass(frozen=True)
class Reselection:
    """Where another policy's selection lies, and how many rows each reason has."""

    folder: str
    reasons: dict[str, int]


def reselect(run_uri: str, overrides: tuple[str, ...], round_number: int = 1) -> Reselection:
    """Select anew from a run's responses; the run itself stays as it is.

    The tables go to `selections/<fingerprint>/` of the run. Raises UserError where an override
    is not of the section `selection`, or nothing was generated yet.
    """
    for override in overrides:
        if not override.startswith("selection."):
            raise UserError(f"--set {override}: only selection.* can change without generating")
    directory = RunDirectory(run_uri)
    before = directory.read_json(layout.CONFIG)
    if before is None:
        raise UserError(f"{run_uri}: no run here")
    config = load_config(before | {"run_dir": run_uri}, overrides)
    context = Context(config, directory, StageLedger(directory))
    generated = context.ledger.get(layout.round_stage(round_number, "generate"))
    if generated is None or generated.state != "done":
        raise UserError(f"{run_uri}: round {round_number} has no responses yet")
    settings = select.settings(config, round_number)
    folder = f"selections/{digest([generated.fingerprint, settings])}"
    outcome = select.select_into(context, round_number, config.selection, folder)
    return Reselection(directory.full_path(folder), outcome.statistics["reasons"])
