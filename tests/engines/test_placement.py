"""A replica over several nodes takes a placement group, and gives it back however it ends.

The nodes are real Ray nodes of this machine that say they have GPUs; the engine is simulated.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
import ray
from ray import cloudpickle
from ray.cluster_utils import Cluster
from ray.util import placement_group_table

from semievol_ray.config import GenerationConfig, ModelConfig
from semievol_ray.engines import EnginePool
from semievol_ray.store import RunDirectory

pytestmark = [pytest.mark.e2e, pytest.mark.chaos]
cloudpickle.register_pickle_by_value(sys.modules[__name__])


@pytest.fixture
def two_gpu_nodes() -> Iterator[None]:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    for _ in range(2):
        cluster.add_node(num_cpus=2, num_gpus=1)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    cluster.wait_for_nodes()
    yield
    ray.shutdown()
    cluster.shutdown()


def pool_of(tmp_path, gpus: float) -> EnginePool:
    model = ModelConfig(name="sim", engine="simulated")
    config = GenerationConfig(gpus_per_replica=gpus, max_restarts=5)
    return EnginePool(model, config, RunDirectory(str(tmp_path)))


async def where(engine, item: int) -> list[dict[str, float]]:
    """The bundles of the group that this replica runs in."""
    group = ray.util.get_current_placement_group()
    return [] if group is None else group.bundle_specs


async def die_first(engine, folder: str, item: int) -> int:
    import os
    from pathlib import Path

    try:
        Path(folder, "died").touch(exist_ok=False)
    except FileExistsError:
        return item
    os.kill(os.getpid(), 9)
    return item


def living_groups() -> list[str]:
    return [g["state"] for g in placement_group_table().values() if g["state"] != "REMOVED"]


def test_the_group_spans_nodes_and_goes_with_its_replica(two_gpu_nodes, tmp_path) -> None:
    pool = pool_of(tmp_path, gpus=2)
    (bundles,) = pool.map(where, [0])
    assert [bundle["GPU"] for bundle in bundles] == [1, 1]
    assert len(living_groups()) == 1
    # A replica that dies takes its group with it: else its successor would wait for ever.
    assert sorted(pool.map(die_first, range(4), str(tmp_path))) == [0, 1, 2, 3]
    assert len(living_groups()) == 1
    pool.close()
    assert not living_groups()
    # One GPU fits into a node: a plain actor, no group.
    alone = pool_of(tmp_path, gpus=1)
    assert list(alone.map(where, [0])) == [[]]
    alone.close()
