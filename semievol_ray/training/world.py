"""The processes that train together: their group, device and threads, whoever started them.

Ray Train brings a process group, torchrun the addresses for one; a lone process gets a group of
one.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from semievol_ray.errors import SemiEvolError, UserError

if TYPE_CHECKING:
    import torch


# How far apart workers may notice that one of them is gone.
_ANSWER_WITHIN = timedelta(seconds=5)


@dataclass(frozen=True)
class World:
    """This process among those that train together."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this process writes what is written once."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait for the others."""
        import torch.distributed as dist

        if self.size > 1:
            dist.barrier()

    def sum(self, *values: float) -> list[float]:
        """Element-wise sums of each process's values, in float64."""
        import torch
        import torch.distributed as dist

        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        if self.size > 1:
            dist.all_reduce(total)
        return total.tolist()

    @contextmanager
    def together(self) -> Iterator[None]:
        """For what may fail in one worker alone: an error of any is raised in all of them.

        Without it the others would wait in the next collective until it times out. Every worker
        must come by, and what is done within must be no collective.
        """
        error = None
        try:
            yield
        except Exception as found:
            error = found
        self.raise_first(error)

    def raise_first(self, error: Exception | None) -> None:
        """Raise this worker's error, or the first of the others'; every worker must call it.

        Another worker's is a UserError where it was one there, else a SemiEvolError.
        """
        import torch.distributed as dist

        found: list[tuple[bool, str] | None] = [None] * self.size
        if self.size > 1:
            own = None if error is None else (isinstance(error, UserError), str(error))
            dist.all_gather_object(found, own)
        if error is not None:
            raise error
        for failure in found:
            if failure is not None:
                raise (UserError if failure[0] else SemiEvolError)(failure[1])

    def silent(self) -> list[int]:
        """After a collective failed: the ranks that do not call this too within seconds.

        They speak through the store that the group was made with; the first worker holds it.
        """
        import torch.distributed as dist

        found = []
        try:
            store = dist.distributed_c10d._get_default_store()
            store.set(f"semievol/left/{self.rank}", "")
            for rank in range(self.size):
                try:
                    store.wait([f"semievol/left/{rank}"], _ANSWER_WITHIN)
                except dist.DistStoreError:
                    found.append(rank)
        except (dist.DistError, RuntimeError):
            return [0] if self.rank else []
        return found


def uses_gpu(gpus_per_worker: float | None) -> bool:
    """Whether a worker trains on a GPU: as its job says, else where there is one.

    One that is given none keeps off those that its machine has, which others may have been given.
    Raises UserError where it was given one and sees none.
    """
    import torch

    there = torch.cuda.is_available()
    if gpus_per_worker is None:
        return there
    if gpus_per_worker > 0 and not there:
        raise UserError(
            f"training.gpus_per_worker: {gpus_per_worker:g}, but this worker sees no GPU: torch "
            f"{torch.__version__} finds none"
        )
    return gpus_per_worker > 0


def prepare_environment(*, gpu: bool) -> None:
    """What must be in the environment before `deepspeed` is imported.

    Without a GPU it must be told so, and it finds the `ninja` that its compiled ops need only on
    PATH, where a virtual environment that was not activated does not have it.
    """
    bin_folder = str(Path(sys.executable).parent)
    path = os.environ.get("PATH", "")
    if bin_folder not in path.split(os.pathsep):
        os.environ["PATH"] = os.pathsep.join([bin_folder, path])
    if not gpu:
        os.environ["DS_ACCELERATOR"] = "cpu"


@contextmanager
def joined(
    log_file: Path, timeout_seconds: float, gpus_per_worker: float | None = None
) -> Iterator[World]:
    """The world that this process is part of; DeepSpeed's messages go to `log_file`.

    A collective that lasts longer than the time-out fails; a group that exists keeps its own.
    `gpus_per_worker` decides the device (`uses_gpu`).
    """
    import torch
    import torch.distributed as dist

    gpu = uses_gpu(gpus_per_worker)
    prepare_environment(gpu=gpu)
    ours = not dist.is_initialized()
    if ours:
        _start_group("nccl" if gpu else "gloo", timedelta(seconds=timeout_seconds))
    device = torch.device("cuda", torch.cuda.current_device()) if gpu else torch.device("cpu")
    try:
        with _deepspeed_apart(log_file):
            yield World(dist.get_rank(), dist.get_world_size(), device)
    finally:
        if ours:
            dist.destroy_process_group()


def _start_group(backend: str, timeout: timedelta) -> None:
    import torch
    import torch.distributed as dist

    if "RANK" in os.environ and "MASTER_ADDR" in os.environ:
        dist.init_process_group(backend, timeout=timeout)
        if backend == "nccl":
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    else:
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)


@contextmanager
def _deepspeed_apart(log_file: Path) -> Iterator[None]:
    """DeepSpeed for one training: its log in a file, and its process groups gone at the end.

    It keeps them in its modules for as long as the process lives, and would hand them to the next
    training in the process, which has another group.
    """
    import deepspeed
    import deepspeed.comm.comm as deepspeed_comm
    import torch.distributed as dist
    from deepspeed.utils import groups, logger

    # An all-reduce for inference in shared memory: never called in training, and building it
    # would need a compiler on every worker.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    log_file.parent.mkdir(parents=True, exist_ok=True)
    handlers, handler = list(logger.handlers), logging.FileHandler(log_file)
    logger.handlers, logger.propagate = [handler], False
    alone = "LOCAL_RANK" not in os.environ
    if alone:
        os.environ["LOCAL_RANK"] = "0"
    kept = {
        name: copy(value)
        for name, value in vars(groups).items()
        if (value is None or isinstance(value, dict)) and not name.startswith("__")
    }
    # The group that is there, with its time-out; DeepSpeed would make another, with its own.
    groups._WORLD_GROUP = dist.group.WORLD
    try:
        yield
    finally:
        vars(groups).update(kept)
        deepspeed_comm.cdb = None
        if alone:
            del os.environ["LOCAL_RANK"]
        logger.handlers = handlers
        handler.close()
