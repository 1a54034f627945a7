"""When the next request may go to an endpoint: the configured rate, and what the endpoint says.

Its replies say how many requests and tokens are left and when there will be as many as ever
(`x-ratelimit-remaining-requests`, `x-ratelimit-reset-requests`, the same of tokens). Where there is
not enough left for one more, all wait. What other replicas use is in these numbers too.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

# Limits are by the minute. Where a day's is used up, a request now and then finds out when it ends.
_LONGEST_WAIT = 60.0
_SECONDS = {"ms": 1e-3, "s": 1.0, "": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PERIOD = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|)")


@dataclass
class _Left:
    """What may still be used until the loop's clock is at `until`; then it is as much as ever."""

    count: float = math.inf
    until: float = 0.0

    def seconds(self, need: float, now: float) -> float:
        """How long to wait for so much."""
        return self.until - now if self.count < need else 0.0


class Pace:
    """The pace of all the requests of one engine."""

    def __init__(self, requests_per_minute: float | None) -> None:
        self._gap = 60 / requests_per_minute if requests_per_minute else 0.0
        self._next_at = self._paused_until = 0.0
        self._left = {"requests": _Left(), "tokens": _Left()}
        # Of the largest request until now, its reply included.
        self._tokens = 0

    async def turn(self) -> None:
        """Wait until one more request may be sent."""
        clock = asyncio.get_running_loop().time
        need = {"requests": 1, "tokens": self._tokens}
        while (wait := self._seconds(need, clock())) > 0:
            await asyncio.sleep(wait)
        for kind, left in self._left.items():
            left.count -= need[kind]
        now = clock()
        self._next_at = max(self._next_at, now) + self._gap
        await asyncio.sleep(self._next_at - self._gap - now)

    def _seconds(self, need: Mapping[str, float], now: float) -> float:
        waits = (left.seconds(need[kind], now) for kind, left in self._left.items())
        return max(*waits, self._paused_until - now)

    def pause(self, seconds: float) -> None:
        """The endpoint is too busy: no request goes to it for so long."""
        until = asyncio.get_running_loop().time() + min(seconds, _LONGEST_WAIT)
        self._paused_until = max(self._paused_until, until)

    def heard(self, headers: Mapping[str, str], tokens: int) -> None:
        """What came with a reply, and what it used."""
        self._tokens = max(self._tokens, tokens)
        now = asyncio.get_running_loop().time()
        for kind, left in self._left.items():
            remaining = headers.get(f"x-ratelimit-remaining-{kind}", "")
            reset = seconds_of(headers.get(f"x-ratelimit-reset-{kind}", ""))
            if remaining.isdecimal() and reset is not None:
                left.count, left.until = float(remaining), now + min(reset, _LONGEST_WAIT)


def seconds_of(period: str) -> float | None:
    """`6m0s`, `17ms` or `1.5` in seconds; null for what is no period."""
    parts = _PERIOD.findall(period)
    if not parts or "".join(number + unit for number, unit in parts) != period:
        return None
    return sum(float(number) * _SECONDS[unit] for number, unit in parts)
