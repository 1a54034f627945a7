"""Metrics as Prometheus sees them: scraped from the node's own exporter."""

from __future__ import annotations

import re
import time
from urllib.request import urlopen

import pytest
import ray

from semievol_ray.config import GenerationConfig, ModelConfig
from semievol_ray.engines import Batch, EnginePool, FleetState, Request, Sampling
from semievol_ray.store import RunDirectory

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("ray_session")]


async def answer(engine, item: int) -> int:
    batch = Batch([Request(f"item {item}", item)] * 10, Sampling(1, 1, 4))
    return sum((await engine.answer(batch)).generated["tokens"].to_pylist())


def scraped(url: str) -> dict[str, float]:
    """The newest value of each of the product's metrics, summed over its tags."""
    with urlopen(url, timeout=10) as reply:
        text = reply.read().decode()
    found: dict[str, float] = {}
    for name, value in re.findall(r"^ray_(semievol_\w+)\{[^}]*metered[^}]*\} (\S+)$", text, re.M):
        found[name] = found.get(name, 0.0) + float(value)
    return found


def test_rows_tokens_and_the_fleet_reach_prometheus(tmp_path) -> None:
    answer.__module__ = "__main__"  # workers cannot import this file
    model = ModelConfig(name="metered", engine="simulated", engine_options={"failure_rate": 0.2})
    pool = EnginePool(model, GenerationConfig(), RunDirectory(str(tmp_path)))
    seen: list[FleetState] = []
    tokens = sum(pool.map(answer, range(30), watch=seen.append))
    assert seen[-1].ready == 1 and seen[0].waiting == 30
    node = ray.nodes()[0]
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    deadline = time.monotonic() + 60
    while True:
        found = scraped(url)
        counted = found.get("semievol_responses_total", 0) + found.get(
            "semievol_failed_responses_total", 0
        )
        if counted == 300 or time.monotonic() > deadline:
            break
        time.sleep(1)
    pool.close()
    assert counted == 300
    assert 0 < found["semievol_failed_responses_total"] < 300
    assert found["semievol_tokens_total"] == tokens
    assert found["semievol_call_seconds_count"] == 30
    assert {"semievol_replicas", "semievol_shards", "semievol_replica_deaths"} <= found.keys()
