"""Who works on what: the pure state machine behind an engine pool.

Items wait, are in flight on one replica, or are done. A replica is starting, ready or dead.
There is no way back from dead: a replacement is a new replica with a new number, so work can
never return to the process that lost it. A replica whose machine is going is leaving: it finishes
what it holds and gets nothing new. An item that was in flight when a replica died is
suspected, and runs alone from then on: after a second death it is to be done in isolation, so that
what kills is found inside it, and after `max_attempts` it is given up.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field

# Deaths with an item after which it is done in isolation: the first may have been another's fault.
_DEATHS_BEFORE_ISOLATION = 2

# One shard is worked on while the next is read, so that the engine never waits.
IN_FLIGHT_PER_REPLICA = 2


@dataclass(frozen=True)
class FleetState:
    """A fleet at one moment: replicas by state, items by state, and what has gone wrong so far."""

    ready: int
    starting: int
    waiting: int
    in_flight: int
    deaths: int
    retries: int
    # Requests that engines have answered since the map began, of items too that are in flight.
    answered: int = 0


@dataclass
class Fleet:
    """Bookkeeping of one map over items."""

    items: Iterable[Hashable]
    max_deaths: int
    max_attempts: int = 20
    waiting: deque[Hashable] = field(init=False)
    starting: set[int] = field(default_factory=set)
    ready: dict[int, list[Hashable]] = field(default_factory=dict)
    attempts: dict[Hashable, int] = field(default_factory=dict)
    # Replicas that end when they have done what they hold: their machine is going.
    leaving: set[int] = field(default_factory=set)
    nodes: dict[int, str] = field(default_factory=dict)
    deaths_on: Counter[str] = field(default_factory=Counter)
    deaths: int = 0
    deaths_in_a_row: int = 0
    retries: int = 0
    _numbers: int = 0

    def __post_init__(self) -> None:
        self.waiting = deque(self.items)

    @property
    def size(self) -> int:
        """Replicas that live or are about to, without those that are leaving."""
        return len((self.starting | self.ready.keys()) - self.leaving)

    @property
    def in_flight(self) -> int:
        """Items that some replica holds."""
        return sum(map(len, self.ready.values()))

    def state(self, answered: int = 0) -> FleetState:
        """The fleet in figures."""
        return FleetState(
            len(self.ready),
            len(self.starting),
            len(self.waiting),
            self.in_flight,
            self.deaths,
            self.retries,
            answered,
        )

    @property
    def finished(self) -> bool:
        """Nothing waits and nothing is in flight."""
        return not self.waiting and not self.in_flight

    def wanted(self, smallest: int, largest: int) -> int:
        """How many replicas to start now: enough for what waits, within the bounds."""
        useful = self.size + -(-len(self.waiting) // IN_FLIGHT_PER_REPLICA)
        return max(0, min(largest, max(smallest, useful)) - self.size) if self.waiting else 0

    def start(self) -> int:
        """A new replica's number."""
        self._numbers += 1
        self.starting.add(self._numbers)
        return self._numbers

    def became_ready(self, replica: int) -> None:
        """A replica has loaded its engine."""
        self.starting.discard(replica)
        self.ready[replica] = []

    def next_assignment(self) -> tuple[int, Hashable] | None:
        """The next item and who takes it; null where nobody has room or nothing waits.

        A suspected item is only given out alone, so that its next death clears the others.
        """
        if not self.waiting:
            return None
        suspect = self.attempts.get(self.waiting[0], 0) > 0
        room = 1 if suspect else IN_FLIGHT_PER_REPLICA
        free = [
            (len(held), replica)
            for replica, held in self.ready.items()
            if replica not in self.leaving
            and len(held) < room
            and not any(self.attempts.get(item, 0) for item in held)
        ]
        if not free:
            return None
        _, replica = min(free)
        item = self.waiting.popleft()
        self.ready[replica].append(item)
        return replica, item

    def needs_isolation(self, item: Hashable) -> bool:
        """Whether replicas died of this item alone."""
        return self.attempts.get(item, 0) >= _DEATHS_BEFORE_ISOLATION

    def completed(self, replica: int, item: Hashable) -> None:
        """An item's work is committed."""
        self.ready[replica].remove(item)
        self.deaths_in_a_row = 0
        self.deaths_on.pop(self.nodes.get(replica, ""), None)

    def leave(self, replica: int) -> None:
        """A replica's machine is going: it gets nothing new, and another takes its place."""
        self.leaving.add(replica)

    @property
    def left(self) -> list[int]:
        """Replicas that are leaving and hold nothing any more."""
        return [replica for replica in self.leaving if not self.ready.get(replica)]

    def gone(self, replica: int) -> None:
        """A replica that was leaving has ended."""
        self.leaving.discard(replica)
        self.starting.discard(replica)
        self.ready.pop(replica, None)

    def died(self, replica: int, *, with_its_machine: bool = False) -> list[Hashable]:
        """A replica is gone; its items wait again, first in the queue.

        Returns the items that have now been given up. Where its machine is gone, or was going,
        nobody is to blame.
        """
        blameless = with_its_machine or replica in self.leaving
        self.leaving.discard(replica)
        self.starting.discard(replica)
        held = self.ready.pop(replica, [])
        if blameless:
            self.waiting.extendleft(reversed(held))
            self.retries += len(held)
            return []
        # Of what a suspect does, running alone, the replicas are not guilty.
        guilty = not any(self.attempts.get(item, 0) for item in held)
        self.deaths += guilty
        self.deaths_in_a_row += guilty
        if guilty and replica in self.nodes:
            self.deaths_on[self.nodes[replica]] += 1
        lost = []
        for item in reversed(held):
            self.attempts[item] = self.attempts.get(item, 0) + 1
            if self.attempts[item] >= self.max_attempts:
                lost.append(item)
            else:
                self.waiting.appendleft(item)
                self.retries += 1
        return lost

    def stop_handing_out(self) -> None:
        """Nothing new is begun; what is in flight is finished."""
        self.waiting.clear()

    @property
    def hopeless(self) -> bool:
        """Replicas died more often in a row than allowed: something is wrong with all of them.

        In a row: in a run of weeks some die, and as long as work gets done that is no reason to
        end it.
        """
        return self.deaths_in_a_row > self.max_deaths

    def settled_on(self, replica: int, node: str) -> None:
        """Which machine a replica runs on."""
        self.nodes[replica] = node

    def suspect_nodes(self, deaths: int) -> set[str]:
        """Machines on which so many replicas died since one of them last completed an item."""
        return {node for node, count in self.deaths_on.items() if count >= deaths}
