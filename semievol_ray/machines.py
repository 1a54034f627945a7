"""What machines there are, by what Ray says: what settings that are `auto` follow from."""

from __future__ import annotations

from dataclasses import dataclass

from semievol_ray.ray_session import is_connected, most_gpus

_GIB = 1 << 30
# Memory of a GPU by Ray's name of it; where one name stands for several sizes, the smallest.
_GPU_BYTES = {
    "T4": 15 * _GIB, "L4": 22 * _GIB, "A10G": 22 * _GIB, "V100": 16 * _GIB, "L40S": 44 * _GIB,
    "A100": 40 * _GIB, "A100-40G": 40 * _GIB, "A100-80G": 80 * _GIB, "H100": 80 * _GIB,
    "H200": 140 * _GIB, "B200": 180 * _GIB, "AMD-INSTINCT-MI300X": 192 * _GIB,
}  # fmt: skip
# They came before bfloat16: torch imitates it there, slowly.
_WITHOUT_BF16 = frozenset({"K80", "P4", "P100", "V100", "T4"})
_TYPE = "accelerator_type:"


@dataclass(frozen=True)
class Machines:
    """CPUs, GPUs and memory (bytes) that a cluster has, or that its autoscaler may bring."""

    cpus: float = 1.0
    # Of the largest node.
    node_cpus: float = 1.0
    node_memory: float = float("inf")
    memory: float = float("inf")
    gpus: float = 0.0
    # Of the smallest kind of GPU that is there; null where Ray's name of it is not known.
    gpu_memory: int | None = None
    # Whether there is a kind of GPU that has no bfloat16.
    gpus_without_bf16: bool = False

    @classmethod
    def there(cls) -> Machines:
        """Those of the cluster that this process is connected to; of none, one CPU."""
        if not is_connected():
            return cls()
        import ray

        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        kinds = {
            name.removeprefix(_TYPE) for node in nodes for name in node if name.startswith(_TYPE)
        }
        sizes = [_GPU_BYTES.get(kind) for kind in kinds]
        known = [size for size in sizes if size is not None]
        return cls(
            cpus=max(1.0, sum(node.get("CPU", 0.0) for node in nodes)),
            node_cpus=max([1.0, *(node.get("CPU", 0.0) for node in nodes)]),
            node_memory=max([0.0, *(node.get("memory", 0.0) for node in nodes)]) or float("inf"),
            memory=sum(node.get("memory", 0.0) for node in nodes) or float("inf"),
            gpus=most_gpus(),
            gpu_memory=min(known) if known and len(known) == len(sizes) else None,
            gpus_without_bf16=not kinds.isdisjoint(_WITHOUT_BF16),
        )


def gib(size: float) -> str:
    """Bytes as people read them."""
    return f"{size / _GIB:.1f} GiB"
