"""Memory runs out under a replica: the run says what to lower, and does not hang.

Ray's own monitor kills what uses the most when a node has too little left; here its threshold is
set so low that every replica is too much.
"""

from __future__ import annotations

import sys

import pytest
from ray import cloudpickle

from semievol_ray import SemiEvolError
from semievol_ray.config import GenerationConfig, ModelConfig
from semievol_ray.engines import EnginePool
from semievol_ray.store import RunDirectory

pytestmark = [pytest.mark.e2e, pytest.mark.chaos]
cloudpickle.register_pickle_by_value(sys.modules[__name__])


async def take_long(engine, item: int) -> int:
    import asyncio

    await asyncio.sleep(30)
    return item


def test_what_to_lower_is_said(node_without_memory, tmp_path) -> None:
    model = ModelConfig(name="sim", engine="simulated")
    config = GenerationConfig(max_restarts=2, stall_seconds=60)
    pool = EnginePool(model, config, RunDirectory(str(tmp_path)))
    with pytest.raises(SemiEvolError, match=r"out of memory: lower generation.batch_rows"):
        list(pool.map(take_long, range(3)))
