"""A machine that goes, and a pool whose replicas and nodes are killed again and again, on real Ray.

A fake fleet would miss what breaks here: how a lost node's actors report their death, and that a
replacement which finds no place does not hold up the work.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from ray import cloudpickle
from ray.cluster_utils import Cluster

from semievol_ray import SemiEvolError
from semievol_ray.config import GenerationConfig, ModelConfig
from semievol_ray.engines import Batch, EnginePool, Request, Sampling
from semievol_ray.engines import pool as pool_module
from semievol_ray.engines.placement import place
from semievol_ray.store import RunDirectory

pytestmark = [pytest.mark.e2e, pytest.mark.chaos]

# Ray's workers cannot import this file: its functions travel whole.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

# For a soak: SEMIEVOL_SOAK_KILLS=100.
KILLS = int(os.environ.get("SEMIEVOL_SOAK_KILLS", "6"))


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A head without room for work, to which a test adds nodes."""
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    yield made
    ray.shutdown()
    made.shutdown()


def make_pool(run: Path, replicas: int, **config) -> EnginePool:
    model = ModelConfig(name="sim", engine="simulated", engine_options={"tokens_per_second": 20.0})
    bounds = {"min": replicas, "max": replicas}
    return EnginePool(model, GenerationConfig(replicas=bounds, **config), RunDirectory(str(run)))


async def answer(engine, run: RunDirectory, item: int) -> tuple[int, int]:
    """Answer and commit one item; returns it with the process that did."""
    found = await engine.answer(Batch([Request(f"item {item}", item)], Sampling(1, 1, 4)))
    run.write_table(f"{item:04}.parquet", found.generated)
    return item, os.getpid()


def committed(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in run.glob("*.parquet")}


def test_a_lost_node_costs_time_and_no_row(cluster, tmp_path) -> None:
    cluster.add_node(num_cpus=1)
    victim = cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    cluster.wait_for_nodes()
    pool = make_pool(tmp_path, 2, max_restarts=5)
    items, workers, lost = [], set(), False
    for item, worker in pool.map(answer, range(400), RunDirectory(str(tmp_path))):
        items.append(item)
        workers.add(worker)
        if len(workers) == 2 and not lost:
            cluster.remove_node(victim, allow_graceful=False)
            lost = True
    assert lost, "one node did all the work before the other was ready"
    pool.close()
    assert sorted(items) == list(range(400))
    assert len(committed(tmp_path)) == 400


def drain(node_id: str) -> None:
    """What a cloud's notice makes Ray do with a spot node: minutes to go, and nothing new."""
    from ray.core.generated import autoscaler_pb2

    client = ray._raylet.GcsClient(address=ray.get_runtime_context().gcs_address)
    reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    deadline = int((time.time() + 300) * 1000)
    accepted, why = client.drain_node(node_id, reason, "the spot node is reclaimed", deadline)
    assert accepted, why


def test_a_node_that_is_going_gets_nothing_new_and_loses_nothing(cluster, tmp_path) -> None:
    cluster.add_node(num_cpus=1)
    going = cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    cluster.wait_for_nodes()
    # Not one death is allowed: those who leave are not dead.
    pool = make_pool(tmp_path, 2, max_restarts=0)
    states, workers, drained = [], {}, None
    run = RunDirectory(str(tmp_path))
    for item, worker in pool.map(answer, range(300), run, watch=states.append):
        workers.setdefault(worker, []).append(item)
        if len(workers) == 2 and drained is None:
            drain(going.node_id)
            cluster.add_node(num_cpus=1)
            drained = sum(map(len, workers.values()))
    pool.close()
    assert sorted(i for items in workers.values() for i in items) == list(range(300))
    assert drained is not None and states[-1].deaths == 0 and states[-1].retries == 0
    # It finished what it held and no more, and another machine took its place.
    assert len(workers) == 3 and len(committed(tmp_path)) == 300


@ray.remote
class Somewhere:
    def node(self) -> str:
        return ray.get_runtime_context().get_node_id()


def test_a_node_where_replicas_keep_dying_is_avoided(cluster) -> None:
    bad, good = cluster.add_node(num_cpus=2), cluster.add_node(num_cpus=2)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    cluster.wait_for_nodes()
    made = [place(Somewhere, GenerationConfig(), {bad.node_id})[0] for _ in range(2)]
    actors = [actor.remote() for actor in made]
    assert {ray.get(a.node.remote(), timeout=60) for a in actors} == {good.node_id}


def test_a_pool_that_finds_no_place_says_so(cluster, tmp_path, monkeypatch, caplog) -> None:
    monkeypatch.setattr(pool_module, "_PATIENCE_SECONDS", 1.0)
    cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    pool = make_pool(tmp_path, 1, cpus_per_replica=4, stall_seconds=6)
    with pytest.raises(SemiEvolError, match=r"no progress for 6 s; 1 replicas are start.*4 CPUs"):
        list(pool.map(answer, range(3), RunDirectory(str(tmp_path))))
    assert "waiting for room for a replica of sim: 4 CPUs" in caplog.text


@pytest.mark.timeout(3600)
def test_what_is_killed_at_random_leaves_the_same_bytes(cluster, tmp_path) -> None:
    """Replicas and whole nodes, while they load, answer or commit: wherever the moment falls."""
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    rng, count = random.Random(0), 40 * KILLS
    for name, kills in (("calm", 0), ("storm", KILLS)):
        run = tmp_path / name
        pool = make_pool(run, 2, max_restarts=2 * KILLS + 2)
        done, left, lost_nodes = [], kills, 0
        for item, worker in pool.map(answer, range(count), RunDirectory(str(run))):
            done.append(item)
            if not left or rng.random() > 1 / 20:
                continue
            if rng.random() < 1 / 4:
                cluster.remove_node(nodes.pop(0), allow_graceful=False)
                nodes.append(cluster.add_node(num_cpus=1))
                left, lost_nodes = left - 1, lost_nodes + 1
            else:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(worker, signal.SIGKILL)
                    left -= 1
        pool.close()
        assert sorted(done) == list(range(count))
        print(f"{name}: {count} shards, {kills - left} kills, {lost_nodes} of them nodes")
        assert left <= kills // 2, "too few kills to mean anything"
        assert bool(lost_nodes) == bool(kills)
    assert committed(tmp_path / "calm") == committed(tmp_path / "storm")
