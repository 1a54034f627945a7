"""The training loop on Ray's workers: one process each, gloo on CPUs, NCCL on GPUs."""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias, cast

from semievol_ray.config import TrainingConfig
from semievol_ray.errors import SemiEvolError, UserError
from semievol_ray.training import metrics
from semievol_ray.training.failures import Diverged, WorkerLost, is_out_of_memory, out_of_memory
from semievol_ray.training.job import OnProgress, Progress, TrainingJob, TrainingResult

_POLL_SECONDS = 0.2

# What a worker returns: the first one the result, or all of them an error that they agree on.
Outcome: TypeAlias = "TrainingResult | SemiEvolError"


def train_on_ray(job: TrainingJob, on_progress: OnProgress) -> TrainingResult:
    """Run the job on `config.workers` workers of Ray; `on_progress` is called in this process.

    Several workers are Ray Train's. A lone one is a task: it needs no controller, and Ray gives its
    process, with all that it has imported, to whoever comes next, which is what keeps the start of
    the second training of a run short.

    Raises what the workers raised: UserError and SemiEvolError as they are, a worker's death that
    was not survived as SemiEvolError with its rank.
    """
    with _following(metrics.metrics_file(job), on_progress):
        outcome = _train_as_task(job) if job.config.workers == 1 else _train_as_group(job)
    if isinstance(outcome, SemiEvolError):
        raise outcome
    assert outcome is not None, "the first worker returns the result"
    return outcome


def _train_as_task(job: TrainingJob) -> Outcome | None:
    import ray
    from ray.exceptions import RayError, RayTaskError

    config = job.config
    task = ray.remote(_lone_worker).options(
        num_cpus=config.cpus_per_worker,
        num_gpus=_gpus_per_worker(job),
        max_retries=config.max_failures,
        name=f"train {job.output_dir.name}",
    )
    try:
        return ray.get(task.remote(job))
    except RayTaskError as error:
        raise _cause({0: error.cause}, error, config) from error
    except RayError as error:
        raise _cause({0: error}, error, config) from error


def _train_as_group(job: TrainingJob) -> Outcome | None:
    from ray.train.v2.api.exceptions import ControllerError, TrainingFailedError

    failures_left = job.config.max_failures
    while True:
        try:
            return _new_trainer(job).fit().return_value
        except ControllerError as error:
            # A worker that dies while its controller asks after it is "unavailable" and not dead
            # for a moment, and Ray Train 2.60 gives up. The checkpoint is ours: begin again there.
            if not failures_left:
                raise _cause({}, error, job.config) from error
            failures_left -= 1
        except TrainingFailedError as error:
            raise _cause(getattr(error, "worker_failures", {}), error, job.config) from error


def _new_trainer(job: TrainingJob) -> Any:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.train.v2.api.config import LoggingConfig

    config = job.config
    # Typed as Ray Train v1, which these names no longer are.
    new_trainer, new_run_config = cast(Any, TorchTrainer), cast(Any, RunConfig)
    new_scaling_config = cast(Any, ScalingConfig)
    gpus = _gpus_per_worker(job)
    fewest = config.min_workers or config.workers
    return new_trainer(
        _group_worker,
        train_loop_config={"job": job},
        torch_config=TorchConfig(
            backend="nccl" if gpus else "gloo", timeout_s=math.ceil(config.timeout_seconds)
        ),
        scaling_config=new_scaling_config(
            num_workers=(fewest, config.workers) if fewest < config.workers else fewest,
            use_gpu=gpus > 0,
            resources_per_worker={"CPU": config.cpus_per_worker} | ({"GPU": gpus} if gpus else {}),
        ),
        run_config=new_run_config(
            # Our own checkpoints carry a training over; Ray Train's record of an earlier attempt
            # must not.
            name=f"ray-{time.time_ns()}",
            storage_path=str(job.scratch_dir.resolve()),
            failure_config=FailureConfig(max_failures=config.max_failures),
            logging_config=LoggingConfig(log_level="ERROR"),
        ),
    )


def _group_worker(settings: dict[str, Any]) -> Outcome | None:
    import ray.train

    return _work(settings["job"], ray.train.get_context().get_world_rank())


def _lone_worker(job: TrainingJob) -> Outcome | None:
    return _work(job, rank=0)


def _work(job: TrainingJob, rank: int) -> Outcome | None:
    from semievol_ray.training.world import import_transformers, prepare_environment

    with _output_in(job.scratch_dir / "logs" / f"worker-{rank}.log"):
        prepare_environment()
        import_transformers()

        import torch

        from semievol_ray.training.loop import train_worker

        torch.set_num_threads(max(1, int(job.config.cpus_per_worker)))
        try:
            return train_worker(job, metrics.Writer(job))
        except (UserError, Diverged) as error:
            # Every worker finds the same, so none waits for another. Raised, it would be tried
            # again.
            return error


@contextmanager
def _output_in(log_file: Path) -> Iterator[None]:
    """What this process and its libraries print goes to a file, for as long as this lasts."""
    log_file.parent.mkdir(parents=True, exist_ok=True)
    streams = (sys.stdout, sys.stderr)
    kept = [os.dup(stream.fileno()) for stream in streams]
    with log_file.open("a") as file:
        for stream in streams:
            stream.flush()
            os.dup2(file.fileno(), stream.fileno())
    try:
        yield
    finally:
        for stream, descriptor in zip(streams, kept, strict=True):
            stream.flush()
            os.dup2(descriptor, stream.fileno())
            os.close(descriptor)


@contextmanager
def _following(file: Path, on_progress: OnProgress) -> Iterator[None]:
    """Hand on every step that the first worker appends to the metrics file, until the end.

    Steps that are taken again after a worker's death are handed on once.
    """
    ended = threading.Event()
    reader = metrics.Reader(file)
    last = 0

    def hand_on(progress: Progress) -> None:
        nonlocal last
        if progress.step > last:
            last = progress.step
            on_progress(progress)

    def follow() -> None:
        while not ended.wait(_POLL_SECONDS):
            reader.read_new(hand_on)

    thread = threading.Thread(target=follow, name="training-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        reader.read_new(hand_on)


def _gpus_per_worker(job: TrainingJob) -> float:
    import ray

    if job.config.gpus_per_worker is not None:
        return job.config.gpus_per_worker
    return 1 if ray.cluster_resources().get("GPU", 0) >= 1 else 0


def _cause(
    failures: Mapping[int, BaseException], error: Exception, config: TrainingConfig
) -> SemiEvolError:
    """The error that a person can act on: ours where a worker raised one, else the first.

    That another worker is gone is said only where no worker says why.
    """
    if any(is_out_of_memory(failure) for failure in (*failures.values(), error)):
        return out_of_memory(config)
    ours = [f for f in failures.values() if isinstance(f, SemiEvolError)]
    if ours:
        return min(ours, key=lambda failure: isinstance(failure, WorkerLost))
    for rank, failure in sorted(failures.items()):
        lines = [line.strip() for line in str(failure).splitlines() if line.strip()]
        reason = lines[-1] if lines else repr(failure)
        return SemiEvolError(f"training worker {rank} failed: {reason}")
    return SemiEvolError(f"training failed: {' '.join(str(error).split())[:500]}")
