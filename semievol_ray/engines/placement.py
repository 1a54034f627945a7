"""Where a replica runs: on one node, or over several through a placement group.

A replica whose GPUs fit into one node is a plain actor, and the engine's own processes share them.
One that needs more takes a group of bundles of one GPU each, as close together as they can be;
vLLM's Ray executor finds the group and puts a worker into each bundle.
"""

from __future__ import annotations

from typing import Any

from semievol_ray.config import GenerationConfig, ModelConfig

# Work that a replica may hold at once: what the fleet hands out, and calls that ask or close.
_CALLS_AT_ONCE = 16


def place(replica: Any, model: ModelConfig, config: GenerationConfig) -> tuple[Any, Any]:
    """A replica's Ray actor class with its resources, and its placement group or null.

    Whoever starts the actor removes the group after it (`release`): Ray does not, and the next
    stage would wait for the GPUs for ever.
    """
    from ray.util.placement_group import placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    gpus = gpus_of(model, config)
    resources: dict[str, Any] = {
        "max_concurrency": _CALLS_AT_ONCE,
        "num_cpus": config.cpus_per_replica,
        "num_gpus": gpus,
    }
    if not spans_nodes(gpus):
        return replica.options(**resources), None
    bundles = [{"GPU": 1.0, "CPU": 1.0} for _ in range(int(gpus))]
    bundles[0]["CPU"] += config.cpus_per_replica
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


def gpus_of(model: ModelConfig, config: GenerationConfig) -> float:
    """GPUs that one replica takes: as configured, else one for each part of the model."""
    import ray

    if config.gpus_per_replica is not None:
        return config.gpus_per_replica
    has_gpu = ray.cluster_resources().get("GPU", 0) > 0
    uses_gpu = model.engine in ("vllm", "transformers")
    return config.tensor_parallel * config.pipeline_parallel if has_gpu and uses_gpu else 0


def spans_nodes(gpus: float) -> bool:
    """Whether no node of the cluster has as many GPUs, though the cluster has."""
    import ray

    largest = max((node["Resources"].get("GPU", 0) for node in ray.nodes() if node["Alive"]),
                  default=0)  # fmt: skip
    return largest < gpus <= ray.cluster_resources().get("GPU", 0)
