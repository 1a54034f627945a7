"""Through Ray Train: the same training on real workers, their deaths, and the user's mistakes.

A mock of Ray would miss what breaks here: a fresh process's environment, the process group that
Ray makes, restarts, and how an error comes back. One Ray serves all the tests.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from semievol_ray.errors import UserError
from semievol_ray.training import Progress, TrainingJob, train
from tests.training.conftest import MakeJob, Workers, build_tiny_model, train_here

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module", autouse=True)
def ray_session() -> Iterator[None]:
    import ray

    os.environ |= {"RAY_worker_niceness": "0"}
    ray.init(
        address="local",
        num_cpus=4,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
    )
    yield
    ray.shutdown()


def worker_pids(scratch: Path) -> list[int]:
    """The processes whose output goes to this job's logs."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            target = (process / "fd" / "1").readlink()
        except OSError:
            continue
        if target.parent == scratch / "logs" and target.name.startswith("worker-"):
            found.append(int(process.name))
    return found


def test_a_killed_worker_costs_the_steps_since_the_checkpoint_and_not_a_bit(
    make_job: MakeJob, two_workers: Workers
) -> None:
    options = {
        "workers": 2,
        # Steps enough that the workers are still at it when the news of the fifth arrives.
        "epochs": 30,
        "checkpoint_every_steps": 4,
        "zero_stage": 2,
        # One is ours. On a busy machine Ray Train takes the end of the old group for another.
        "max_failures": 3,
    }
    job = make_job(**options)
    killed: list[int] = []
    seen: list[Progress] = []

    def kill_once(progress: Progress) -> None:
        seen.append(progress)
        if killed or progress.step < 5:
            return
        killed.append(worker_pids(job.scratch_dir)[-1])
        os.kill(killed[0], signal.SIGKILL)

    result = train(job, on_progress=kill_once)
    assert killed and result.steps == 90
    assert [p.step for p in seen] == list(range(1, 91))

    # Nobody disturbs it, and nobody but torchrun's environment starts it.
    whole, _ = two_workers.train(make_job(**options))
    name = "adapter_model.safetensors"
    expected = load_file(whole.output_dir / name)
    for key, tensor in load_file(result.output_dir / name).items():
        assert torch.equal(tensor, expected[key]), key

    alone, steps = train_here(make_job(**(options | {"workers": 1})))
    assert alone.train_loss == pytest.approx(whole.train_loss, abs=1e-5)
    assert steps[-1].loss == pytest.approx(seen[-1].loss, abs=1e-5)


def test_a_lone_worker_is_a_task_whose_process_serves_the_next_training_too(
    make_job: MakeJob,
) -> None:
    processes: list[set[int]] = []
    for _ in range(2):
        job, seen = make_job(epochs=40), set[int]()

        def note_worker(_: Progress, job: TrainingJob = job, seen: set[int] = seen) -> None:
            seen.update(worker_pids(job.scratch_dir))

        result = train(job, on_progress=note_worker)
        processes.append(seen)
        assert (result.output_dir / "adapter_model.safetensors").exists()
    assert len(processes[0]) == 1 and processes[0] == processes[1]


def test_a_killed_lone_worker_is_started_again(make_job: MakeJob) -> None:
    job = make_job(epochs=30, checkpoint_every_steps=4, max_failures=1)
    killed: list[int] = []

    def kill_once(progress: Progress) -> None:
        if not killed and progress.step >= 5:
            killed.extend(worker_pids(job.scratch_dir))
            os.kill(killed[0], signal.SIGKILL)

    said: list[str] = []
    result = train(job, on_progress=kill_once, on_restart=said.append)
    assert killed and result.steps == 90
    assert said == ["a worker died; on from its checkpoint (1 of 1 times)"]


def test_elastic_training_starts_with_the_workers_that_fit(make_job: MakeJob) -> None:
    job = make_job(workers=2, min_workers=1, cpus_per_worker=3)
    assert train(job).steps == 3
    assert not (job.scratch_dir / "logs" / "worker-1.log").exists()


def test_a_mistake_that_only_a_worker_can_see_comes_back_in_one_line_and_is_not_retried(
    make_job: MakeJob, tmp_path: Path
) -> None:
    job = replace(make_job(max_length=3), base_model=str(build_tiny_model(tmp_path / "model")))
    with pytest.raises(UserError, match="max_length") as caught:
        train(job)
    assert "\n" not in str(caught.value)
