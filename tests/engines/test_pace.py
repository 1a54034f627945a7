"""The pace that an endpoint's headers allow."""

from __future__ import annotations

import asyncio

import pytest

from semievol_ray.engines.pace import Pace, seconds_of


def test_periods_as_endpoints_write_them() -> None:
    written = {"6m0s": 360, "17ms": 0.017, "1.5s": 1.5, "20": 20, "1h2m3s": 3723}
    assert {text: seconds_of(text) for text in written} == pytest.approx(written)
    assert [seconds_of(text) for text in ("", "soon", "2026-01-01T00:00:00Z")] == [None] * 3


@pytest.mark.parametrize("kind", ["requests", "tokens"])
def test_what_is_used_up_is_waited_for(kind: str) -> None:
    async def run() -> list[float]:
        pace, clock = Pace(None), asyncio.get_running_loop().time
        left = {"requests": "2", "tokens": "20"}[kind]
        headers = {f"x-ratelimit-remaining-{kind}": left, f"x-ratelimit-reset-{kind}": "300ms"}
        pace.heard(headers, tokens=10)
        start = clock()
        times = []
        for _ in range(4):
            await pace.turn()
            times.append(clock() - start)
        return times

    times = asyncio.run(run())
    assert times[1] < 0.25 and times[2] >= 0.25 and times[3] < times[2] + 0.25
