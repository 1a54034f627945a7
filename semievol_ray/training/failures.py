"""Why a training ended, in words that a person can act on.

When a worker stops, the error that shows is another worker's: the collective that it waited in vain
for. So the survivors ask one another who is left before they say anything.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from semievol_ray.config import TrainingConfig, given
from semievol_ray.errors import SemiEvolError
from semievol_ray.training.world import World

_ENOUGH_BYTES = 1 << 20
_OUT_OF_MEMORY = re.compile(r"out of memory|can't allocate|OutOfMemory|OOM", re.IGNORECASE)
_WAITED_IN_VAIN = re.compile(
    r"timed out|timeout|connection (closed|reset|refused)|broken pipe|read error|socket",
    re.IGNORECASE,
)


class Diverged(SemiEvolError):
    """The loss, or the gradient's norm, is no number. Every worker finds it at the same step."""


class WorkerLost(SemiEvolError):
    """Another worker is gone, or has not answered for too long."""


def explain(error: Exception, config: TrainingConfig, world: World, folder: Path) -> Exception:
    """The error that says what to do about `error`, or `error` itself where there is no better.

    `folder` is on the disk that the training writes to.
    """
    if isinstance(error, SemiEvolError):
        return error
    text = str(error)
    if isinstance(error, MemoryError) or _OUT_OF_MEMORY.search(text):
        return out_of_memory(config)
    if disk_is_full(folder):
        return SemiEvolError(f"{folder}: the disk is full: {line(error)}")
    if world.size > 1 and isinstance(error, RuntimeError) and _WAITED_IN_VAIN.search(text):
        lost = world.silent()
        who = ", ".join(map(str, lost)) if lost else "one that is not known"
        return WorkerLost(
            f"training worker {who} of {world.size} is gone, or kept the others waiting for more "
            f"than training.timeout_seconds ({config.timeout_seconds:g}); worker {world.rank} saw: "
            f"{line(error)}"
        )
    return error


def out_of_memory(config: TrainingConfig) -> SemiEvolError:
    """Out of memory, in the words of the settings that help."""
    c = config
    return SemiEvolError(
        f"out of memory: lower training.micro_batch_size ({c.micro_batch_size}) or "
        f"training.max_length ({c.max_length}), set training.gradient_checkpointing "
        f"({str(c.gradient_checkpointing).lower()}), raise training.zero_stage ({c.zero_stage}) or "
        f"training.workers ({given(c.workers, 1)}), or off-load: training.offload_optimizer "
        f"({c.offload_optimizer}), training.offload_parameters ({c.offload_parameters})"
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Ray, or the worker itself, says that a worker ended for want of memory."""
    from ray.exceptions import OutOfMemoryError

    return isinstance(error, MemoryError | OutOfMemoryError) or bool(
        re.search(r"running low on memory|memory monitor", str(error))
    )


def disk_is_full(folder: Path) -> bool:
    """Whether the disk of a folder, or of the nearest one above that is there, has no room left."""
    there = next(f for f in (folder.absolute(), *folder.absolute().parents) if f.exists())
    return shutil.disk_usage(there).free < _ENOUGH_BYTES


def line(error: BaseException) -> str:
    """What an error says, in one line."""
    return " ".join(str(error).split())[:300] or repr(error)
