"""What an arm's run has in common with another that is there: copied, and not done again."""

from __future__ import annotations

from collections.abc import Sequence

from pyarrow import fs

from semievol_ray import pipeline
from semievol_ray.config import Config
from semievol_ray.store import RunDirectory, StageLedger, layout


def begin_from(donors: Sequence[RunDirectory], config: Config) -> str | None:
    """Copy into a config's run directory what the best donor did of it; the step to redo, if any.

    A run that is begun is gone on with: nothing is copied over it.
    """
    target = RunDirectory(config.run_dir)
    if not target.exists(layout.MARKER):
        shared, donor = max(
            ((steps_done(donor, config), donor) for donor in donors),
            key=lambda found: found[0],
            default=(0, None),
        )
        if donor is None or not shared:
            return None
        fs.copy_files(
            donor.path,
            target.path,
            source_filesystem=donor.filesystem,
            destination_filesystem=target.filesystem,
        )
    return first_changed(config)


def steps_done(run: RunDirectory, config: Config) -> int:
    """How many of a config's steps a run has done with the same settings, from the first on."""
    ledger = StageLedger(run)
    steps = pipeline.steps(config)
    for number, step in enumerate(steps):
        found = ledger.get(step.name)
        if found is None or found.state != "done" or found.settings != step.settings:
            return number
    return len(steps)


def first_changed(config: Config) -> str | None:
    """The first step that a config's run directory has under other settings; null: none."""
    ledger = StageLedger(RunDirectory(config.run_dir))
    for step in pipeline.steps(config):
        found = ledger.get(step.name)
        if found is not None and found.settings != step.settings:
            return step.name
    return None
