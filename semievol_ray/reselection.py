"""Another policy over a run's responses: seconds, and nothing is generated."""

from __future__ import annotations

from dataclasses import dataclass

from semievol_ray.config_file import load_config
from semievol_ray.errors import UserError
from semievol_ray.progress import Silent
from semievol_ray.stages import select
from semievol_ray.stages.context import Context
from semievol_ray.store import RunDirectory, StageLedger, digest, layout


@dataclass(frozen=True)
class Reselection:
    """Where another policy's selection lies, how many rows each reason has, and what was said."""

    folder: str
    reasons: dict[str, int]
    lines: tuple[str, ...] = ()


class _Lines(Silent):
    """Keeps what a stage says."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, stage: str, line: str) -> None:
        """See Progress.say."""
        self.lines.append(line)

    def finish(self, stage: str, note: str) -> None:
        """See Progress.finish."""
        self.lines.append(note)


def reselect(run_uri: str, overrides: tuple[str, ...], round_number: int = 1) -> Reselection:
    """Select anew from a run's responses; the run itself stays as it is.

    The tables go to `selections/<fingerprint>/` of the run. Raises UserError where an override
    is not of the section `selection`, or nothing was generated yet.
    """
    for override in overrides:
        if not override.startswith("selection."):
            raise UserError(f"--set {override}: only selection.* can change without generating")
    directory = RunDirectory(run_uri)
    before = directory.read_mapping(layout.CONFIG)
    if before is None:
        raise UserError(f"{run_uri}: no run here")
    config = load_config(before | {"run_dir": run_uri}, overrides)
    said = _Lines()
    context = Context(config, directory, StageLedger(directory), said)
    generated = context.ledger.get(layout.round_stage(round_number, "generate"))
    if generated is None or generated.state != "done":
        raise UserError(f"{run_uri}: round {round_number} has no responses yet")
    settings = select.settings(config, round_number)
    folder = f"selections/{digest([generated.fingerprint, settings])}"
    outcome = select.select_into(context, round_number, config.selection, folder)
    reasons = outcome.statistics["reasons"]
    return Reselection(directory.full_path(folder), reasons, tuple(said.lines))
