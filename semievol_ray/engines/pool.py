"""An autoscaling pool of replicas that maps a function over items, whoever dies on the way."""

from __future__ import annotations

import contextlib
import logging
import re
import time
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from semievol_ray.config import ENGINES, GenerationConfig, ModelConfig, given
from semievol_ray.engines.answered import Answered
from semievol_ray.engines.fleet import Fleet, FleetState
from semievol_ray.engines.fleet_size import sized
from semievol_ray.engines.metrics import FleetMetrics
from semievol_ray.engines.placement import place, release
from semievol_ray.engines.protocol import EngineDied, EngineOptions
from semievol_ray.engines.replica import Replica, Work
from semievol_ray.engines.watchdog import Watchdog
from semievol_ray.errors import SemiEvolError
from semievol_ray.machines import Machines
from semievol_ray.ray_session import draining_nodes, is_connected, most_gpus
from semievol_ray.store import RunDirectory, digest, layout

_POLL_SECONDS = 5.0
_SHOW_SECONDS = 1.0
_PATIENCE_SECONDS = 60.0
_OUT_OF_MEMORY = (
    "a replica ran out of memory: lower generation.batch_rows, model.max_model_len or the replicas "
    "of a node, or raise generation.tensor_parallel"
)

log = logging.getLogger(__name__)

# What each awaited reference is: a replica, and its item, or null for its start.
_Pending = dict[Any, tuple[int, Hashable | None]]


class LivingReplica(Protocol):
    """A replica that was started."""

    # What is asked of `replica.Replica`, by the calls of a Ray actor's handle.
    actor: Any

    def end(self) -> None:
        """Take its process and its resources away."""
        ...


# Takes the replica's number, and the ids of nodes that it is not to run on.
StartReplica = Callable[[int, Collection[str]], LivingReplica]


@dataclass
class _Living:
    """A replica's actor, and the placement group that goes when it goes."""

    actor: Any
    group: Any = None

    def end(self) -> None:
        import ray

        ray.kill(self.actor)
        release(self.group)


class EnginePool:
    """Replicas of one base model. They live until `close`, over any number of maps."""

    def __init__(
        self,
        model: ModelConfig,
        config: GenerationConfig,
        run: RunDirectory,
        *,
        adapter_rank: int | None = None,
        window: int | None = None,
        labels: Sequence[tuple[str, str]] = (),
        corpus: Sequence[str] = (),
        log_folder: Path | None = None,
        start_replica: StartReplica | None = None,
    ) -> None:
        """`start_replica` starts the replicas in place of an actor of Ray for each."""
        self.model = model
        # What is still `auto` is that of a lone replica; a run has decided by now.
        gpus = most_gpus() if is_connected() else 0.0
        self.config = sized(config, model, Machines(gpus=gpus), shards=1, gpus=gpus > 0)
        self.run = run
        self.log_folder = log_folder
        self.options = EngineOptions.of(self.config, adapter_rank, labels, window, corpus)
        self._start = start_replica or self._start_actor
        self._asked_who_goes = 0.0
        self._waiting_since = time.monotonic()
        self._living: dict[int, LivingReplica] = {}
        self._idle: list[LivingReplica] = []
        self._said: set[str] = set()

    def map(
        self,
        work: Work,
        items: Iterable[Hashable],
        *arguments: Any,
        watch: Callable[[FleetState], None] | None = None,
        enough: Callable[[], bool] | None = None,
    ) -> Iterator[Any]:
        """`await work(engine, *arguments, item)` of every item, in the order of completion.

        `watch` is shown the fleet every second at least. Once `enough` is true nothing new is
        begun, and what is in flight is finished.

        Raises what `work` raises (UserError and SemiEvolError unchanged); SemiEvolError where
        replicas keep dying, an item kills its replicas, or nothing moves for `stall_seconds`.
        """
        import ray

        bounds = self.config.replicas
        fleet = Fleet(items, max_deaths=self.config.max_restarts * given(bounds.max))
        metrics, watchdog = FleetMetrics(self.model.name), Watchdog(self.config.stall_seconds)
        answered = Answered()
        pending: _Pending = {}
        try:
            while not fleet.finished:
                if enough is not None and enough():
                    fleet.stop_handing_out()
                self._send_off(fleet)
                for _ in range(fleet.wanted(bounds.min, given(bounds.max))):
                    number = fleet.start()
                    self._living[number] = (
                        self._idle.pop()
                        if self._idle
                        else self._start(
                            number, fleet.suspect_nodes(max(1, self.config.max_restarts))
                        )
                    )
                    pending[self._living[number].actor.ready.remote()] = (number, None)
                while (assignment := fleet.next_assignment()) is not None:
                    pending[self._hand_out(fleet, *assignment, work, arguments)] = assignment
                self._say_what_is_waited_for(fleet)
                state = fleet.state(answered.total({n: self._living[n].actor for n in fleet.ready}))
                metrics.show(state)
                if watch is not None:
                    watch(state)
                done, _ = ray.wait(list(pending), timeout=_SHOW_SECONDS) if pending else ([], [])
                for reference in done:
                    if reference not in pending:
                        continue  # its replica's death was handled with another of its items
                    replica, item = pending.pop(reference)
                    try:
                        result = ray.get(reference)
                    except (
                        ray.exceptions.RayActorError,
                        ray.exceptions.OutOfMemoryError,
                    ) as error:
                        pending = {r: p for r, p in pending.items() if p[0] != replica}
                        self._take_back(fleet, replica, item, work, error)
                        continue
                    except ray.exceptions.RayTaskError as error:
                        if not isinstance(error.cause, EngineDied):
                            raise _cause(error) from error
                        pending = {r: p for r, p in pending.items() if p[0] != replica}
                        self._take_back(fleet, replica, item, work, error.cause)
                        continue
                    watchdog.progressed()
                    if item is None:
                        answered.begin(replica, self._living[replica].actor)
                        fleet.became_ready(replica)
                        fleet.settled_on(replica, result)
                    else:
                        if fleet.needs_isolation(item):
                            self.run.delete_file(_poison_record(self.model, work, item))
                        fleet.completed(replica, item)
                        self._pass_on(result.notes)
                        yield result.result
                if watchdog.is_worried():
                    watchdog.listen({n: self._living[n].actor for n in fleet.ready})
                    if watchdog.is_out_of_patience():
                        raise SemiEvolError(self._stalled(fleet))
        finally:
            # Replicas still busy with work that nobody waits for any more are of no use.
            busy = {replica for replica, item in pending.values()}
            for number, living in self._living.items():
                if number in busy:
                    living.end()
                else:
                    self._idle.append(living)
            self._living.clear()

    def close(self) -> None:
        """Stop every replica and give its resources back to the cluster."""
        import ray

        for living in self._idle:
            with contextlib.suppress(ray.exceptions.RayError):
                ray.get(living.actor.close.remote(), timeout=30)
            living.end()
        self._idle.clear()

    def _pass_on(self, notes: Iterable[str]) -> None:
        """Say what engines have to say, each thing once however many replicas say it."""
        for note in notes:
            if note not in self._said:
                self._said.add(note)
                log.warning("%s", note)

    def _hand_out(
        self, fleet: Fleet, replica: int, item: Hashable, work: Work, arguments: tuple[Any, ...]
    ) -> Any:
        actor = self._living[replica].actor
        if not fleet.needs_isolation(item):
            return actor.run.remote(work, *arguments, item)
        record = _poison_record(self.model, work, item)
        return actor.run_isolated.remote(self.run, record, work, *arguments, item)

    def _send_off(self, fleet: Fleet) -> None:
        """Replicas on machines that are going finish what they hold, and end."""
        now = time.monotonic()
        if fleet.nodes and now - self._asked_who_goes > _POLL_SECONDS:
            self._asked_who_goes = now
            going = draining_nodes()
            for replica in list(fleet.ready):
                if fleet.nodes.get(replica) in going:
                    fleet.leave(replica)
        for replica in fleet.left:
            fleet.gone(replica)
            self._living.pop(replica).end()

    def _take_back(
        self, fleet: Fleet, replica: int, item: Hashable | None, work: Work, error: Exception
    ) -> None:
        """Take a dead replica's work back. Raises SemiEvolError where it was one too many."""
        living = self._living.pop(replica, None)
        if living is not None:
            living.end()
        isolated = item is not None and fleet.needs_isolation(item)
        lost = fleet.died(replica, with_its_machine=_machine_is_gone(error))
        if isolated and not self.run.exists(_poison_record(self.model, work, item)):
            # It died before any request was made: no row is to blame.
            lost = [item]
        self._check_losses(fleet, lost, error)

    def _start_actor(self, number: int, avoided: Collection[str]) -> LivingReplica:
        import ray

        log_file = None
        if self.log_folder is not None:
            name = "".join(c if c.isalnum() else "-" for c in self.model.name.split("/")[-1])
            log_file = str(self.log_folder / f"replica-{name}-{number}.log")
        # max_restarts stays 0: a dead replica is replaced by a new one, never revived.
        actor, group = place(ray.remote(Replica), self.config, avoided)
        engine = ENGINES[self.model.engine]
        return _Living(actor.remote(self.model, self.run, log_file, self.options, engine), group)

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
                f"model {self.model.name}: replicas died {fleet.deaths_in_a_row} times in a row "
                f"({reason}){where}"
            )

    def _say_what_is_waited_for(self, fleet: Fleet) -> None:
        """Once a minute, while no replica is there and one that is to start finds no room."""
        import ray

        now = time.monotonic()
        if fleet.ready or not fleet.starting:
            self._waiting_since = now
        elif now - self._waiting_since > _PATIENCE_SECONDS:
            self._waiting_since = now
            free = ray.available_resources()
            cpus, gpus = given(self.config.cpus_per_replica), self.config.gpus_per_replica or 0
            if free.get("CPU", 0) < cpus or free.get("GPU", 0) < gpus:
                log.warning("waiting for room for a replica of %s: %s", self.model.name, self._room)

    @property
    def _room(self) -> str:
        gpus = self.config.gpus_per_replica
        return f"{self.config.cpus_per_replica:g} CPUs" + (f" and {gpus:g} GPUs" if gpus else "")

    def _stalled(self, fleet: Fleet) -> str:
        held = {r: [str(i) for i in items] for r, items in fleet.ready.items() if items}
        return (
            f"model {self.model.name}: no progress for {self.config.stall_seconds:.0f} s; "
            f"{len(fleet.starting)} replicas are starting, in flight: {held or 'nothing'}; is "
            f"there room for one replica ({self._room})?"
        )


def _poison_record(model: ModelConfig, work: Work, item: Hashable) -> str:
    """Where the requests in flight of an item under suspicion are written down."""
    return f"{layout.ISOLATION}/{digest([model.name, work.__name__, str(item)])}.json"


def _cause(error: Any) -> Exception:
    """What was raised inside a replica, as the driver should raise it."""
    cause = error.cause
    if isinstance(cause, SemiEvolError):
        return cause
    if type(cause).__name__ in ("OutOfMemoryError", "MemoryError"):
        return SemiEvolError(_OUT_OF_MEMORY)
    reason = " ".join(str(cause).split())[:300]
    return SemiEvolError(f"a replica failed: {type(cause).__name__}: {reason}")


def _machine_is_gone(error: Exception) -> bool:
    """Whether an actor died because its node did: pre-empted, drained, or cut off."""
    if getattr(error, "preempted", False):
        return True
    return bool(re.search(r"node (died|was|has)|node is dead|preempt", str(error), re.IGNORECASE))


def _death_reason(error: Exception) -> str:
    """How an actor died, in one line."""
    if type(error).__name__ == "OutOfMemoryError":
        return _OUT_OF_MEMORY
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__
