"""What many tests share: public data sets, the demo's tiny model, one Ray session."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

# On two busy cores Ray's workers, nice 15 by default, would starve.
os.environ.setdefault("RAY_worker_niceness", "0")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

ROOT = Path(__file__).parent.parent

# Public data sets: a few rows of our own in the form of each, and the whole sets, which are no part
# of the project, where they are at hand.
PUBLISHED = Path(__file__).parent / "published"
WHOLE = Path(os.environ.get("SEMIEVOL_DATA", ROOT.parent / "shared" / "data"))


# Folders whose tests take minutes: they are begun with, so that what is left at the end is short.
_LONG = ("e2e", "cluster", "chaos", "training", "engines", "submit")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long ones first: two processes take the files in this order."""

    def place(item: pytest.Item) -> int:
        folder = item.path.relative_to(ROOT / "tests").parts[0]
        return _LONG.index(folder) if folder in _LONG else len(_LONG)

    items.sort(key=place)


@pytest.fixture(
    scope="session",
    params=[pytest.param(PUBLISHED, id="few"), *[pytest.param(WHOLE, id="whole")] * WHOLE.is_dir()],
)
def published(request) -> Path:
    """A folder of public data sets: fpb, arc and banking77."""
    return request.param


@pytest.fixture(scope="session")
def tiny_model() -> Path:
    from semievol_ray.demo import MODEL

    return MODEL


@pytest.fixture(scope="module")
def ray_session() -> Iterator[None]:
    import ray

    from semievol_ray.config import RayConfig
    from semievol_ray.ray_session import connect

    connect(RayConfig(num_cpus=2))
    yield
    ray.shutdown()


@pytest.fixture
def node_without_memory(monkeypatch) -> Iterator[None]:
    """A cluster of one node whose memory monitor finds every worker too much."""
    import ray
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_memory_usage_threshold", "0.01")
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "100")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()
    cluster.shutdown()
