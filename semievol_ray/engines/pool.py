"""An autoscaling pool of replicas that maps a function over items, whoever dies on the way."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Hashable, Iterable, Iterator
from pathlib import Path
from typing import Any

from semievol_ray.config import GenerationConfig, ModelConfig
from semievol_ray.engines.fleet import Fleet
from semievol_ray.engines.replica import Replica, Work
from semievol_ray.errors import SemiEvolError
from semievol_ray.store import RunDirectory, digest

_POLL_SECONDS = 5.0


class EnginePool:
    """Replicas of one base model. They live until `close`, over any number of maps."""

    def __init__(
        self,
        model: ModelConfig,
        config: GenerationConfig,
        run: RunDirectory,
        *,
        adapter_rank: int | None = None,
        log_folder: Path | None = None,
    ) -> None:
        self.model = model
        self.config = config
        self.run = run
        self.log_folder = log_folder
        self.options = {
            "adapters": adapter_rank is not None,
            "max_lora_rank": adapter_rank or 16,
            "batch_rows": config.batch_rows,
            "tensor_parallel": config.tensor_parallel,
            "pipeline_parallel": config.pipeline_parallel,
            "max_concurrency": config.max_concurrency,
            "request_timeout_seconds": config.request_timeout_seconds,
            "threads": max(1, int(config.cpus_per_replica)),
        }
        self._actors: dict[int, Any] = {}
        self._idle: list[Any] = []

    def map(self, work: Work, items: Iterable[Hashable], *arguments: Any) -> Iterator[Any]:
        """`await work(engine, *arguments, item)` of every item, in the order of completion.

        Raises what `work` raises (UserError and SemiEvolError unchanged); SemiEvolError where
        replicas keep dying, an item kills its replicas, or nothing moves for `stall_seconds`.
        """
        import ray

        bounds = self.config.replicas
        fleet = Fleet(items, max_deaths=self.config.max_restarts * bounds.max)
        pending: dict[Any, tuple[int, Hashable | None]] = {}
        last_progress = time.monotonic()
        try:
            while not fleet.finished:
                for _ in range(fleet.wanted(bounds.min, bounds.max)):
                    number = fleet.start()
                    self._actors[number] = self._idle.pop() if self._idle else self._start(number)
                    pending[self._actors[number].ready.remote()] = (number, None)
                while (assignment := fleet.next_assignment()) is not None:
                    replica, item = assignment
                    actor, call = self._actors[replica], (work, *arguments, item)
                    if fleet.needs_care(item):
                        journal = _journal(self.model, work, item)
                        reference = actor.run_carefully.remote(self.run, journal, *call)
                    else:
                        reference = actor.run.remote(*call)
                    pending[reference] = assignment
                done, _ = ray.wait(list(pending), timeout=_POLL_SECONDS)
                for reference in done:
                    if reference not in pending:
                        continue  # its replica's death was handled with another of its items
                    replica, item = pending.pop(reference)
                    try:
                        result = ray.get(reference)
                    except ray.exceptions.RayActorError as error:
                        pending = {r: p for r, p in pending.items() if p[0] != replica}
                        self._actors.pop(replica, None)
                        careful = item is not None and fleet.needs_care(item)
                        lost = fleet.died(replica)
                        if careful and not self.run.exists(_journal(self.model, work, item)):
                            # It died before any request was made: no row is to blame.
                            lost = [item]
                        self._check_losses(fleet, lost, error)
                        continue
                    except ray.exceptions.RayTaskError as error:
                        raise _cause(error) from error
                    last_progress = time.monotonic()
                    if item is None:
                        fleet.became_ready(replica)
                    else:
                        if fleet.needs_care(item):
                            self.run.delete(_journal(self.model, work, item))
                        fleet.completed(replica, item)
                        yield result
                if time.monotonic() - last_progress > self.config.stall_seconds:
                    raise SemiEvolError(self._stalled(fleet))
        finally:
            # Replicas still busy with work that nobody waits for any more are of no use.
            busy = {replica for replica, item in pending.values()}
            for number, actor in self._actors.items():
                if number in busy:
                    ray.kill(actor)
                else:
                    self._idle.append(actor)
            self._actors.clear()

    def close(self) -> None:
        """Stop every replica and give its resources back to the cluster."""
        import ray

        for actor in self._idle:
            with contextlib.suppress(ray.exceptions.RayError):
                ray.get(actor.close.remote(), timeout=30)
            ray.kill(actor)
        self._idle.clear()

    def _start(self, number: int) -> Any:
        import ray

        gpus = self.config.gpus_per_replica
        if gpus is None:
            per_engine = self.config.tensor_parallel * self.config.pipeline_parallel
            has_gpu = ray.cluster_resources().get("GPU", 0) > 0
            uses_gpu = self.model.engine in ("vllm", "transformers")
            gpus = per_engine if has_gpu and uses_gpu else 0
        log_file = None
        if self.log_folder is not None:
            name = "".join(c if c.isalnum() else "-" for c in self.model.name.split("/")[-1])
            log_file = str(self.log_folder / f"replica-{name}-{number}.log")
        # max_restarts stays 0: a dead replica is replaced by a new one, never revived.
        remote = ray.remote(num_cpus=self.config.cpus_per_replica, num_gpus=gpus)(Replica)
        return remote.options(max_concurrency=16).remote(self.model, log_file, self.options)

    def _check_losses(self, fleet: Fleet, lost: list[Hashable], error: Exception) -> None:
        where = f"; see {self.log_folder}" if self.log_folder else ""
        reason = _death_reason(error)
        if lost:
            raise SemiEvolError(
                f"model {self.model.name}: {lost[0]} killed {fleet.attempts[lost[0]]} replicas"
                f" ({reason}){where}"
            )
        if fleet.hopeless:
            raise SemiEvolError(
                f"model {self.model.name}: replicas died {fleet.deaths} times ({reason}){where}"
            )

    def _stalled(self, fleet: Fleet) -> str:
        held = {r: [str(i) for i in items] for r, items in fleet.ready.items() if items}
        return (
            f"model {self.model.name}: no progress for {self.config.stall_seconds:.0f} s; "
            f"{len(fleet.starting)} replicas are starting, in flight: {held or 'nothing'}; "
            "are there enough CPUs and GPUs for one replica?"
        )


def _journal(model: ModelConfig, work: Work, item: Hashable) -> str:
    """Where the requests in flight of an item under suspicion are written down."""
    return f"journal/{digest([model.name, work.__name__, str(item)])}.json"


def _cause(error: Any) -> Exception:
    """What was raised inside a replica, as the driver should raise it."""
    cause = error.cause
    if isinstance(cause, SemiEvolError):
        return cause
    if type(cause).__name__ in ("OutOfMemoryError", "MemoryError"):
        return SemiEvolError(
            "a replica ran out of memory: lower generation.batch_rows or model.max_model_len, "
            "or raise generation.tensor_parallel"
        )
    reason = " ".join(str(cause).split())[:300]
    return SemiEvolError(f"a replica failed: {type(cause).__name__}: {reason}")


def _death_reason(error: Exception) -> str:
    """How an actor died, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__
