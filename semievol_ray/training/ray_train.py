"""The training loop on Ray's workers: one process each, gloo on CPUs, NCCL on GPUs."""

from __future__ import annotations

import ctypes
import gc
import itertools
import math
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeAlias, cast

from pyarrow import fs

from semievol_ray.config import TrainingConfig, given
from semievol_ray.errors import SemiEvolError, UserError
from semievol_ray.ray_session import await_resources, most_gpus
from semievol_ray.training import metrics
from semievol_ray.training.depot import Depot, remote
from semievol_ray.training.failures import Diverged, WorkerLost, is_out_of_memory, out_of_memory
from semievol_ray.training.job import OnProgress, OnRestart, Progress, TrainingJob, TrainingResult

_POLL_SECONDS = 0.2

# What a worker returns: the first one the result, or all of them an error that they agree on.
Outcome: TypeAlias = "TrainingResult | SemiEvolError"


def train_on_ray(
    job: TrainingJob, depot: Depot | None, on_progress: OnProgress, on_restart: OnRestart
) -> TrainingResult:
    """Run the job on `config.workers` workers of Ray; the callbacks are called in this process.

    Several workers are Ray Train's. A lone one is a task: it needs no controller, and Ray gives its
    process, with all that it has imported, to whoever comes next, which is what keeps the start of
    the second training of a run short.

    Raises what the workers raised: UserError and SemiEvolError as they are, a worker's death that
    was not survived as SemiEvolError with its rank.
    """
    config, gpus = job.config, _gpus_per_worker(job)
    await_resources(
        {"CPU": given(config.cpus_per_worker), "GPU": gpus},
        config.min_workers or given(config.workers),
        "the training's workers",
        job.wait_seconds,
    )
    filesystem = fs.LocalFileSystem() if depot is None else depot.run.filesystem
    with _following(metrics.Reader(filesystem, str(job.logs / metrics.FILE)), on_progress):
        train = _train_as_task if config.workers == 1 else _train_as_group
        outcome = train(job, depot, on_restart)
    if isinstance(outcome, SemiEvolError):
        raise outcome
    assert outcome is not None, "the first worker returns the result"
    return outcome


def _train_as_task(job: TrainingJob, depot: Depot | None, on_restart: OnRestart) -> Outcome | None:
    import ray
    from ray.exceptions import RayError, RayTaskError

    config = job.config
    gpus = _gpus_per_worker(job)
    options: dict[str, Any] = {
        "num_cpus": config.cpus_per_worker,
        "num_gpus": gpus,
        # Counted here: one that memory ran out for, Ray would try again for ever.
        "max_retries": 0,
        "name": f"train {job.output_dir.name}",
    }
    if gpus:
        # A process that stayed in Ray's pool would keep its GPU's memory from the engines.
        options["max_calls"] = 1
    task: Any = ray.remote(**options)(_lone_worker)
    for attempt in itertools.count(1):
        try:
            return ray.get(task.remote(job, depot))
        except RayTaskError as error:
            raise _cause({0: error.cause}, error, config) from error
        except RayError as error:
            if attempt > config.max_failures:
                raise _cause({0: error}, error, config) from error
            on_restart(_goes_on(error, attempt, config))
    raise AssertionError("unreachable")


def _goes_on(error: Exception, attempt: int, config: TrainingConfig) -> str:
    why = "ran out of memory" if is_out_of_memory(error) else "died"
    return f"a worker {why}; on from its checkpoint ({attempt} of {config.max_failures} times)"


def _train_as_group(job: TrainingJob, depot: Depot | None, on_restart: OnRestart) -> Outcome | None:
    from ray.train.v2.api.exceptions import ControllerError, TrainingFailedError

    for attempt in itertools.count(1):
        try:
            return _new_trainer(job, depot).fit().return_value
        except ControllerError as error:
            # A worker that dies while its controller asks after it is "unavailable" and not dead
            # for a moment, and Ray Train 2.60 gives up. The checkpoint is ours: begin again there.
            if attempt > job.config.max_failures:
                raise _cause({}, error, job.config) from error
            on_restart(_goes_on(error, attempt, job.config))
        except TrainingFailedError as error:
            raise _cause(getattr(error, "worker_failures", {}), error, job.config) from error
    raise AssertionError("unreachable")


def _new_trainer(job: TrainingJob, depot: Depot | None) -> Any:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.train.v2.api.config import LoggingConfig

    config = job.config
    # Typed as Ray Train v1, which these names no longer are.
    new_trainer, new_run_config = cast(Any, TorchTrainer), cast(Any, RunConfig)
    new_scaling_config = cast(Any, ScalingConfig)
    gpus = _gpus_per_worker(job)
    workers = given(config.workers)
    fewest = config.min_workers or workers
    return new_trainer(
        _group_worker,
        train_loop_config={"job": job, "depot": depot},
        torch_config=TorchConfig(
            backend="nccl" if gpus else "gloo", timeout_s=math.ceil(config.timeout_seconds)
        ),
        scaling_config=new_scaling_config(
            num_workers=(fewest, workers) if fewest < workers else fewest,
            use_gpu=gpus > 0,
            resources_per_worker={"CPU": config.cpus_per_worker} | ({"GPU": gpus} if gpus else {}),
        ),
        run_config=new_run_config(
            # Our own checkpoints carry a training over; Ray Train's record of an earlier attempt
            # must not.
            name=f"ray-{time.time_ns()}",
            **_storage(job, depot),
            failure_config=FailureConfig(max_failures=config.max_failures),
            logging_config=LoggingConfig(log_level="ERROR"),
        ),
    )


def _storage(job: TrainingJob, depot: Depot | None) -> dict[str, Any]:
    """Where Ray Train keeps its own notes: where every worker can write."""
    if depot is None or depot.is_shared:
        return {"storage_path": str(job.scratch_dir.resolve())}
    return {"storage_path": str(job.scratch_dir), "storage_filesystem": depot.run.filesystem}


def _group_worker(settings: dict[str, Any]) -> Outcome | None:
    import ray.train

    rank = ray.train.get_context().get_world_rank()
    return _work(settings["job"], settings["depot"], rank)


def _lone_worker(job: TrainingJob, depot: Depot | None) -> Outcome | None:
    try:
        return _work(job, depot, rank=0)
    finally:
        give_back_memory()


def give_back_memory() -> None:
    """Leave the engines what a training held: this process stays, idle, for the next one.

    DeepSpeed's objects refer to one another in circles, and glibc keeps what is freed.
    """
    gc.collect()
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _work(job: TrainingJob, depot: Depot | None, rank: int) -> Outcome | None:
    if depot is not None:
        try:
            job = depot.localised(job, rank)
        except UserError as error:
            return error
    log_file = job.logs / f"worker-{rank}.log"
    try:
        outcome = _train(job, depot, log_file)
        if depot is not None and isinstance(outcome, TrainingResult):
            depot.take_result(job)
        return outcome
    finally:
        if (elsewhere := remote(depot)) is not None:
            elsewhere.put(job.logs, "logs")


def _train(job: TrainingJob, depot: Depot | None, log_file: Path) -> Outcome | None:
    from semievol_ray.model_files import import_transformers
    from semievol_ray.training.world import prepare_environment, uses_gpu

    with _output_in(log_file):
        try:
            gpu = uses_gpu(job.config.gpus_per_worker)
        except UserError as error:
            return error
        prepare_environment(gpu=gpu)
        import_transformers()

        import torch

        from semievol_ray.training.loop import train_worker

        torch.set_num_threads(max(1, int(given(job.config.cpus_per_worker))))
        try:
            return train_worker(job, metrics.Writer(job, depot), depot)
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
def _following(reader: metrics.Reader, on_progress: OnProgress) -> Iterator[None]:
    """Hand on every step that the first worker appends to the metrics file, until the end.

    Steps that are taken again after a worker's death are handed on once.
    """
    ended = threading.Event()
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
    asked = job.config.gpus_per_worker
    return asked if asked is not None else float(most_gpus() >= 1)


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
