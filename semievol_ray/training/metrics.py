"""Progress as JSON lines: the first worker appends them, and whoever started it reads them."""

from __future__ import annotations

import dataclasses
import json
import resource
import time
from typing import TYPE_CHECKING

from pyarrow import fs

from semievol_ray.training.depot import Depot, remote
from semievol_ray.training.job import OnProgress, Progress, TrainingJob
from semievol_ray.training.world import World

if TYPE_CHECKING:
    from semievol_ray.training.checkpoint import TrainingState
    from semievol_ray.training.engine import TrainingModel

# Dense bf16 FLOP/s of a GPU, from its data sheet, by a part of its name.
_PEAK_FLOPS = {
    "H200": 989e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10": 125e12,
    "B200": 2250e12,
}
_KIBIBYTE = 1024


FILE = "metrics.jsonl"
_UPLOAD_EVERY_SECONDS = 2.0


class Writer:
    """Appends each step to the metrics file, and hands it to another callback if there is one."""

    def __init__(
        self,
        job: TrainingJob,
        depot: Depot | None = None,
        on_progress: OnProgress | None = None,
    ) -> None:
        self._path = job.logs / FILE
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._on_progress = on_progress
        self._depot = remote(depot)
        self._uploaded: float | None = None

    def __call__(self, progress: Progress) -> None:
        """Append one step. Only the first worker does."""
        if self._depot is not None and self._uploaded is None:
            self._depot.fetch(f"logs/{FILE}", self._path)  # an earlier machine's steps
            self._uploaded = 0.0
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(dataclasses.asdict(progress)) + "\n")
        last = progress.step == progress.total_steps
        if self._depot is not None and (
            last or time.monotonic() - (self._uploaded or 0) > _UPLOAD_EVERY_SECONDS
        ):
            self._depot.put(self._path, f"logs/{FILE}")
            self._uploaded = time.monotonic()
        if self._on_progress is not None:
            self._on_progress(progress)


class Meter:
    """Turns steps into Progress: speed, share of the peak FLOP/s, memory, time left."""

    def __init__(self, model: TrainingModel, world: World, total_steps: int) -> None:
        self._model, self._world, self._total_steps = model, world, total_steps
        self._peak_flops = _peak_flops(world)
        self._last = time.monotonic()
        self._seconds = 0.0
        self._steps = 0

    def progress(
        self, state: TrainingState, loss: float, rate: float, read: int, computed: int
    ) -> Progress:
        """The step that just ended, of so many tokens over all the workers."""
        now = time.monotonic()
        seconds, self._last = now - self._last, now
        self._seconds += seconds
        self._steps += 1
        norm = self._model.engine.get_global_grad_norm()
        mfu = None
        if self._peak_flops is not None:
            flops = computed * self._model.flops_per_token / seconds
            mfu = flops / (self._peak_flops * self._world.size)
        return Progress(
            step=state.step,
            total_steps=self._total_steps,
            loss=loss,
            learning_rate=rate,
            grad_norm=None if norm is None else float(norm),
            tokens_per_second=read / seconds,
            held_out_loss=state.held_out_loss,
            held_out_exact_match=state.held_out_exact_match,
            mfu=mfu,
            memory_bytes=_memory_bytes(self._world),
            eta_seconds=self._seconds / self._steps * (self._total_steps - state.step),
        )


def _peak_flops(world: World) -> float | None:
    if world.device.type != "cuda":
        return None
    import torch

    name = torch.cuda.get_device_name(world.device)
    return next((flops for part, flops in _PEAK_FLOPS.items() if part in name), None)


def _memory_bytes(world: World) -> int:
    """Most memory this worker has held: the GPU's where there is one, else the process's."""
    if world.device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(world.device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _KIBIBYTE


class Reader:
    """Reads what was appended since it last looked; the file may lie in an object store."""

    def __init__(self, filesystem: fs.FileSystem, path: str) -> None:
        self._filesystem, self._path = filesystem, path
        self._offset = self._size()

    def _size(self) -> int:
        return self._filesystem.get_file_info(self._path).size or 0

    def read_new(self, on_progress: OnProgress) -> None:
        """Call back for every complete line that is new."""
        if self._size() <= self._offset:
            return
        with self._filesystem.open_input_file(self._path) as file:
            file.seek(self._offset)
            text = file.read()
        end = text.rfind(b"\n") + 1
        self._offset += end
        for line in text[:end].splitlines():
            on_progress(Progress(**json.loads(line)))
