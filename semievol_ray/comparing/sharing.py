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
    target.check_claimable()
    if not StageLedger(target).all():
        shared, donor = max(
            ((steps_done(donor, config), donor) for donor in donors),
            key=lambda found: found[0],
            default=(0, None),
        )
        if donor is None or not shared:
            return None
        _copy(donor, target)
    return first_changed(config)


def _copy(donor: RunDirectory, target: RunDirectory) -> None:
    """All of a run but its lease; the manifests last: of a copy cut short nothing counts."""
    target.mark()
    own = {layout.MARKER, layout.LEASE, layout.MANIFESTS}
    found = donor.filesystem.get_file_info(fs.FileSelector(donor.path))
    kinds = {i.base_name: i.type for i in found if not i.base_name.startswith(".")}
    for name in [*sorted(kinds.keys() - own), layout.MANIFESTS]:
        if kinds[name] == fs.FileType.Directory:
            # A folder without folders in it is not made by the copying.
            target.filesystem.create_dir(target.full_path(name))
        fs.copy_files(
            donor.full_path(name),
            target.full_path(name),
            source_filesystem=donor.filesystem,
            destination_filesystem=target.filesystem,
        )


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
