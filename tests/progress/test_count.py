"""How much of a stage is done, as it is shown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semievol_ray.engines import FleetState
from semievol_ray.progress.count import Count
from semievol_ray.progress.live import live_line
from semievol_ray.progress.terminal import PlainProgress


def test_what_is_answered_within_a_shard_shows_before_it_is_kept() -> None:
    count = Count(400, "responses")
    count.answer(30)
    assert count.done == 30
    count.answer(100)
    count.keep(100)
    assert count.done == 100
    count.answer(110)
    assert count.done == 110


def test_shards_and_steps_are_counted_when_they_are_kept() -> None:
    count = Count(10, "shards")
    count.answer(5000)
    count.keep(1)
    assert count.done == 1


def test_within_a_shard_answers_are_told_whoever_gives_them(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("semievol_ray.progress.terminal._PLAIN_EVERY_SECONDS", 0.0)
    progress = PlainProgress()
    progress.start("justify", 4, "shards")
    progress.fleet("justify", FleetState(1, 0, 3, 1, 0, 0, answered=30))
    # Other replicas begin at nothing.
    progress.fleet("justify", FleetState(1, 0, 3, 1, 0, 0, answered=5))
    said = capsys.readouterr().err.splitlines()
    assert "0/4 shards" in said[0] and "30 answers" in said[0] and "35 answers" in said[1]
    live = {"stage": "justify", "unit": "shards", "total": 4, "done": 0, "tokens": 0,
            "started": 0.0, "at": 10.0, "answers": 35}  # fmt: skip
    assert live_line(live, 10.0).startswith("justify: 0/4 shards, 35 answers, 3.5/s")


def test_the_next_models_replicas_count_from_nothing() -> None:
    count = Count(400, "answers")
    count.answer(200)
    count.keep(200)
    count.answer(0)
    count.answer(50)
    assert count.done == 250


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 60)), max_size=40), st.integers(1, 1000))
def test_it_never_goes_back_and_never_beyond_the_total(
    events: list[tuple[bool, int]], total: int
) -> None:
    count, shown, kept = Count(total, "responses"), 0, 0
    for is_kept, number in events:
        if is_kept:
            number = min(number, total - kept)
            kept += number
            count.keep(number)
        else:
            count.answer(number)
        assert max(shown, kept) <= count.done <= total
        shown = count.done


def test_a_log_tells_of_a_shard_that_is_not_done(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("semievol_ray.progress.terminal._PLAIN_EVERY_SECONDS", 0.0)
    progress = PlainProgress()
    progress.start("generate", 400, "responses")
    state = FleetState(1, 0, 3, 2, deaths=0, retries=0, answered=40)
    progress.fleet("generate", state)
    said = capsys.readouterr().err
    assert said.startswith("generate: 40/400 responses, ") and "s left" in said


def test_status_tells_of_it_too() -> None:
    values = {"stage": "generate", "unit": "responses", "total": 400, "done": 40, "tokens": 0,
              "started": 0.0, "at": 10.0}  # fmt: skip
    assert live_line(values, 10.0).startswith("generate: 40/400 responses, 4.0 responses/s, 90 s")
