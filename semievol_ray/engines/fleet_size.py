"""How many replicas, of how many CPUs and GPUs: what of a config is `auto`, decided."""

from __future__ import annotations

from semievol_ray.config import GenerationConfig, ModelConfig
from semievol_ray.errors import UserError
from semievol_ray.machines import Machines, gib
from semievol_ray.model_files import weights

# Of a GPU's memory the weights may take so much: the rest is the KV cache's, which is what lets an
# engine answer many requests at once.
_WEIGHTS_SHARE = 0.6
# A replica's process without its model: torch, transformers or vLLM.
_PROCESS_BYTES = 2 << 30
# Weights as they are and what is made of them while they are loaded.
_LOADED = 1.5
_PARTS = (1, 2, 4, 8)
# One replica of two threads is as fast as two of one (SmolLM2-135M on two cores, 512 responses with
# the replicas' start: 109 and 103 s), in half the memory.
_CPUS = 2


def sized(
    config: GenerationConfig, model: ModelConfig, machines: Machines, *, shards: int, gpus: bool
) -> GenerationConfig:
    """The config with nothing left `auto`, for so many shards; `gpus`: whether the run uses any.

    Raises UserError for a model that no replica can hold, with what would help.
    """
    on_gpus = gpus and model.engine in ("vllm", "transformers")
    parts = 1
    if config.tensor_parallel != "auto":
        parts = config.tensor_parallel
    elif on_gpus and config.gpus_per_replica is None:
        parts = _parts(model, machines, config.pipeline_parallel)
    gpus_per_replica = config.gpus_per_replica
    if gpus_per_replica is None:
        gpus_per_replica = parts * config.pipeline_parallel if on_gpus else 0
    asked = config.replicas.max
    most = (
        max(config.replicas.min, _most(model, machines, gpus_per_replica, shards))
        if asked == "auto"
        else asked
    )
    cpus = config.cpus_per_replica
    if cpus == "auto":
        shared = model.is_local and not gpus_per_replica
        cpus = max(1.0, float(min(machines.node_cpus, machines.cpus // most))) if shared else 1.0
    return config.model_copy(
        update={
            "tensor_parallel": parts,
            "gpus_per_replica": gpus_per_replica,
            "cpus_per_replica": cpus,
            "replicas": config.replicas.model_copy(update={"max": most}),
        }
    )


def words(config: GenerationConfig) -> str:
    """What was decided, in a few words."""
    most, gpus = config.replicas.max, config.gpus_per_replica
    cpus = config.cpus_per_replica
    each = f"{gpus:g} GPUs" if gpus else f"{cpus:g} CPUs"
    each = each.removesuffix("s") if each.startswith("1 ") else each
    return f"{most} x {each}" + ("" if most == 1 else " at most")


def _most(model: ModelConfig, machines: Machines, gpus_per_replica: float, shards: int) -> int:
    if not model.is_local:
        return 1
    if gpus_per_replica:
        room = machines.gpus // gpus_per_replica
    else:
        size = weights(model)
        # Of a model whose size is not known one is ventured.
        each = float("inf") if size is None else _LOADED * size.bytes + _PROCESS_BYTES
        room = min(machines.cpus // _CPUS, machines.memory // each)
        if size is not None and size.bytes > machines.node_memory:
            raise UserError(
                f"model {model.name}: its weights are {gib(size.bytes)}, and a node has "
                f"{gib(machines.node_memory)} of memory for them; choose a smaller model, or give "
                "Ray nodes with more"
            )
    return max(1, min(int(room), shards))


def _parts(model: ModelConfig, machines: Machines, pipeline_parallel: int) -> int:
    """GPUs that the weights need, as a power of two; 1 where their size or the GPU's is unknown."""
    size, memory = weights(model), machines.gpu_memory
    if size is None or memory is None:
        return 1
    needed = size.bytes / pipeline_parallel
    fits = (p for p in _PARTS if needed <= _WEIGHTS_SHARE * memory * p and p <= machines.gpus)
    found = next(fits, None)
    if found is None:
        most = max(p for p in _PARTS if p == 1 or p <= machines.gpus)
        if needed <= 0.9 * memory * most:
            return most
        raise UserError(
            f"model {model.name}: its weights are {gib(size.bytes)}, and {machines.gpus:g} GPUs of "
            f"{gib(memory)} cannot hold them with a KV cache; give more GPUs (generation."
            "tensor_parallel, pipeline_parallel), or choose a smaller or a quantized model"
        )
    return found
