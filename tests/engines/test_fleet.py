"""The fleet's state machine, without Ray: work is never lost, never returned to the dead."""

from __future__ import annotations

import random

from semievol_ray.engines.fleet import IN_FLIGHT_PER_REPLICA, Fleet


def fleet(items: int, replicas: int, **limits) -> Fleet:
    found = Fleet(range(items), **{"max_deaths": 100, **limits})
    for _ in range(replicas):
        found.became_ready(found.start())
    return found


def test_every_item_is_given_once_and_replicas_are_filled_evenly() -> None:
    state = fleet(10, 2)
    given = []
    while (assignment := state.next_assignment()) is not None:
        given.append(assignment)
    assert [item for _, item in given] == list(range(2 * IN_FLIGHT_PER_REPLICA))
    assert {len(held) for held in state.ready.values()} == {IN_FLIGHT_PER_REPLICA}


def test_a_dead_replicas_work_comes_first_and_goes_to_another() -> None:
    state = fleet(6, 2)
    first = state.next_assignment()
    assert first is not None
    assert state.died(first[0]) == []
    again = state.next_assignment()
    assert again is not None and again[1] == first[1] and again[0] != first[0]


def test_a_suspect_runs_alone_and_is_given_up() -> None:
    state = fleet(5, 1, max_attempts=3)
    suspect = state.next_assignment()
    other = state.next_assignment()
    assert suspect and other
    assert state.died(suspect[0]) == []
    for _ in range(2):
        replica = state.start()
        state.became_ready(replica)
        alone = state.next_assignment()
        assert alone is not None and alone[1] == suspect[1]
        assert state.next_assignment() is None, "nothing may share a replica with a suspect"
        lost = state.died(replica)
    assert lost == [suspect[1]]


def test_too_many_deaths_are_hopeless() -> None:
    state = fleet(3, 1, max_deaths=1)
    state.died(1)
    assert not state.hopeless
    state.died(state.start())
    assert state.hopeless


def test_deaths_count_in_a_row_and_not_in_weeks() -> None:
    state = fleet(100, 1, max_deaths=1, max_attempts=10**9)
    for _ in range(20):
        number = state.start()
        state.became_ready(number)
        assignment = state.next_assignment()
        assert assignment is not None
        state.completed(*assignment)
        state.died(assignment[0])
        assert not state.hopeless
    assert state.deaths == 20


def test_a_machine_that_goes_is_nobodys_fault() -> None:
    state = fleet(10, 2, max_deaths=0, max_attempts=1)
    for replica in (1, 2):
        assert state.next_assignment() is not None
        assert state.died(replica, with_its_machine=True) == [], "its work is given to others"
    assert not state.hopeless and state.deaths == 0
    assert [state.waiting.popleft() for _ in range(3)] == [0, 1, 2]


def test_a_replica_that_leaves_finishes_and_gets_nothing_new() -> None:
    state = fleet(10, 2)
    first = state.next_assignment()
    assert first is not None
    state.leave(first[0])
    assert state.wanted(1, 2) == 1, "another takes its place"
    others = {replica for replica, _ in iter(state.next_assignment, None)}
    assert first[0] not in others
    assert state.left == []
    state.completed(*first)
    assert state.left == [first[0]]
    state.gone(first[0])
    assert state.left == [] and first[0] not in state.ready


def test_a_node_on_which_replicas_keep_dying_is_known() -> None:
    state = fleet(10, 0)
    for node in ("bad", "bad", "good"):
        number = state.start()
        state.became_ready(number)
        state.settled_on(number, node)
        if node == "bad":
            state.died(number)
    assert state.suspect_nodes(2) == {"bad"}


def test_no_more_replicas_than_work() -> None:
    assert fleet(3, 0).wanted(1, 64) == 2
    assert fleet(0, 0).wanted(1, 64) == 0
    assert fleet(1000, 0).wanted(1, 4) == 4


def test_a_storm_of_deaths_loses_nothing() -> None:
    rng = random.Random(7)
    state = Fleet(range(500), max_deaths=10**9, max_attempts=10**9)
    done: set[object] = set()
    while not state.finished:
        for _ in range(state.wanted(1, 5)):
            state.start()
        for number in list(state.starting):
            if rng.random() < 0.1:
                state.died(number)
            else:
                state.became_ready(number)
        while state.next_assignment() is not None:
            pass
        for replica, held in list(state.ready.items()):
            if rng.random() < 0.2:
                state.died(replica)
            elif held:
                item = rng.choice(held)
                state.completed(replica, item)
                assert item not in done
                done.add(item)
    assert done == set(range(500))
