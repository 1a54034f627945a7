"""Tasks over Ray on a cluster that others use."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading

import pytest
import ray

from semievol_ray import SemiEvolError, ray_session

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("ray_session")]


@ray.remote(num_cpus=2)
class Neighbour:
    """Holds both CPUs for as long as it lives."""

    def ready(self) -> None:
        pass


def test_tasks_that_wait_for_cpus_of_others_say_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ray_session, "_PATIENCE_SECONDS", 0.5)
    neighbour = Neighbour.remote()
    ray.get(neighbour.ready.remote())
    leaves = threading.Timer(3, ray.kill, [neighbour])
    leaves.start()
    with caplog.at_level(logging.WARNING):
        found = list(ray_session.bounded_map(os.path.basename, [f"run/{i}" for i in range(5)]))
    assert found == ["0", "1", "2", "3", "4"]
    assert "waiting for CPUs of the cluster" in caplog.text


def test_what_is_waited_for_is_said_and_the_wait_ends(ray_session) -> None:
    from semievol_ray.ray_session import await_resources

    await_resources({"CPU": 1, "GPU": 0}, 2, "the training's workers", 30)
    wanted = r"waited 2 s in vain for the training's workers: 3 x \(1 CPU\); the cluster has 2 CPU"
    with pytest.raises(SemiEvolError, match=wanted):
        await_resources({"CPU": 1}, 3, "the training's workers", 2)
    # What was asked for in vain is not held.
    await_resources({"CPU": 2}, 1, "the training's workers", 30)


# Two GPUs that are not there: what Ray hands out is what counts, and torch says that it sees one.
GIVEN_AND_NOT = """
import os
os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
import ray

def asked():
    import torch
    torch.cuda.is_available = lambda: True
    from semievol_ray.ray_session import has_gpu
    return has_gpu()

print(asked(), end=" ")
ray.init(address="local", num_cpus=2, num_gpus=2, include_dashboard=False, logging_level="ERROR")
tasks = [ray.remote(num_gpus=n)(asked).remote() for n in (0, 1, 0.5)]
print(*ray.get(tasks), asked())
"""


def test_who_was_given_no_gpu_computes_on_none() -> None:
    done = subprocess.run(
        [sys.executable, "-c", GIVEN_AND_NOT], capture_output=True, text=True, timeout=120
    )
    assert done.stdout.split() == ["True", "False", "True", "True", "False"], done.stderr[-2000:]
