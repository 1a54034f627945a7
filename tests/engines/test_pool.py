"""The pool on real Ray: a killed replica costs time, a poisonous item costs one line."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest
from ray import cloudpickle

from semievol_ray import SemiEvolError, UserError
from semievol_ray.config import GenerationConfig, ModelConfig
from semievol_ray.engines import EnginePool, Request, Sampling

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("ray_session")]

# Ray's workers cannot import this file: its functions travel whole.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


def pool(replicas: int = 2, **options) -> EnginePool:
    model = ModelConfig(name="sim", engine="simulated", engine_options=options)
    config = GenerationConfig(
        replicas={"min": replicas, "max": replicas}, cpus_per_replica=0.5, max_restarts=5
    )
    return EnginePool(model, config)


async def answer(engine, folder: str, item: int) -> int:
    await engine.generate([Request(f"item {item}", item)], Sampling(1, 1, 4))
    with (Path(folder) / f"{item}.{os.getpid()}").open("x"):
        pass
    return item


async def answer_or_die_once(engine, folder: str, item: int) -> int:
    marker = Path(folder) / "died"
    if item == 7 and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    await asyncio.sleep(0.01)
    return item


async def fail(engine, item: int) -> int:
    raise UserError("the key is refused")


def test_every_item_is_done_once_by_several_processes(tmp_path) -> None:
    replicas = pool(tokens_per_second=100)
    assert sorted(replicas.map(answer, range(20), str(tmp_path))) == list(range(20))
    files = [p.name.split(".") for p in tmp_path.iterdir()]
    assert sorted(int(item) for item, _ in files) == list(range(20))
    assert len({pid for _, pid in files}) == 2
    # The same replicas serve the next map.
    assert sorted(replicas.map(answer, range(20, 24), str(tmp_path))) == [20, 21, 22, 23]
    assert {p.name.split(".")[1] for p in tmp_path.iterdir()} == {pid for _, pid in files}
    replicas.close()


def test_a_killed_replicas_work_is_done_by_another(tmp_path) -> None:
    replicas = pool()
    assert sorted(replicas.map(answer_or_die_once, range(20), str(tmp_path))) == list(range(20))
    assert (tmp_path / "died").exists()
    replicas.close()


def test_an_item_that_kills_every_replica_is_named(tmp_path) -> None:
    replicas = pool(poison="item 3")
    with pytest.raises(SemiEvolError, match="3 killed 3 replicas") as caught:
        list(replicas.map(answer, range(6), str(tmp_path)))
    assert "\n" not in str(caught.value)
    replicas.close()


def test_a_users_mistake_comes_back_unchanged() -> None:
    replicas = pool()
    with pytest.raises(UserError, match="^the key is refused$"):
        list(replicas.map(fail, [1]))
    replicas.close()
    broken = pool(chioces=["A"])
    with pytest.raises(UserError, match="the simulated engine has no chioces"):
        list(broken.map(fail, [1]))
    broken.close()
