"""Checkpoints of an unfinished training: written in the background, whole or not there at all.

A step's folder counts from the moment its manifest exists, which lists the checksum of every file;
only then is the checkpoint before it removed. Workers that share no disk each have a folder of
their own, and leave their part in the depot as well, where whoever comes next finds all of it.
Each worker's file holds its pieces of the state (`pieces`), as safetensors: any number of workers
goes on from them, at any ZeRO stage, with or without off-load.
"""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from semievol_ray.errors import SemiEvolError
from semievol_ray.training import pieces
from semievol_ray.training.depot import Depot
from semievol_ray.training.failures import disk_is_full, line
from semievol_ray.training.job import file_digest
from semievol_ray.training.world import World

log = logging.getLogger(__name__)

_MANIFEST = "manifest.json"
_IN_DEPOT = "scratch/checkpoints"
_POLL_SECONDS = 0.05


@dataclass
class TrainingState:
    """How far a training has come: all that the loop needs besides DeepSpeed's state."""

    step: int = 0
    tokens: int = 0
    loss_sum: float = 0.0
    held_out_loss: float | None = None
    held_out_exact_match: float | None = None
    # Of the best weights so far, smaller is better; and what they measured.
    best_score: list[float] | None = None
    best_loss: float | None = None
    best_exact_match: float | None = None
    evaluations_without_gain: int = 0
    stopped_early: bool = False


@dataclass(frozen=True)
class Saved:
    """A checkpoint that is whole."""

    folder: Path
    state: TrainingState
    files: dict[str, str]
    # In fp16 alone (`pieces.loss_scale`).
    loss_scale: dict[str, Any]


class Checkpoints:
    """The checkpoints of one job, of which the newest whole one is kept."""

    def __init__(
        self, folder: Path, fingerprint: str, world: World, depot: Depot | None = None
    ) -> None:
        self._folder, self._fingerprint, self._world = folder, fingerprint, world
        self._depot = depot
        self._writing: threading.Thread | None = None
        self._failure: str | None = None

    def newest(self) -> Saved | None:
        """The newest whole checkpoint of this very job, if there is one."""
        if self._depot is not None:
            return self._newest_in(self._depot)
        found = [self._read(path.parent) for path in self._folder.glob(f"step-*/{_MANIFEST}")]
        return max((s for s in found if s is not None), key=lambda s: s.state.step, default=None)

    def _newest_in(self, depot: Depot) -> Saved | None:
        """The depot's: what this machine has may lack the other workers' parts, or half of one."""
        whole = [name for name in depot.names(_IN_DEPOT) if name.endswith(f"/{_MANIFEST}")]
        if not whole:
            return None
        tag = whole[-1].split("/")[-2]
        folder, facts = self._folder / tag, depot.read_json(whole[-1])
        here = (folder / _MANIFEST).exists()
        if not here or any(_digest(folder / n) != known for n, known in facts["files"].items()):
            depot.fetch(f"{_IN_DEPOT}/{tag}", folder)
        return self._read(folder)

    def _read(self, folder: Path) -> Saved | None:
        facts = json.loads((folder / _MANIFEST).read_text())
        if facts.pop("fingerprint") != self._fingerprint:
            log.warning("%s is of another training, and is left alone", folder)
            return None
        return Saved(folder=folder, state=TrainingState(**facts.pop("state")), **facts)

    def save(self, engine: Any, state: TrainingState) -> None:
        """Copy the engine's state and go on; the copy is written while the training runs.

        Every worker must call it. Raises SemiEvolError, in all of them, if one of them could not
        write the checkpoint before this one.
        """
        self.wait()
        if self._world.sum(self._failure is not None)[0]:
            raise SemiEvolError(f"{self._folder}: {self._reason()}")
        tag = f"step-{state.step:08d}"
        with self._world.together():
            if self._world.is_first or self._depot is not None:
                shutil.rmtree(self._folder / tag, ignore_errors=True)
            if self._world.is_first and self._depot is not None:
                self._depot.remove(f"{_IN_DEPOT}/{tag}")
        facts = {
            "fingerprint": self._fingerprint,
            "state": asdict(state),
            "loss_scale": pieces.loss_scale(engine),
        }
        self._writing = threading.Thread(
            target=self._write,
            args=(self._folder / tag, pieces.collect(engine), facts),
            daemon=True,
        )
        self._writing.start()

    def wait(self) -> None:
        """Until what is being written is whole, or has failed."""
        if self._writing is not None:
            self._writing.join()
            self._writing = None

    def _write(self, folder: Path, state: dict[str, torch.Tensor], facts: dict[str, Any]) -> None:
        path = folder / f"rank-{self._world.rank:05d}.safetensors"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            save_file(state, path)
            if self._depot is not None:
                self._depot.put(path, f"{_IN_DEPOT}/{folder.name}/{path.name}")
            self._write_report(folder, {"files": {path.name: file_digest(path)}})
            if self._world.is_first:
                self._complete(folder, facts)
        except Exception as error:
            self._failure = "the disk is full" if disk_is_full(folder) else line(error)
            # Room for the report of it, which the first worker waits for.
            path.unlink(missing_ok=True)
            with contextlib.suppress(OSError, SemiEvolError):
                self._write_report(folder, {"failure": self._failure})

    def _complete(self, folder: Path, facts: dict[str, Any]) -> None:
        sums: dict[str, str] = {}
        for rank in range(self._world.size):
            while (report := self._read_report(folder, rank)) is None:
                time.sleep(_POLL_SECONDS)
            if "failure" in report:
                return
            sums |= report["files"]
        whole = facts | {"files": sums}
        _write_json(folder / _MANIFEST, whole)
        if self._depot is not None:
            self._depot.write_json(f"{_IN_DEPOT}/{folder.name}/{_MANIFEST}", whole)
            tags = {name.split("/")[-2] for name in self._depot.names(_IN_DEPOT)}
            for tag in tags - {folder.name}:
                self._depot.remove(f"{_IN_DEPOT}/{tag}")
        for other in self._folder.iterdir():
            if other != folder and other.is_dir():
                shutil.rmtree(other, ignore_errors=True)

    def _write_report(self, folder: Path, report: dict[str, Any]) -> None:
        name = f"rank-{self._world.rank}.json"
        _write_json(folder / name, report)
        if self._depot is not None:
            self._depot.write_json(f"{_IN_DEPOT}/{folder.name}/{name}", report)

    def _read_report(self, folder: Path, rank: int) -> dict[str, Any] | None:
        path = folder / f"rank-{rank}.json"
        if path.exists():
            return dict(json.loads(path.read_text()))
        if self._depot is None:
            return None
        found: dict[str, Any] | None = self._depot.read_json(
            f"{_IN_DEPOT}/{folder.name}/{path.name}"
        )
        return found

    def _reason(self) -> str:
        """Why the newest checkpoint is not whole: the first report that says so."""
        for folder in sorted(self._folder.glob("step-*"), reverse=True):
            for rank in range(self._world.size):
                if reason := (self._read_report(folder, rank) or {}).get("failure"):
                    return f"worker {rank} cannot write a checkpoint: {reason}"
        return f"a checkpoint cannot be written: {self._failure or 'not even why'}"

    def load(self, engine: Any, saved: Saved) -> None:
        """Put a checkpoint into a fresh engine. Raises SemiEvolError if a file is damaged."""
        self._verify(saved)
        with pieces.Stored(saved.folder / name for name in saved.files) as stored:
            pieces.restore(engine, stored)
        pieces.set_loss_scale(engine, saved.loss_scale)

    def _verify(self, saved: Saved) -> None:
        mine = sorted(saved.files)[self._world.rank :: self._world.size]
        with self._world.together():
            if any(_digest(saved.folder / name) != saved.files[name] for name in mine):
                raise SemiEvolError(
                    f"{saved.folder}: the checkpoint is damaged; remove it to train from the start"
                )

    def remove(self) -> None:
        """Remove them all: the training is done."""
        self.wait()
        if self._world.is_first or self._depot is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


def _digest(path: Path) -> str | None:
    return file_digest(path) if path.is_file() else None


def _write_json(path: Path, value: Any) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(value))
    partial.rename(path)
