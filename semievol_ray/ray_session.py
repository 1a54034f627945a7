"""Connecting to Ray, and a bounded parallel map over its tasks."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from semievol_ray.config import RayConfig
from semievol_ray.credentials import redact, referred, resolve
from semievol_ray.errors import SemiEvolError, UserError

log = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")

# Where Ray tells the driver of a submitted job what it was submitted with.
_JOB_CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"
_REACH_SECONDS = 10.0
# Fewer shards than this are done before Ray has started its workers.
_FEWEST_FOR_RAY = 8
# A task that is waited for longer, while no CPU is free, has a word said about it.
_PATIENCE_SECONDS = 60.0


def connect(config: RayConfig) -> bool:
    """Attach to the cluster of the config, or start one here; true where it was started here.

    Raises UserError where nothing answers at `ray.address`.
    """
    # Must be set before Ray is imported: its own news are not the user's.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    import ray

    if ray.is_initialized():
        return False
    attach = config.address or os.environ.get("RAY_ADDRESS")
    runtime_env, secrets = _runtime_env(config, attached=bool(attach))
    options: dict[str, Any] = {
        "runtime_env": runtime_env,
        "log_to_driver": False,
        "logging_level": "ERROR",
    }
    if attach:
        _check_reachable(attach)
        options["address"] = attach
    else:
        # A machine's own cluster has no nodes that could be taken away: one process less to start.
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
        options |= {"num_cpus": config.num_cpus, "include_dashboard": False, "address": "local"}
    in_main = threading.current_thread() is threading.main_thread()
    terminated = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(**options)
        if in_main:
            # Ray puts a handler of its own in its place, which ends the process untidily.
            signal.signal(signal.SIGTERM, terminated)
    except Exception as error:  # a node that does not come up is a bare Exception of Ray's
        reason = " ".join(redact(str(error), secrets).split())[:300]
        if attach:
            raise UserError(f"ray.address: {attach}: no Ray cluster answers ({reason})") from None
        raise SemiEvolError(f"Ray does not start: {reason}") from None
    return not attach


def _runtime_env(config: RayConfig, *, attached: bool) -> tuple[dict[str, Any], list[str]]:
    """What Ray is told of its workers' environment, and which values in it are secrets.

    Ray keeps what it is told in its tables and in the logs of its nodes, in clear. So as little as
    can be is sent: workers of a cluster that starts here inherit this process's environment; a job
    leaves the variables to the nodes it runs on; only whoever attaches from elsewhere sends the
    values that are set here.
    """
    job = json.loads(os.environ.get(_JOB_CONFIG, "{}")).get("runtime_env") or {}
    ours = {"PATH": worker_path(), "TOKENIZERS_PARALLELISM": "false"}
    secrets = []
    for name, value in config.runtime_env.get("env_vars", {}).items():
        if not attached:
            os.environ[name] = resolve(value, f"ray.runtime_env.env_vars.{name}")
        elif _JOB_CONFIG not in os.environ and referred(value) in os.environ:
            ours[name] = resolve(value, name)
            secrets.append(ours[name])
        elif referred(value) != name:
            ours[name] = value  # Ray fills it in on each node
    # Ray refuses what both the job and the driver say, and prints it.
    told = {k: v for k, v in ours.items() if k not in job.get("env_vars", {})}
    others = {k: v for k, v in config.runtime_env.items() if k != "env_vars"}
    twice = sorted(others.keys() & job.keys())
    if twice:
        raise UserError(
            f"ray.runtime_env: the job that this runs in says {', '.join(twice)} too; say it once"
        )
    return others | {"env_vars": told}, secrets


def _check_reachable(address: str) -> None:
    """Raise UserError where nothing listens: Ray itself would go on asking for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon:
        return  # "auto" or "local": Ray looks for it
    if not port.isdigit():
        raise UserError(f"ray.address: {address}: expected HOST:PORT, or ray://HOST:PORT")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _REACH_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"ray.address: {address}: no Ray cluster answers ({error})") from None


def is_connected() -> bool:
    """Whether this process has a Ray session; Ray is not imported to find out."""
    ray = sys.modules.get("ray")
    return ray is not None and ray.is_initialized()


def disconnect() -> None:
    """Leave the cluster, and stop it where it was started here."""
    if is_connected():
        import ray

        ray.shutdown()


def most_gpus() -> float:
    """GPUs that the cluster has, or that its autoscaler may bring."""
    import ray

    return max([ray.cluster_resources().get("GPU", 0), *_scaled_gpus()])


def most_gpus_of_a_node() -> float:
    """GPUs of the largest node that the cluster has, or that its autoscaler may bring."""
    import ray

    living = [node["Resources"].get("GPU", 0) for node in ray.nodes() if node["Alive"]]
    return max([0, *living, *_gpus_of_groups()])


def has_gpu() -> bool:
    """Whether this process may compute on a GPU: one that Ray gave it; without Ray any that is.

    GPUs are hidden from no task (`connect`), and those that others were given are in use.
    """
    import torch

    if not (torch.cuda.is_available() and is_connected()):
        return torch.cuda.is_available()
    import ray

    return bool(ray.get_runtime_context().get_accelerator_ids()["GPU"])


def draining_nodes() -> set[str]:
    """Ids of the nodes that are being drained or taken away."""
    from ray._private.state import state

    return set(state.get_draining_nodes())


def _scaled_gpus() -> list[float]:
    """The most GPUs that the autoscaler's config allows; nothing where there is no autoscaler."""
    from ray._private.state import state

    most = state.get_max_resources_from_cluster_config()
    return [] if most is None else [float(most.get("GPU", 0))]


def _gpus_of_groups() -> list[float]:
    from ray._private.state import state

    config = state.get_cluster_config()
    groups = [] if config is None else config.node_group_configs
    return [float(group.resources.get("GPU", 0)) for group in groups]


def await_resources(bundle: dict[str, float], count: int, what: str, seconds: float) -> None:
    """Wait until the cluster has room for `count` bundles at once; says what for, once a minute.

    Raises SemiEvolError after so many seconds. A cluster that scales is asked to make the room.
    """
    import ray
    from ray.util.placement_group import placement_group, remove_placement_group

    words = ", ".join(f"{amount:g} {name}" for name, amount in bundle.items() if amount)
    needs = f"{what}: {count} x ({words})"
    group = placement_group([{k: v for k, v in bundle.items() if v} for _ in range(count)])
    deadline = time.monotonic() + seconds
    try:
        while not group.wait(min(_PATIENCE_SECONDS, max(0.1, deadline - time.monotonic()))):
            if time.monotonic() >= deadline:
                total = ray.cluster_resources()
                there = ", ".join(f"{total.get(name, 0):g} {name}" for name in bundle)
                raise SemiEvolError(
                    f"waited {seconds:.0f} s in vain for {needs}; the cluster has {there} in all"
                )
            log.warning("waiting for %s", needs)
    finally:
        remove_placement_group(group)


def worker_path() -> str:
    """PATH for Ray's workers: this environment's programs first.

    DeepSpeed compiles with `ninja` when it first runs, and an environment that is called by its
    path and never activated has its own programs on no PATH.
    """
    own = str(Path(sys.executable).parent)
    path = os.environ.get("PATH", os.defpath)
    return path if own in path.split(os.pathsep) else f"{own}{os.pathsep}{path}"


def bounded_map(
    function: Callable[..., R],
    items: Iterable[T],
    *arguments: Any,
    cpus: float = 1,
    gpus: float = 0,
) -> Iterator[R]:
    """`function(*arguments, item)` as Ray tasks, results in the order of the items.

    At most twice as many tasks as the cluster has CPUs are in flight, so that neither a million
    shards nor their results pile up. Says so where it waits for CPUs that others hold. Raises what
    the function raised.
    """
    import ray

    task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=3)(function)
    shared = [ray.put(argument) for argument in arguments]
    width = max(2, int(2 * ray.cluster_resources().get("CPU", 1)))
    queue: list[Any] = []
    source = iter(items)
    exhausted = answered = False
    while queue or not exhausted:
        while not exhausted and len(queue) < width:
            try:
                queue.append(task.remote(*shared, next(source)))
            except StopIteration:
                exhausted = True
        if queue:
            while not ray.wait(queue[:1], timeout=_PATIENCE_SECONDS)[0]:
                # Once one was answered, it is our own tasks that take the CPUs.
                if not answered and ray.available_resources().get("CPU", 0) < cpus:
                    log.warning("waiting for CPUs of the cluster: all are in use")
            try:
                yield ray.get(queue.pop(0))
                answered = True
            except ray.exceptions.RayTaskError as error:
                if isinstance(error.cause, SemiEvolError | ValueError):
                    raise error.cause from None
                raise SemiEvolError(
                    f"a task failed: {' '.join(str(error.cause).split())}"
                ) from error


def shard_map(
    config: RayConfig, shards: int, *, always_ray: bool = False, gpus: float = 0
) -> Callable[..., Iterable[Any]]:
    """`map` in this process for a few shards, as Ray tasks (with so many GPUs) for more."""
    if shards < _FEWEST_FOR_RAY and not always_ray:
        return map
    connect(config)

    def over_ray(function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        return bounded_map(_apply, items, function, gpus=gpus)

    return over_ray


def _apply(function: Callable[[T], R], item: T) -> R:
    return function(item)
