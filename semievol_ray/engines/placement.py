"""Where a replica runs: on one node, or over several through a placement group.

A replica whose GPUs fit into one node is a plain actor, and the engine's own processes share them.
One that needs more takes a group of bundles of one GPU each, as close together as they can be;
vLLM's Ray executor finds the group and puts a worker into each bundle.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from semievol_ray.config import GenerationConfig, given
from semievol_ray.ray_session import most_gpus, most_gpus_of_a_node

# Work that a replica may hold at once: what the fleet hands out, and calls that ask or close.
_CALLS_AT_ONCE = 16


def place(replica: Any, config: GenerationConfig, avoided: Collection[str] = ()) -> tuple[Any, Any]:
    """A replica's Ray actor class with its resources, and its placement group or null.

    `avoided` are ids of nodes that it is not to run on.

    Whoever starts the actor removes the group after it (`release`): Ray does not, and the next
    stage would wait for the GPUs for ever.
    """
    from ray.util.placement_group import placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    gpus = config.gpus_per_replica or 0
    resources: dict[str, Any] = {
        "max_concurrency": _CALLS_AT_ONCE,
        "num_cpus": given(config.cpus_per_replica, 1.0),
        "num_gpus": gpus,
    }
    if avoided:
        resources["label_selector"] = {"ray.io/node-id": f"!in({','.join(sorted(avoided))})"}
    if not spans_nodes(gpus):
        return replica.options(**resources), None
    bundles = [{"GPU": 1.0, "CPU": 1.0} for _ in range(int(gpus))]
    bundles[0]["CPU"] += given(config.cpus_per_replica, 1.0)
    group = placement_group(bundles, strategy="PACK")
    strategy = PlacementGroupSchedulingStrategy(
        group, placement_group_bundle_index=0, placement_group_capture_child_tasks=True
    )
    resources |= {"num_gpus": 0, "scheduling_strategy": strategy}
    return replica.options(**resources), group


def release(group: Any) -> None:
    """Give a group's resources back; the group may be null."""
    if group is not None:
        from ray.util.placement_group import remove_placement_group

        remove_placement_group(group)


def spans_nodes(gpus: float) -> bool:
    """Whether no node has as many GPUs, or may have them, though the cluster may."""
    return most_gpus_of_a_node() < gpus <= most_gpus()
