"""Work of one stage that the replicas of another do on the way."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from semievol_ray.config import ModelConfig
from semievol_ray.engines import Engine
from semievol_ray.stages.counts import Counts
from semievol_ray.stages.shards import Shards


@dataclass(frozen=True)
class Along:
    """A stage's work that replicas of another can do, a shard as soon as that one has answered it.

    `work` takes an engine of `base` and a shard of the unlabelled set; it leaves the shard of
    `shards` and returns its name with its counts. It is sent to the replicas.
    """

    base: ModelConfig
    shards: Shards
    work: Callable[[Engine, str], Awaitable[tuple[str, Counts]]]
