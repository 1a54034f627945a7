"""Checkpoints of an unfinished training: written in the background, whole or not there at all.

A step's folder counts from the moment its manifest exists, which lists the checksum of every file;
only then is the checkpoint before it removed. Workers that share no disk each have a folder of
their own, and leave their part in the depot as well, where whoever comes next finds all of it.
DeepSpeed's files are pickles: they are read by this same job alone, after their checksums, and with
torch's `weights_only` wherever DeepSpeed leaves the reading to us.
"""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import threading
import time
from argparse import Namespace
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from deepspeed.runtime.checkpoint_engine.checkpoint_engine import (
    CheckpointCommitInfo,
    CheckpointEngine,
)

from semievol_ray.errors import SemiEvolError
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
    best_loss: float | None = None
    evaluations_without_gain: int = 0
    stopped_early: bool = False


@dataclass(frozen=True)
class Saved:
    """A checkpoint that is whole."""

    folder: Path
    state: TrainingState
    world_size: int
    zero_stage: int
    files: dict[str, str]

    def needs_conversion(self, world_size: int) -> bool:
        """Whether it was partitioned over another number of workers than there are now."""
        return self.zero_stage > 0 and self.world_size != world_size


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
        copies = _Snapshot()
        engine.checkpoint_engine = copies
        engine.save_checkpoint(
            str(self._folder), tag=tag, save_latest=False, exclude_frozen_parameters=True
        )
        facts = {
            "fingerprint": self._fingerprint,
            "state": asdict(state),
            "world_size": self._world.size,
            "zero_stage": engine.zero_optimization_stage(),
        }
        self._writing = threading.Thread(
            target=self._write, args=(self._folder / tag, copies.files, facts), daemon=True
        )
        self._writing.start()

    def wait(self) -> None:
        """Until what is being written is whole, or has failed."""
        if self._writing is not None:
            self._writing.join()
            self._writing = None

    def _write(self, folder: Path, files: dict[Path, Any], facts: dict[str, Any]) -> None:
        sums: dict[str, str] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for path, state in files.items():
                torch.save(state, path)
                sums[path.name] = file_digest(path)
                if self._depot is not None:
                    self._depot.put(path, f"{_IN_DEPOT}/{folder.name}/{path.name}")
            self._write_report(folder, {"files": sums})
            if self._world.is_first:
                self._complete(folder, facts)
        except Exception as error:
            self._failure = "the disk is full" if disk_is_full(folder) else line(error)
            # Room for the report of it, which the first worker waits for.
            for path in files:
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
        """Put a checkpoint's state into a fresh engine. Raises SemiEvolError if a file is damaged.

        An engine over another number of workers must have been built with `load_universal`.
        """
        self._verify(saved)
        tag = saved.folder.name
        if saved.needs_conversion(self._world.size):
            tag = f"universal-{tag}"
            with self._world.together():
                if self._world.is_first or self._depot is not None:
                    _convert(saved.folder, self._folder / tag)
        decays = [group["weight_decay"] for group in engine.optimizer.param_groups]
        engine.checkpoint_engine = _Snapshot()
        engine.load_checkpoint(
            str(self._folder), tag=tag, load_module_strict=False, load_lr_scheduler_states=False
        )
        if tag != saved.folder.name:
            _part_groups(engine.optimizer, decays)

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


class _Snapshot(CheckpointEngine):
    """Where DeepSpeed saves to: copies of its tensors in memory, by the file they belong in."""

    def __init__(self) -> None:
        super().__init__()
        self.files: dict[Path, Any] = {}

    def create(self, info: CheckpointCommitInfo) -> None:
        """Nothing to prepare."""

    def save(self, state_dict: Any, path: str) -> None:
        """Keep a copy, for the training goes on changing the tensors."""
        self.files[Path(path)] = _copied(state_dict)

    def load(self, path: str, map_location: Any = None) -> Any:
        """Read one of DeepSpeed's files; only the classes that it puts there are let in."""
        with torch.serialization.safe_globals(_deepspeed_classes()):
            return torch.load(path, map_location=map_location, weights_only=True)

    def commit(self, info: CheckpointCommitInfo) -> bool:
        """Writing happens later."""
        return True

    def preserves_storage_sharing(self) -> bool:
        """Copies share no storage."""
        return False


def _part_groups(optimizer: Any, weight_decays: list[float]) -> None:
    """Undo what loading a universal ZeRO-3 checkpoint leaves shared between parameter groups.

    DeepSpeed 0.19 gives them all one `step` tensor, which AdamW then counts up once for each of
    them, and the settings of the first. And it leaves that tensor on the CPU, where a fused AdamW
    cannot have it.
    """
    fused = {id(p): g.get("fused") for g in optimizer.optimizer.param_groups for p in g["params"]}
    for parameter, state in optimizer.optimizer.state.items():
        if isinstance(step := state.get("step"), torch.Tensor):
            device = parameter.device if fused.get(id(parameter)) else step.device
            state["step"] = step.to(device, copy=True)
    for group, decay in zip(optimizer.param_groups, weight_decays, strict=True):
        group["weight_decay"] = decay


def _copied(state: Any) -> Any:
    if isinstance(state, torch.Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, dict):
        copy = {k: _copied(v) for k, v in state.items()}
        return copy if type(state) is dict else type(state)(copy)
    if isinstance(state, list):
        return [_copied(v) for v in state]
    if type(state) is tuple:
        return tuple(_copied(v) for v in state)
    return state


def _deepspeed_classes() -> list[Any]:
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    return [DynamicLossScaler, LossScaler, ZeroStageEnum, fragment_address]


def _convert(source: Path, target: Path) -> None:
    """DeepSpeed's universal form of a checkpoint: one folder a parameter, whole."""
    from deepspeed.checkpoint.ds_to_universal import main

    shutil.rmtree(target, ignore_errors=True)
    main(
        Namespace(
            input_folder=str(source),
            output_folder=str(target),
            num_extract_workers=1,
            num_merge_workers=1,
            keep_temp_folder=False,
            strict=True,
            inject_missing_state=True,
        )
    )


def _digest(path: Path) -> str | None:
    return file_digest(path) if path.is_file() else None


def _write_json(path: Path, value: Any) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(value))
    partial.rename(path)
