"""The pool on real Ray: a killed replica costs time, a poisonous item costs one line."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ray import cloudpickle

from semievol_ray import SemiEvolError, UserError
from semievol_ray.config import GenerationConfig, ModelConfig
from semievol_ray.engines import Batch, EnginePool, Request, Sampling
from semievol_ray.store import RunDirectory

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("ray_session")]

# Ray's workers cannot import this file: its functions travel whole.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


@pytest.fixture
def pool(tmp_path) -> Iterator[Callable[..., EnginePool]]:
    made: list[EnginePool] = []

    def make(replicas: int = 2, **options) -> EnginePool:
        model = ModelConfig(name="sim", engine="simulated", engine_options=options)
        config = GenerationConfig(
            replicas={"min": replicas, "max": replicas}, cpus_per_replica=0.5, max_restarts=5
        )
        made.append(EnginePool(model, config, RunDirectory(str(tmp_path / "run"))))
        return made[-1]

    yield make
    for each in made:
        each.close()


async def answer(engine, folder: str, item: int) -> int:
    await engine.answer(Batch([Request(f"item {item}", item)], Sampling(1, 1, 4)))
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


def test_every_item_is_done_once_by_several_processes(pool, tmp_path) -> None:
    replicas = pool(tokens_per_second=2)  # time enough for the second to be there
    assert sorted(replicas.map(answer, range(20), str(tmp_path))) == list(range(20))
    files = [p.name.split(".") for p in tmp_path.iterdir()]
    assert sorted(int(item) for item, _ in files) == list(range(20))
    assert len({pid for _, pid in files}) == 2
    # The same replicas serve the next map.
    assert sorted(replicas.map(answer, range(20, 24), str(tmp_path))) == [20, 21, 22, 23]
    assert {p.name.split(".")[1] for p in tmp_path.iterdir()} == {pid for _, pid in files}


def test_a_killed_replicas_work_is_done_by_another(pool, tmp_path) -> None:
    replicas = pool()
    assert sorted(replicas.map(answer_or_die_once, range(20), str(tmp_path))) == list(range(20))
    assert (tmp_path / "died").exists()


async def answer_in_turn(engine, item: int) -> int:
    for number in range(8):
        await engine.answer(Batch([Request("one of many", number)], Sampling(1, 1, 4)))
        await asyncio.sleep(0.5)
    return item


def counts_told(replicas: EnginePool) -> list[int]:
    told: list[int] = []
    watch = lambda state: told.append(state.answered)  # noqa: E731
    assert list(replicas.map(answer_in_turn, [1], watch=watch)) == [1]
    return told


def test_what_is_answered_within_an_item_is_told_before_that_is_done(pool) -> None:
    replicas = pool(1)
    # The second map's replica has a past, which is not counted.
    for told in (counts_told(replicas), counts_told(replicas)):
        assert told == sorted(told) and any(0 < count < 8 for count in told), told


async def answer_many(engine, folder: str, item: int) -> list[str]:
    requests = [Request(f"row {item * 100 + row}.", row) for row in range(100)]
    sampling = Sampling(1, 1, 4)
    replies = await engine.answer(Batch(requests, sampling, [["A", "B"]] * 100))
    generated, scores = replies.generated, replies.scores
    assert [s is None for s in scores.to_pylist()] == [
        reason == "engine_crash" for reason in generated["finish_reason"].to_pylist()
    ]
    (Path(folder) / f"{item}.txt").write_text("\n".join(map(str, generated.to_pylist())))
    return generated["finish_reason"].to_pylist()


def test_rows_that_kill_their_engine_cost_themselves_alone(pool, tmp_path) -> None:
    """Two of 600 rows are poison: every other row is answered as if they were not there."""
    for name, options in (("fine", {}), ("poisoned", {"poison": ("row 217.", "row 250.")})):
        (tmp_path / name).mkdir()
        found = list(pool(**options).map(answer_many, range(6), str(tmp_path / name)))
        crashed = sum(reasons.count("engine_crash") for reasons in found)
        assert crashed == (2 if options else 0)
    for item in range(6):
        fine, poisoned = (
            (tmp_path / name / f"{item}.txt").read_text().splitlines()
            for name in ("fine", "poisoned")
        )
        differing = [i for i, (a, b) in enumerate(zip(fine, poisoned, strict=True)) if a != b]
        assert differing == ([17, 50] if item == 2 else [])
    assert not list((tmp_path / "run").rglob("*.json")), "a record stayed behind"


async def answer_slowly(engine, item: int) -> int:
    await engine.answer(Batch([Request("slow", item)], Sampling(1, 1, 8)))
    return item


async def stand_still(engine, item: int) -> int:
    await asyncio.sleep(60)
    return item


async def do_nothing(engine, item: int) -> int:
    return item


def test_slow_work_is_told_from_work_that_stands_still(tmp_path) -> None:
    """One item takes three times the patience, but replies keep coming."""

    def make(**options) -> EnginePool:
        model = ModelConfig(name="sim", engine="simulated", engine_options=options)
        pool = EnginePool(model, GenerationConfig(), RunDirectory(str(tmp_path / "run")))
        # The patience is with work: how long a replica takes to start is the machine's affair.
        assert list(pool.map(do_nothing, [0])) == [0]
        pool.config = pool.config.model_copy(update={"stall_seconds": 3})
        return pool

    slow = make(tokens_per_second=1 / 9)
    assert list(slow.map(answer_slowly, [1])) == [1]
    slow.close()
    still = make()
    with pytest.raises(SemiEvolError, match=r"no progress for 3 s.*room for one replica \(1 CPUs"):
        list(still.map(stand_still, [1]))
    still.close()


async def die(engine, item: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_work_that_kills_whatever_it_is_asked_is_given_up(pool) -> None:
    with pytest.raises(SemiEvolError, match="3 killed 3 replicas") as caught:
        list(pool(1).map(die, [3]))
    assert "\n" not in str(caught.value)


def test_a_users_mistake_comes_back_unchanged(pool) -> None:
    replicas = pool()
    with pytest.raises(UserError, match="^the key is refused$"):
        list(replicas.map(fail, [1]))
    broken = pool(chioces=["A"])
    with pytest.raises(UserError, match="the simulated engine has no chioces"):
        list(broken.map(fail, [1]))
